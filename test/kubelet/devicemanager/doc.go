// Package devicemanager runs the kubelet's own device manager (k8s.io/kubernetes/pkg/kubelet/cm/devicemanager) as the partner of a
// device plugin under test. No kubelet runs around it: the caller admits pods and restarts it as a kubelet would.
//
// What is real: the registration server on /var/lib/kubelet/device-plugins/kubelet.sock, the client of each plugin, the lists of
// healthy and unhealthy devices, the choice of devices, Allocate, GetPreferredAllocation and PreStartContainer, and the
// checkpoint that survives a restart. What is not: the topology manager, which says what [Manager.Align] told it, and the pods, which
// are only names.
//
// Everything that a plugin tells the device manager can be seen as an [Update], in order for each resource, none left out, with the
// time it came. The device manager has no such callback; see [Manager.Start] for how it is listened to.
//
// The path of the registration socket is fixed in Kubernetes. A test binary that uses this package therefore runs itself again in a
// mount namespace of its own ([RunIsolated]), where /var/lib/kubelet is an empty tmpfs: no root is needed on most machines, and
// a kubelet of the machine is neither seen nor harmed.
package devicemanager
