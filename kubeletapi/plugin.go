// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"

	"qatplugin/devtree"
)

// A Plugin watches the host and reports its devices. The methods of the optional
// interfaces run concurrently with Watch and with each other. They get the context of
// the kubelet's call; the package comment says what becomes of their errors.
//
// A Plugin that wraps another, for example to count calls, should have a method Unwrap() Plugin
// that returns the wrapped Plugin. For each optional interface, the Manager uses the first Plugin
// in the chain that implements it, as [errors.As] does. So a wrapper need not implement the
// optional interfaces of the Plugin that it wraps.
type Plugin interface {
	// Watch is called once. It calls publish with a new Tree whenever the devices change,
	// and returns when ctx ends, while the other methods may still run. An error ends the
	// Manager. If Watch returns nil before ctx ends, the devices no longer change, and
	// the Manager continues to serve the last Tree.
	//
	// Any goroutine may call publish, which never waits for the kubelet. The last call
	// wins. A resource that a Tree omits becomes empty, and is withdrawn from the kubelet
	// once all Trees have omitted it for five minutes. Use Edit or After of the previous Tree,
	// so that unchanged devices cost nothing. Both keep a resource that has become empty; use
	// [devtree.Builder.Drop] to omit it.
	Watch(ctx context.Context, publish func(*devtree.Tree)) error
}

// ErrUseDefault is returned by an [Allocator] or a [PreferredAllocator] that leaves the
// decision to the default.
var ErrUseDefault = errors.New("use the default allocation")

// An Allocator is a Plugin that decides what a container gets. Without it, a container
// gets the ContainerEdits of its devices, merged in the order of the kubelet's request. Edits
// of an Allocator or a PostAllocator that Validate rejects fail the request.
type Allocator interface {
	// Allocate is called once for each container, with known and healthy devices in the
	// order of the kubelet's request. The result replaces the devices' ContainerEdits,
	// CDI names included; Merge them to keep them. [ErrUseDefault], or nil without an
	// error, selects the default.
	Allocate(ctx context.Context, resource string, devices []*devtree.Device) (*devtree.ContainerEdits, error)
}

// A PostAllocator is a Plugin that modifies what a container gets.
type PostAllocator interface {
	// PostAllocate is called once for each container before the answer is sent. It may
	// modify edits, which belong to this container and whose maps are never nil. Its changes
	// are final: the CDI spec of a device whose edits it changes is not used (see [WithCDI]).
	PostAllocate(ctx context.Context, resource string, devices []*devtree.Device, edits *devtree.ContainerEdits) error
}

// A PreferredAllocator is a Plugin that prefers some combinations of devices over others.
type PreferredAllocator interface {
	// PreferredAllocation returns at most size IDs: all of mustInclude, healthy or not,
	// and some of available, which are healthy. The kubelet chooses the rest, and all
	// devices after [ErrUseDefault], no IDs, or IDs that break these rules, which is
	// logged. A device of mustInclude that left the Tree is NotFound, without this call.
	PreferredAllocation(
		ctx context.Context, resource string, available, mustInclude []*devtree.Device, size int,
	) ([]string, error)
}

// A ContainerPreStarter is a Plugin that prepares devices before each container start.
type ContainerPreStarter interface {
	// PreStartContainer must return within 30 seconds
	// (v1beta1.KubeletPreStartContainerRPCTimeoutInSecs). An error prevents the start.
	// Devices may be unhealthy. One that left the Tree is NotFound, without this call.
	PreStartContainer(ctx context.Context, resource string, devices []*devtree.Device) error
}

// A ReadyChecker is a Plugin that adds a check to /readyz; see [Main].
type ReadyChecker interface {
	// CheckReady returns an error if the plugin cannot do its work, for example because it
	// cannot read a directory. It must return when ctx ends.
	CheckReady(ctx context.Context) error
}

// methods holds the optional interfaces of a Plugin. A field is nil if the Plugin does not
// implement the interface.
type methods struct {
	allocator     Allocator
	postAllocator PostAllocator
	preferrer     PreferredAllocator
	preStarter    ContainerPreStarter
	readyChecker  ReadyChecker
}

func methodsOf(p Plugin) methods {
	return methods{
		allocator:     find[Allocator](p),
		postAllocator: find[PostAllocator](p),
		preferrer:     find[PreferredAllocator](p),
		preStarter:    find[ContainerPreStarter](p),
		readyChecker:  find[ReadyChecker](p),
	}
}

// find returns the first of plugin and the values that it wraps that implements T, or nil.
func find[T any](plugin Plugin) (found T) {
	for next := any(plugin); next != nil; {
		if t, ok := next.(T); ok {
			return t
		}
		switch wrapper := next.(type) {
		case interface{ Unwrap() Plugin }:
			next = wrapper.Unwrap()
		case interface{ Unwrap() Scanner }:
			next = wrapper.Unwrap()
		default:
			return found
		}
	}
	return found
}
