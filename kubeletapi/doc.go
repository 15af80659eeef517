// SPDX-License-Identifier: Apache-2.0

// Package kubeletapi serves the devices of a device plugin to the kubelet, through the
// device plugin API v1beta1.
//
// The author of a plugin implements [Plugin], whose one method publishes a new
// [devtree.Tree] whenever the devices change. A [Manager] does the rest: a gRPC server
// and a socket for each resource, registration, ListAndWatch and Allocate. [FromScanner]
// turns a loop that polls its devices into a Plugin. [Main] is a Manager with flags, signals
// and health checks: the whole program of a plugin. A plugin may also implement [Allocator],
// [PostAllocator], [PreferredAllocator] or [ContainerPreStarter]; the Manager detects them. With
// [WithCDI], the devices are also devices of the Container Device Interface. See
// docs/writing-a-plugin.md for a guide.
//
// # Guarantees
//
// A connected kubelet is sent the newest list. A change is sent at once if the previous list
// was sent at least 50 ms before. Otherwise it starts a storm, and the stream gathers changes:
// first for 2 ms, then for twice as long each time, up to 50 ms, and only until nothing has
// changed for a tenth of that time. So no change waits longer than 50 ms, and while one comes
// every 5 ms or faster, a list stands for ten changes or more. While a stream is sending a
// list, further changes become one list. A stream never skips the newest list, and never sends
// a list that equals its previous one. A slow reader delays only its own stream, and publish
// never waits for the kubelet, a stream or the CDI directory.
//
// A resource is registered from the first Tree that has it until Run ends, with an empty
// list if it has no devices, or until the Trees have omitted it for five minutes, as after
// [devtree.Builder.Drop]. The kubelet then removes it from the node after five more minutes.
// Its socket is only created while kubelet.sock exists: only the kubelet connects to it, and
// deletes all sockets when it starts. The socket's name is "<namespace>-<resource>.sock", or a
// shorter one with a hash of both if the name is too long for a socket or the namespace
// contains '-'; the log names it at V(1).
//
// Allocate answers from the newest Tree, for all containers of a request or for none.
// With [WithCDI], a Tree counts once the attempt to write its specs is over. The error
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
// does not return in time. At the latest 10 s after everything is registered, one timer is left:
// inotify watches of the kubelet's directory wake the Manager, and every 10 s it compares the
// directory that the path leads to with the one that it watches. So it also finds a directory
// behind a symbolic link that changed, below a directory that was renamed, or that another was
// mounted over. Without inotify watches, it logs an error and polls every two seconds. The CDI
// directory is watched too. It is polled, every two seconds, without inotify watches or while
// another process has one of the devices.
//
// The Manager logs to the klog logger of Run's context ([klog.FromContext]):
// registrations and restarts of the kubelet at V(0), its own life cycle at V(1), changes
// of state at V(2) and every list that it sends at V(4). An error that persists is logged
// when it first occurs, when it changes, and every ten minutes.
//
// # Limits
//
// The kubelet accepts lists of up to 4 MiB, which are about 100,000 devices. Of a longer list it is
// sent the first devices, as many as fit, in the order of their IDs. The log and
// [Manager.CheckRegistered] say so. A request of the kubelet may have 4 MiB and 1024
// containers, and Allocate as many devices as the resource has.
package kubeletapi
