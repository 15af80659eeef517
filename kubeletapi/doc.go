// SPDX-License-Identifier: Apache-2.0

// Package kubeletapi serves the devices of a device plugin to the kubelet, through the
// device plugin API v1beta1.
//
// The author of a plugin implements [Plugin], whose one method publishes a new
// [devtree.Tree] whenever the devices change. A [Manager] does the rest: a gRPC server
// and a socket for each resource, registration, ListAndWatch and Allocate. [FromScanner]
// turns a loop that polls its devices into a Plugin. A plugin may also implement
// [Allocator], [PostAllocator], [PreferredAllocator] or [ContainerPreStarter]; the
// Manager detects them. With [WithCDI], the devices are also devices of the Container
// Device Interface. See docs/writing-a-plugin.md for a guide.
//
// # Guarantees
//
// The kubelet always has the newest list. A change is sent at once, without a timer. While a
// stream is sending a list, further changes become one list. A stream never skips the newest
// list, and never sends a list that equals its previous one. A slow reader delays only its own
// stream, and publish never waits for the kubelet, a stream or the CDI directory.
//
// A resource is registered from the first Tree that has it until Run ends. Without
// devices it remains registered, with an empty list. Its socket is only created while
// kubelet.sock exists: nobody else connects to it, and a new kubelet first deletes it.
//
// Allocate answers from the newest Tree, for all containers of a request or for none. The error
// for an unknown device is codes.NotFound and for an unhealthy one codes.FailedPrecondition,
// with its reason. An error of the plugin that has no gRPC status is codes.Unknown.
//
// The kubelet may start, stop, hang, refuse a registration or delete a socket, and its
// directory may be removed and created, at any time and in any order. A new kubelet.sock
// means that the kubelet restarted, and all resources are registered again at once. A
// resource is also registered again when the kubelet's stream ends. Failed registrations
// are retried with exponential back-off.
//
// A socket that another process serves is never touched. The Manager logs an error and
// takes over when that process stops, so two Managers do not disturb each other.
//
// # Goroutines, timers and logs
//
// Run owns all goroutines and returns when they have ended. Once everything is
// registered, no timer runs and nothing is polled: inotify watches of the directory wake
// the Manager. Without a watch, it logs an error and polls every two seconds.
//
// The Manager logs to the klog logger of Run's context ([klog.FromContext]):
// registrations and restarts of the kubelet at V(0), its own life cycle at V(1), changes
// of state at V(2) and every list that it sends at V(4). An error that persists is logged
// when it first occurs, when it changes, and every ten minutes.
//
// # Limits
//
// The package does not know where devices come from. It does not create the kubelet's
// directory and does not notice when a directory above the parent of that is renamed.
package kubeletapi
