// SPDX-License-Identifier: Apache-2.0

// Package kubelettest provides the kubelet's end of the device plugin API v1beta1 for
// tests of device plugins.
//
// A [Kubelet] serves kubelet.sock in a directory of the test. A plugin registers there,
// and the Kubelet connects to the plugin and follows its lists. A test waits for a list
// ([Kubelet.Wait]), asks for devices ([Kubelet.Allocate]), and lets the Kubelet
// restart, hang or refuse. [New] starts one for a test, [Start] for a program.
//
// # Like the real kubelet
//
// The Kubelet does what the device manager of kubelet v1.36 does, in the same order.
// Paths are those below pkg/kubelet/cm/devicemanager of Kubernetes.
//
//   - When it starts, it lists its directory, deletes the sockets of that listing, and
//     then creates kubelet.sock (manager.go, CleanupPluginDirectory, and
//     plugin/v1beta1/server.go, Start). A socket that a plugin creates in between stays.
//   - Register refuses another API version and a resource name without a namespace.
//     Before it answers, it connects to the plugin's socket, within 10 seconds, and
//     calls GetDevicePluginOptions (plugin/v1beta1/server.go, Register, client.go,
//     dial, and manager.go, PluginConnected). Then it answers and calls ListAndWatch.
//   - Each list replaces the one before (manager.go, genericDeviceUpdateCallback).
//   - When a ListAndWatch stream ends, the Kubelet drops the client that the resource has
//     at that moment, even if another registration has replaced the one whose stream
//     ended (plugin/v1beta1/handler.go, runClient). A plugin that registers again
//     before the kubelet has dropped the old client loses the new one, too.
//   - It calls a plugin only while it has a client for the resource (endpoint.go,
//     isStopped). PreStartContainer has 30 seconds (endpoint.go, preStartContainer).
//
// # What it leaves out
//
// The Kubelet knows no pods and no scheduler. It allocates only what a test asks for,
// writes no checkpoint, and forgets everything when it restarts. It does not remove a
// resource five minutes after its plugin has gone. It calls GetPreferredAllocation and
// PreStartContainer even if the plugin's options do not offer them, does not check
// resource names fully, sets no SELinux labels, and does not register plugins through
// the plugins_registry directory.
//
// The methods of a Kubelet may be called from any goroutine.
package kubelettest
