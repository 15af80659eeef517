// SPDX-License-Identifier: Apache-2.0

// Package kubeletapi serves the devices of a device plugin to the kubelet, through the
// device plugin API v1beta1.
//
// The author of a plugin implements [Plugin], whose one method publishes a new
// [devtree.Tree] whenever the devices change. A [Manager] does the rest: a gRPC server
// and a socket for each resource, registration, ListAndWatch and Allocate. [FromScanner]
// turns a loop that polls its devices into a Plugin. [Main] runs a Manager with flags, signal
// handling and health checks, as the whole main function of a plugin. A plugin may also implement
// [Allocator], [PostAllocator], [PreferredAllocator] or [ContainerPreStarter]; the Manager detects
// them. With [WithCDI], the devices are also devices of the Container Device Interface.
// [Manager.Resources] returns the state of each resource at the kubelet, and an [Observer] receives
// each action of the Manager, for metrics. See docs/writing-a-plugin.md for a guide.
//
// # Guarantees
//
// A connected kubelet receives the newest list. A change is sent at once if the previous list was
// sent at least 20 ms before. After a second without any list, the first ten lists are sent at
// once, whatever the time between them. Otherwise the stream gathers changes for a while: 2 ms at
// first, then twice as long for each further list, up to 20 ms. It stops earlier if nothing changes
// for a tenth of that time. So no change is held back for longer than 20 ms. Once that time has
// grown to 20 ms and while changes come every 2 ms or faster, a list covers at least ten changes.
// Changes that occur while a stream sends a list go into the next list together. A stream never
// skips the newest list, and never sends a list that equals its previous one. A slow reader delays
// only its own stream, and publish never waits for the kubelet, a stream or the CDI directory.
//
// A resource is registered from the first Tree that has it, with an empty list if it has no
// devices. It stays registered until Run ends, or until the Trees have omitted it for five minutes,
// as after [devtree.Builder.Drop]. The kubelet removes it from the node five minutes later. Its
// socket is only created while kubelet.sock exists, because only the kubelet connects to it, and
// the kubelet deletes all sockets when it starts. The socket's name is
// "<namespace>-<resource>.sock". If that is too long for a socket or the namespace contains '-',
// the name ends in a hash of both, and is shortened if necessary. The log contains the name at
// V(1).
//
// Allocate answers from the newest Tree, for all containers of a request or for none.
// With [WithCDI], a Tree is used once the attempt to write its specs is over. The error
// for an unknown device is NotFound and for an unhealthy one FailedPrecondition, with its
// reason. If a method of the plugin fails, so does the request: [devtree.ErrGone] becomes
// NotFound, [devtree.ErrUnfit] FailedPrecondition, and a context error its own code. A
// gRPC status is kept. Any other error is Unknown.
//
// The kubelet may start, stop, hang, refuse a registration or delete a socket, and its
// directory may be removed and created, at any time and in any order. When there is a new
// kubelet.sock, all resources are registered again and their newest lists sent, at once.
// When only a stream ends, its resource is registered again after 100 ms, or up to 10 s
// if streams keep ending. What fails is retried with exponential back-off, at most 10 s.
//
// A socket that another process serves is never touched, so two Managers do not disturb
// each other. The Manager logs an error. It takes over, and registers 100 ms later, when
// that process removes the socket, or with the next retry after it was killed.
//
// # Goroutines, timers and logs
//
// Run owns all goroutines and returns when they have ended, unless a method of the plugin
// does not return in time. The Manager watches the kubelet's directory with inotify. At the latest
// 10 s after everything is registered, only one timer is left: every 10 s, the Manager checks that
// the path still leads to the directory that it watches. So it notices a changed symbolic link, a
// renamed parent directory and a mount, none of which need cause an inotify event. If inotify is
// not available, the Manager logs an error and polls every two seconds. The CDI directory is
// watched too. It is polled every two seconds if inotify is not available, or while another process
// has one of the devices.
//
// The Manager logs to the klog logger of Run's context ([klog.FromContext]):
// registrations and restarts of the kubelet at V(0), its own life cycle at V(1), changes
// of state at V(2) and every list that it sends at V(4). An error that persists is logged
// when it first occurs, when it changes, and every ten minutes.
//
// # Limits
//
// The kubelet accepts lists of up to 4 MiB, which is about 100,000 devices. If a list is longer,
// the kubelet receives as many devices as fit, in the order of their IDs, and the log and
// [Manager.CheckRegistered] report it. A request may have up to 4 MiB and 1024 containers. An
// Allocate request may name at most as many devices as the resource has.
package kubeletapi
