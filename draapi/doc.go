// SPDX-License-Identifier: Apache-2.0

// Package draapi offers the devices of a plugin to Kubernetes through Dynamic Resource Allocation
// (DRA, API group resource.k8s.io/v1).
//
// The author of a driver implements [Plugin], whose one method publishes a new [devtree.Tree]
// whenever the devices change. A [Driver] does the rest: it publishes ResourceSlices, registers
// with the kubelet, prepares and unprepares claims, and reports the health of devices. A plugin
// may also implement [Preparer]. [Driver.Status] and [Driver.Claims] return the state, and an
// [Observer] receives each action, for metrics. See docs/writing-a-dra-driver.md for a guide.
//
// It needs Kubernetes 1.34 or newer.
//
// # Slices
//
// All devices of a node are in one pool, which has the name of the Node. The name of a device
// there is made from its ID: "0000:6b:00.1" is "0000-6b-00-1". Its resource is not part of
// its identity.
//
// The API server gets the newest Tree. The first change after a quiet time is written at once. In
// a storm, at most ten writes a second are sent, and the last state is never left out. What the
// API server already has is not written, also after a restart. Slices that the kubelet deletes when
// it restarts, or that another client changes, are written again at once. publish never waits for
// the API server.
//
// A device that is Unhealthy stays in its slice with a taint "<driver>/unhealthy", whose value is
// the device's Cause, so that the scheduler does not use it. A device that leaves the Tree while
// a claim holds it stays with the taint "<driver>/gone" until the claim is unprepared.
// [WithEviction] selects devices whose taint evicts pods.
//
// # Claims
//
// A claim is prepared if each device is in the newest Tree, is Healthy, and is not held by another
// claim, and if [Preparer] agrees. Devices with admin access need only be in the Tree, and are not
// held. The error for a held device names the claim that holds it.
//
// The CDI spec file of a claim, "<driver>-claim-<UID>.json", is written before the kubelet gets
// the answer, and is the only state that the Driver keeps. The file is replaced atomically. After a
// restart, a prepared claim has the same answer as before, even if its devices are no longer
// healthy, because its containers may be running. If the claim has another allocation at the API
// server, it is prepared again. If the API server does not answer, a prepared claim is answered
// from its file, and for another one the Driver tries again until shortly before the kubelet's
// deadline of 45 s.
//
// A claim with a configuration for the driver is refused, because it would have no effect.
//
// Unpreparing a claim that is not prepared is not an error.
//
// # Health
//
// The kubelet receives the health of all devices, with the Reason of those that are not Healthy,
// at once when it changes, and every 10 s. If it was not sent for 30 s, the kubelet reports it as
// Unknown, so the status of pods shows when a driver hangs.
//
// # Restarts
//
// The kubelet, the API server and the Driver may stop, hang and start at any time and in any
// order. The kubelet finds the Driver's sockets when it starts. Sockets that disappear, also with
// their directories, are created again. With [WithPodUID], an old and a new instance run at the
// same time during an update, and each knows the claims that the other has prepared. Sockets that
// killed instances have left behind are removed.
//
// # Container runtimes
//
// A container runtime without CDI ignores the devices of claims: pods would run without them, and
// without an error. So while the Node reports a runtime that is known to do so, all devices are
// Unhealthy with the Cause "no-cdi", claims are not prepared, and [Driver.CheckRuntime] returns
// an error that states what to do. These are containerd before 2.0 and CRI-O before 1.28;
// [WithAssumedCDI] is for containerd 1.7, which has CDI as a setting. The Node is read when the
// Driver starts, when the kubelet registers it, when a claim is refused, and every minute while
// the runtime ignores CDI. Nothing is published before the Node is known.
//
// # Goroutines, timers and logs
//
// Run owns all goroutines and returns when they have ended, unless Watch does not return within 5
// s. Their number is bounded: claims are prepared and unprepared in up to 16 goroutines, and a
// connection of the kubelet can have 128 calls and streams. Changes of directories wake the Driver.
// Apart from the health, one timer looks every 10 s for what causes no event, such as a mount over
// one of the kubelet's directories.
//
// The Driver logs to the klog logger of Run's context ([klog.FromContext]): errors and
// registrations at V(0), its own life cycle at V(1), and claims and writes at V(2). An error
// that persists is logged when it first occurs, when it changes, and every ten minutes.
//
// # Limits
//
// A Driver has one pool, and whole devices: no partitions, no shared capacity and no counters.
// CDI has no annotations for containers, so those of ContainerEdits are ignored. A device that
// has no device node, no mount and no environment variable cannot be prepared.
//
// DRA and the device plugin API do not know of each other's allocations. A node must not offer the
// same devices through both.
package draapi
