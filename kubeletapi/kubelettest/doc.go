// Package kubelettest is a small kubelet's end of the device plugin API v1beta1, for tests, the demo and benchmarks.
//
// It does what the device manager of kubelet v1.36 does (pkg/kubelet/cm/devicemanager), and in the same order: at the start of its
// life it deletes every socket in its directory, from a listing that it took first, and makes kubelet.sock; Register connects to the
// plugin's socket and asks for its options before it answers; then it follows ListAndWatch. When a stream ends it drops whatever
// client the resource has at that moment, even when another registration has replaced the one whose stream ended: a plugin
// that registers too eagerly is punished here as it is there.
//
// It keeps the newest list of each resource with the time at which it arrived, and lets callers wait for a condition on them. It
// keeps no checkpoint, allocates nothing by itself and knows no pods.
//
// All methods may be called from any goroutine. Stop returns when nothing of the Kubelet runs any more.
package kubelettest
