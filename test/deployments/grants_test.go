// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// A grant is a privilege of the plugin's pod over a pod with the strictest settings.
type grant struct{ what, reason string }

// commonGrants are those of both modes.
var commonGrants = []grant{
	{"runs as user 0", "sysfs attributes and the kubelet's directory are writable only for root"},
	{"user namespace of the host", "uevents reach no other user namespace"},
	{"priority class system-node-critical", "without the plugin all devices of the node are unhealthy"},
	{"tolerates every NoSchedule taint", "nodes with accelerators are tainted to keep other pods away"},
	{"reads /sys at /host/sys", "devices, drivers, IOMMU groups and debugfs; inotify needs the host's own sysfs"},
	{"writes /sys/devices at /host/sys/devices", "driver_override of VFs; uevent of lo"},
	{"writes /sys/bus/pci at /host/sys/bus/pci", "drivers_probe, bind and unbind; uevent of the bus"},
	{
		"writes /var/lib/kubelet/device-plugins at /var/lib/kubelet/device-plugins",
		"kubelet.sock and the plugin's sockets",
	},
	{"writes to a volume that is not of the host at /run/qat_plugin", "the status socket, and recordings"},
	{"listens on port 8081 of the pod", "the kubelet's probes"},
}

var dpdkGrants = append(slices.Clone(commonGrants),
	grant{"SELinux type container_device_plugin_t", "the default type denies sysfs and the kubelet's socket"},
	grant{"reads /dev at /host/dev", "nodes of VFIO and UIO come and go"},
)

var kernelGrants = append(slices.Clone(commonGrants),
	grant{"is privileged", "adf_ctl opens /dev/qat_adf_ctl, which the device cgroup denies to other containers"},
	grant{"reads /dev at /dev", "adf_ctl opens the driver's nodes there, which come and go with the driver"},
	grant{"reads /etc at /host/etc", "the devices' configuration files come and go"},
	grant{"reads /usr/local/bin/adf_ctl at /usr/local/bin/adf_ctl", "it must match the node's driver"},
	grant{"reads /lib at /lib", "libraries of adf_ctl"},
	grant{"reads /lib64 at /lib64", "libraries of adf_ctl, and the dynamic loader"},
	grant{"reads /usr/lib at /usr/lib", "libraries of adf_ctl"},
	grant{"reads /usr/lib64 at /usr/lib64", "libraries of adf_ctl"},
)

// addedGrants are those that overlays add to the base of their front.
var addedGrants = map[string][]grant{
	"cdi": {{"writes /var/run/cdi at /var/run/cdi", "the CDI spec of the VFs"}},
	"provisioning": {{
		"reads /var/lib/kubelet/pod-resources at /var/lib/kubelet/pod-resources",
		"the kubelet's socket that names the pods which hold VFs",
	}},
	"http":      {{"listens on port 8080 of the pod", "the status page, metrics and events"}},
	"telemetry": {{"writes /sys/kernel/debug at /host/sys/kernel/debug", "telemetry/control of the PFs"}},
	"events": {
		{"token of the service account intel-qat-plugin", "creating Events"},
		{"connects to TCP ports 443 and 6443 of any address", "the API server"},
	},

	"dra-http":      {{"listens on port 8080 of the pod", "the status page, metrics and events"}},
	"dra-telemetry": {{"writes /sys/kernel/debug at /host/sys/kernel/debug", "telemetry/control of the PFs"}},
}

// draGrants are those of the DRA driver. What its service account may do is in TestDriverRights.
var draGrants = []grant{
	{"runs as user 0", "sysfs attributes and the kubelet's directories are writable only for root"},
	{"user namespace of the host", "uevents reach no other user namespace"},
	{"priority class system-node-critical", "without the driver no pod with a claim starts or ends"},
	{"tolerates every NoSchedule taint", "nodes with accelerators are tainted to keep other pods away"},
	{"SELinux type container_device_plugin_t", "the default type denies sysfs and the kubelet's socket"},
	{"reads /sys at /host/sys", "devices, drivers, IOMMU groups and debugfs; inotify needs the host's own sysfs"},
	{"writes /sys/devices at /host/sys/devices", "driver_override of VFs; uevent of lo"},
	{"writes /sys/bus/pci at /host/sys/bus/pci", "drivers_probe, bind and unbind; uevent of the bus"},
	{"reads /dev at /host/dev", "nodes of VFIO and UIO come and go"},
	{
		"writes /var/lib/kubelet/plugins_registry at /var/lib/kubelet/plugins_registry",
		"the registration socket",
	},
	{
		"writes /var/lib/kubelet/plugins/qat.intel.com at /var/lib/kubelet/plugins/qat.intel.com",
		"the socket for preparing claims",
	},
	{
		"writes /var/lib/kubelet/device-plugins at /var/lib/kubelet/device-plugins",
		"the lock that keeps the device plugin from serving the same devices",
	},
	{"writes /var/run/cdi at /var/run/cdi", "the CDI specs of the claims"},
	{"writes to a volume that is not of the host at /run/qat_dra_driver", "the status socket, and recordings"},
	{"listens on port 8081 of the pod", "the kubelet's probes"},
	{"token of the service account intel-qat-dra-driver", "ResourceSlices, ResourceClaims and the Node"},
	{"connects to TCP ports 443 and 6443 of any address", "the API server"},
}

