// SPDX-License-Identifier: Apache-2.0

// Package podresources asks the kubelet which pod holds which device. It uses the List call of the
// kubelet's PodResources API v1.
//
// [Client.Holders] dials the kubelet for each call, so a restart of the kubelet between two calls
// has no effect, and nothing runs between them.
//
// # What the kubelet reports
//
// All paths are below pkg/kubelet of Kubernetes 1.36.
//
// List reports the pods that the kubelet knows and that are not over
// (apis/podresources/server_v1.go, List). A kubelet before 1.34 reports the others too, but without
// their devices, which UpdateAllocatedDevices has removed before (cm/devicemanager/manager.go). In
// detail:
//
//   - A pod is reported before it starts. The kubelet adds it to the reported pods before it admits
//     it (kubelet.go, HandlePodAdditions), and calls Allocate while it admits it.
//   - A device is reported as soon as the kubelet has the answer to Allocate, before it allocates
//     the pod's other resources (cm/devicemanager/manager.go, allocateContainerResources). List
//     takes no lock that Allocate holds. So a List that begins right after the plugin has sent the
//     answer may not have the device yet.
//   - A pod that is being terminated is reported until its containers have ended (kubelet_pods.go,
//     isPodInactive; pod_workers.go, IsPodKnownTerminated).
//   - A pod that was rejected, has failed or has succeeded is not reported.
//
// Three kinds of holders are not reported:
//
//   - Init containers that are not sidecars (apis/podresources/server_v1.go, List). If no other
//     container of the pod gets the device, the device seems to be free while the init container
//     runs.
//   - A pod that was deleted by force is not reported, although its containers may still run
//     (kubelet_pods.go, GetActivePods).
//   - After its start, the kubelet reports no pod before it has received it from the API server,
//     although the pod's containers have run all the time. Static pods come first. The answer does
//     not show that it is incomplete. If the API server is down, this lasts until it is back. The
//     plugin usually runs in a pod itself. Holders therefore returns an error if its pod is not
//     reported, or if no pod is.
//
// A caller that is about to take a device away must therefore expect that a process still has the
// device open. For VFIO, the kernel then waits for the process.
package podresources
