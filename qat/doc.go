// Package qat knows Intel QuickAssist (QAT) devices: it follows the virtual functions (VFs) of a host, binds them to the driver that
// user space drives them through, and reports those that can be used as a [devtree.Tree].
//
// A [Plugin] listens to the sources of events that it is given, looks at all of sysfs once, and from then on only at what an event names.
// An event is never believed: it says where to look, and sysfs says what is true. So the Tree does not depend on the order of
// events; after a loss, which a source tells, everything is looked at once. A slow audit checks that nothing was missed. The one
// exception are PCI errors, which sysfs does not show. That events arrive at all is proven at the start, by one that the kernel is asked for.
//
// What is not in sysfs is asked for: each PF's heartbeat, on a timer and by one reader. Writes to sysfs, to bind VFs, go beside
// the looking, so that a device that makes a writer wait makes nobody else wait.
//
// One goroutine holds all state (loop.go, fold.go, place.go); those of the sources only mark what to look at, and those of the writers and of the
// heartbeat's readers end by marking too. The package knows nothing of gRPC or the kubelet.
package qat
