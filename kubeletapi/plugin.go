// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"

	"qatplugin/devtree"
)

// A Plugin watches the host and reports its devices. Its methods, including those of the
// optional interfaces, may be called from several goroutines at once.
type Plugin interface {
	// Watch calls publish with a new Tree whenever the devices change, and returns when ctx
	// ends. publish may be called from any goroutine and never waits for the kubelet; the last
	// call wins. An error ends the Manager. If Watch returns nil before ctx ends, the devices no
	// longer change, and the Manager continues to serve the last Tree.
	Watch(ctx context.Context, publish func(*devtree.Tree)) error
}

// ErrUseDefault is returned by an [Allocator] or a [PreferredAllocator] that leaves the
// decision to the default.
var ErrUseDefault = errors.New("use the default allocation")

// An Allocator is a Plugin that decides what a container gets. Without it, a container
// gets the ContainerEdits of its devices, merged in the order of the kubelet's request.
type Allocator interface {
	// Allocate is called once for each container, with known and healthy devices in the
	// order of the kubelet's request. [ErrUseDefault], or nil without an error, selects
	// the default. Any other error fails the whole request.
	Allocate(ctx context.Context, resource string, devices []*devtree.Device) (*devtree.ContainerEdits, error)
}

// A PostAllocator is a Plugin that modifies what a container gets.
type PostAllocator interface {
	// PostAllocate is called once for each container before the answer is sent. It may
	// modify edits, which belong to this container and whose maps are never nil. An error
	// fails the whole request. If it wraps [devtree.ErrGone] or [devtree.ErrUnfit], the
	// kubelet receives NotFound or FailedPrecondition.
	PostAllocate(ctx context.Context, resource string, devices []*devtree.Device, edits *devtree.ContainerEdits) error
}

// A PreferredAllocator is a Plugin that prefers some combinations of devices over others.
type PreferredAllocator interface {
	// PreferredAllocation returns the IDs of size available devices, including all of
	// mustInclude. [ErrUseDefault], or no IDs without an error, means no preference: the
	// kubelet then chooses itself. So it does if the choice breaks these rules, which is
	// logged. Any other error fails the request.
	PreferredAllocation(
		ctx context.Context, resource string, available, mustInclude []*devtree.Device, size int,
	) ([]string, error)
}

// A ContainerPreStarter is a Plugin that prepares devices before each container start.
type ContainerPreStarter interface {
	// PreStartContainer must return within 30 seconds
	// (v1beta1.KubeletPreStartContainerRPCTimeoutInSecs). An error prevents the start.
	PreStartContainer(ctx context.Context, resource string, devices []*devtree.Device) error
}
