// SPDX-License-Identifier: Apache-2.0

// Package publisher keeps the ResourceSlices of a node at the API server equal to the newest
// Inventory of the driver's devices.
//
// # Guarantees
//
// The API server gets the newest Inventory. A change is written at once if the driver has written
// nothing for a while. In any second, at most ten writes are sent, and one slice is written every
// 100 ms at most. So the last state of a storm of changes in one slice is never late by more than
// 100 ms plus the time of the write, and with up to ten slices by more than one second. Inventories
// that are replaced before their turn are skipped. What the API server already has is not written,
// also after a restart of the driver. Update never waits for the API server.
//
// A slice has at most 64 devices. Devices with the same value of the attribute GroupBy are in one
// slice unless they are more than that. While there are fewer than Separate slices, each value has
// a slice of its own, because a write costs the API server in proportion to the slice. Then values
// share slices. A device stays in its slice, also when the driver restarts.
// A change inside of slices is one write for each slice that changes. The generation of the pool
// rises, and all slices are written, only if the number of slices changes or a device moves to
// another slice. While the driver runs, slices may become empty but are not removed, because the
// scheduler would not use the pool until all others are written.
//
// Slices that another client deletes are written again at once. The kubelet deletes all slices of
// its node when it starts, and those of a driver that it has not been connected to for 30 s
// (k8s.io/kubernetes/pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go, wipeResourceSlices). Other
// changes by other clients are undone too. Slices of the same driver, node and pool with other
// names, such as those of another implementation, are deleted after the own ones are complete. The
// own ones have a higher generation, so the scheduler uses them as soon as they are complete. If
// another client does the same again within a minute, the Publisher waits for up to 1 s before it
// undoes that, then 2 s, and so on up to 30 s. This limits the requests if two drivers undo each
// other's changes.
//
// The Node owns the slices, so they are deleted with it. If it is recreated, its slices are, too.
//
// The API server may be away, refuse, delay or lose requests at any time. What fails is tried again
// after a random pause of up to 100 ms, then 200 ms, and so on up to 10 s, and not before the time
// of a Retry-After header. A slice that the API server refuses does not keep others from being
// written. Each request has a timeout of 20 s. When the answer to a write is lost, the next attempt
// finds out what the API server has.
//
// # Health
//
// An Unhealthy device stays in its slice with the taint <driver>/unhealthy, whose value is its
// Cause. A device that has gone while a claim holds it has the taint <driver>/gone, or is left out
// if no attributes of it are known, because the driver has restarted since. The effect is
// NoSchedule, or NoExecute if Evict says so. The time that the API server adds to a taint stays as
// long as the taint. If the API server drops taints, because its feature gate DRADeviceTaints is
// off, such devices are left out instead, because the scheduler would use them.
//
// # Goroutines and logs
//
// Run watches the slices on a goroutine of its own, with a [cache.Reflector], and writes on the
// goroutine of its caller, one request at a time. It logs to the logger of its context
// ([klog.FromContext]): its life cycle at V(1) and each write at V(2). An error that persists is
// logged when it first occurs, when it changes, and every ten minutes.
//
// # Limits
//
// Two drivers with one name on one node disturb each other.
//
// While the pool's generation rises, no device of the node can be allocated until all slices are
// written: with n slices, that takes n writes, and n/10 seconds if n is more than ten.
//
// A connection to an API server that vanishes without closing it is only given up after 45 s
// (k8s.io/apimachinery/pkg/util/net/http.go, readIdleTimeoutSeconds and pingTimeoutSeconds).
package publisher
