// SPDX-License-Identifier: Apache-2.0

// Package kubelet is the side of a DRA driver that the kubelet sees: two Unix sockets, the
// registration, the calls that prepare and unprepare claims, and the stream of the devices'
// health.
//
// # Registration
//
// The kubelet watches the directory plugins_registry. For each socket that appears, it asks for
// the driver's name and the path of its other socket, connects to that one, and reports the
// result (pkg/kubelet/pluginmanager). When the socket disappears, it closes the connection. It
// does not delete sockets when it starts, and finds those that exist. So a [Server] only has to
// keep both sockets in place, also if their directories are removed and created again.
//
// The kubelet ignores an overflow of its watch of the directory, and can then miss a socket. So
// while it has not registered the driver, or is not connected, the Server recreates the
// registration socket: after 10 s, and then at growing intervals of up to 2 minutes.
//
// # Health
//
// If the state of a device was not sent for 30 s, the kubelet reports its health as Unknown
// (pkg/kubelet/cm/dra/healthinfo.go). So all states are sent every 10 s, and at once when one
// changes, with at least 20 ms between two messages. A driver that hangs sends nothing, and the
// status of the pods shows that.
//
// # Goroutines
//
// Run owns all goroutines. Apart from those of gRPC, there is one for each socket, and those of
// calls and streams, of which one connection can have 128 at most, and of claims, at most 16 of
// which are prepared or unprepared at the same time.
package kubelet