// TestEveryGrantIsListed fails if a pod has a privilege that is not listed above.
// docs/security.md lists them for users.
func TestEveryGrantIsListed(t *testing.T) {
	forEachOverlay(t, func(t *testing.T, o overlay, p plugin) {
		list := dpdkGrants
		if o.isDRA() {
			list = draGrants
		} else if o.name == "kernel" {
			list = kernelGrants
		}
		var want []string
		for _, g := range slices.Concat(list, addedGrants[o.name]) {
			if want = append(want, g.what); g.reason == "" {
				t.Errorf("no reason for %q", g.what)
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, grants(t, p)); diff != "" {
			t.Errorf("(-listed +granted):\n%s", diff)
		}
	})
}

// grants returns the grants of a pod, sorted. It fails the test for a setting that it
// cannot describe.
func grants(t testing.TB, p plugin) (list []string) {
	t.Helper()
	add := func(granted bool, format string, args ...any) {
		if granted {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	spec, c := p.podSpec(), p.container(t)
	add(spec.HostNetwork, "network of the host")
	add(spec.HostPID, "processes of the host")
	add(spec.HostIPC, "IPC of the host")
	add(isNilOr(spec.HostUsers, true), "user namespace of the host")
	add(isNilOr(spec.AutomountServiceAccountToken, true), "token of a service account")
	add(isNilOr(spec.EnableServiceLinks, true), "environment variables of services")
	add(spec.PriorityClassName != "", "priority class %s", spec.PriorityClassName)
	for _, toleration := range spec.Tolerations {
		add(toleration.Effect == "", "tolerates every taint")
		add(toleration.Effect != "", "tolerates every %s taint", toleration.Effect)
		if toleration.Operator != corev1.TolerationOpExists || toleration.Key != "" {
			t.Fatalf("unknown toleration %v", toleration)
		}
	}
	for _, port := range c.Ports {
		add(port.HostPort == 0, "listens on port %d of the pod", port.ContainerPort)
		add(port.HostPort != 0, "listens on port %d of the host", port.HostPort)
	}
	if spec.SecurityContext != nil {
		t.Fatal("the pod has a security context: set it for the container")
	}
	s := c.SecurityContext
	privileged := s.Privileged != nil && *s.Privileged
	add(privileged, "is privileged")
	add(isNilOr(s.RunAsUser, 0), "runs as user 0")
	add(isNilOr(s.ReadOnlyRootFilesystem, false), "writes to its root file system")
	add(s.ProcMount != nil && *s.ProcMount != corev1.DefaultProcMount, "unmasked /proc")
	add(s.AppArmorProfile != nil, "AppArmor %v", s.AppArmorProfile)
	if !privileged { // which includes all of these
		add(isNilOr(s.AllowPrivilegeEscalation, true), "privilege escalation")
		dropsAll := s.Capabilities != nil && slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"})
		add(!dropsAll, "the runtime's default capabilities")
		if s.Capabilities != nil {
			for _, capability := range s.Capabilities.Add {
				add(true, "capability %s", capability)
			}
		}
		confined := s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault
		add(!confined, "system calls outside of the runtime's default profile")
		if s.SELinuxOptions != nil {
			add(true, "SELinux type %s", s.SELinuxOptions.Type)
		}
	}
	mounted := map[string]bool{}
	for _, m := range c.VolumeMounts {
		mounted[m.Name] = true
		path := p.hostPath(t, m.Name)
		add(path != "" && m.ReadOnly, "reads %s at %s", path, m.MountPath)
		add(path != "" && !m.ReadOnly, "writes %s at %s", path, m.MountPath)
		add(path == "" && !m.ReadOnly, "writes to a volume that is not of the host at %s", m.MountPath)
		add(m.MountPropagation != nil, "mount propagation %v at %s", m.MountPropagation, m.MountPath)
	}
	for _, v := range spec.Volumes {
		add(!mounted[v.Name], "unused volume %s", v.Name)
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			add(source.ServiceAccountToken != nil, "token of the service account %s", spec.ServiceAccountName)
		}
	}
	for _, rule := range p.policy.Spec.Egress {
		add(true, "connects to %s", describeEgress(t, rule))
	}
	slices.Sort(list)
	return list
}

// describeEgress describes what a rule of a NetworkPolicy allows.
func describeEgress(t testing.TB, rule networkingv1.NetworkPolicyEgressRule) string {
	t.Helper()
	var ports []string
	for _, p := range rule.Ports {
		if p.Port == nil || p.EndPort != nil || p.Protocol == nil || *p.Protocol != corev1.ProtocolTCP {
			t.Fatalf("unknown port %+v", p)
		}
		ports = append(ports, p.Port.String())
	}
	if len(rule.To) > 0 || len(ports) == 0 {
		t.Fatalf("unknown rule %+v", rule)
	}
	return fmt.Sprintf("TCP ports %s of any address", strings.Join(ports, " and "))
}

// isNilOr reports whether a pointer is nil or points to a value.
func isNilOr[T comparable](p *T, value T) bool { return p == nil || *p == value }

// TestHostDirectoriesAreRecursivelyReadOnly: without recursiveReadOnly, file systems
// mounted below a read-only mount remain writable. Only recent runtimes support it.
func TestHostDirectoriesAreRecursivelyReadOnly(t *testing.T) {
	forEachOverlay(t, func(t *testing.T, _ overlay, p plugin) {
		for _, m := range p.container(t).VolumeMounts {
			switch p.hostPath(t, m.Name) {
			case "/sys", "/dev", "/etc":
				if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly != corev1.RecursiveReadOnlyIfPossible {
					t.Errorf("%s is not recursiveReadOnly: IfPossible", m.Name)
				}
			}
		}
	})
}

// TestNoWritableMountWhereAppArmorDeniesWrites: the default AppArmor profiles of
// containerd and CRI-O deny writes below /sys and /proc, and the pod keeps the default.
func TestNoWritableMountWhereAppArmorDeniesWrites(t *testing.T) {
	forEachOverlay(t, func(t *testing.T, _ overlay, p plugin) {
		for _, m := range p.container(t).VolumeMounts {
			for _, denied := range []string{"/sys", "/proc"} {
				if _, ok := below(m.MountPath, denied); ok && !m.ReadOnly {
					t.Errorf("%s is writable at %s, where AppArmor denies writes", m.Name, m.MountPath)
				}
			}
		}
	})
}

// TestHostCgroupsAreHidden: with cgroup v1, or with a runtime that does not support
// recursive read-only mounts, user 0 could give itself access to every device through the
// host's cgroups.
func TestHostCgroupsAreHidden(t *testing.T) {
	forEachOverlay(t, func(t *testing.T, o overlay, p plugin) {
		if o.name == "kernel" {
			return // privileged
		}
		if m, onHost := p.mount(t, "/host/sys/fs/cgroup"); m == nil || onHost != "/cgroup" || !m.ReadOnly {
			t.Errorf("/host/sys/fs/cgroup is %q on the host", onHost)
		}
	})
}

// TestHostPathsMustExist: a runtime creates a missing directory on the host unless the
// volume has a type.
func TestHostPathsMustExist(t *testing.T) {
	forEachOverlay(t, func(t *testing.T, _ overlay, p plugin) {
		for _, v := range p.podSpec().Volumes {
			if v.HostPath == nil || v.HostPath.Path == "/var/run/cdi" ||
				v.HostPath.Path == "/var/lib/kubelet/plugins/qat.intel.com" {
				continue
			}
			kind := v.HostPath.Type
			if kind == nil || *kind != corev1.HostPathDirectory && *kind != corev1.HostPathFile {
				t.Errorf("volume %s has type %v, want Directory or File", v.HostPath.Path, kind)
			}
		}
	})
}

// TestNetworkPolicyDeniesAll: what the policy allows is a grant.
func TestNetworkPolicyDeniesAll(t *testing.T) {
	forEachOverlay(t, func(t *testing.T, o overlay, p plugin) {
		policy := p.policy.Spec
		toServer := o.name == "events" || o.isDRA()
		if len(policy.PolicyTypes) != 2 || len(policy.Ingress) > 0 || len(policy.Egress) > 0 && !toServer {
			t.Errorf("the network policy allows traffic: %v", policy)
		}
	})
}
