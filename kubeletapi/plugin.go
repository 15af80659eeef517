package kubeletapi

import (
	"context"
	"errors"

	"qatplugin/devtree"
)

// A Plugin watches the host and reports its devices. All its methods, those of the optional interfaces included, may be called from
// several goroutines at once.
type Plugin interface {
	// Watch calls publish with a new Tree whenever the devices changed, and returns when ctx ends. publish never waits for the
	// kubelet and may be called from any goroutine; the last call wins. An error ends the Manager. A return without an error, though
	// ctx lives, says that nothing will change any more: the last Tree stays served.
	Watch(ctx context.Context, publish func(*devtree.Tree)) error
}

// ErrUseDefault is what an [Allocator] returns for devices that need nothing but their own ContainerEdits.
var ErrUseDefault = errors.New("use the default allocation")

// Allocator is a Plugin that says itself what a container gets. Without it a container gets the ContainerEdits of its devices,
// merged in the order in which the kubelet names the devices.
type Allocator interface {
	// Allocate is called once for each container, with devices that are all known and healthy, in the order of the kubelet's request.
	// [ErrUseDefault], or nil without an error, asks for the default. Any other error refuses the whole request.
	Allocate(ctx context.Context, resource string, devices []*devtree.Device) (*devtree.ContainerEdits, error)
}

// PostAllocator is a Plugin that has the last word on what a container gets.
type PostAllocator interface {
	// PostAllocate is called once for each container just before the answer is sent. It may change edits, which is a copy made for
	// this container; its Env and Annotations are never nil. An error refuses the whole request;
	// one that wraps [devtree.ErrGone] or [devtree.ErrUnfit] tells the kubelet NotFound or FailedPrecondition.
	PostAllocate(ctx context.Context, resource string, devices []*devtree.Device, edits *devtree.ContainerEdits) error
}

// PreferredAllocator is a Plugin that knows which devices go well together. When it also has a method PreferenceAvailable() bool, the
// kubelet is told of it only while that says true.
type PreferredAllocator interface {
	// PreferredAllocation chooses size of the available devices, all of mustInclude among them, and returns their IDs. The kubelet takes
	// it as advice; a choice that breaks these rules is logged and not passed on.
	PreferredAllocation(ctx context.Context, resource string, available, mustInclude []*devtree.Device, size int) ([]string, error)
}

// ContainerPreStarter is a Plugin that prepares devices each time before a container with them starts.
type ContainerPreStarter interface {
	// PreStartContainer has 30 seconds (v1beta1.KubeletPreStartContainerRPCTimeoutInSecs). An error keeps the container from starting.
	PreStartContainer(ctx context.Context, resource string, devices []*devtree.Device) error
}

// preferenceAvailable is the method by which a PreferredAllocator can withdraw its offer.
type preferenceAvailable interface {
	PreferenceAvailable() bool
}
