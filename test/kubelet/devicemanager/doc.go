// SPDX-License-Identifier: Apache-2.0

// Package devicemanager runs the kubelet's own device manager
// (k8s.io/kubernetes/pkg/kubelet/cm/devicemanager) to test device plugins. There is no kubelet
// around it: the caller admits pods, and restarts the device manager as a kubelet would.
//
// Everything that a device plugin meets is real: the registration server on
// /var/lib/kubelet/device-plugins/kubelet.sock, the client of each plugin, the lists of healthy
// and unhealthy devices, the choice of devices, Allocate, GetPreferredAllocation,
// PreStartContainer, and the checkpoint that survives a restart. The topology manager is a fake
// that returns what [Manager.Align] was given, and pods are only names.
//
// The caller gets an [Update] for everything that a plugin does, with the time at which it
// happened. The Updates of one resource are complete and in order. The device manager has no
// callback for that; [Manager.Start] describes how the package observes it.
//
// Kubernetes fixes the path of the registration socket. A program that uses this package therefore
// calls [RunIsolated], which runs it again in a mount namespace of its own, with an empty tmpfs at
// /var/lib/kubelet. Most machines allow that without root. A kubelet of the machine is not
// affected.
package devicemanager
