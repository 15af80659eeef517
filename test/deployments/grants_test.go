package deployments

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// A grant is one thing that a pod may do, or is spared, beyond a pod that asks for nothing.
type grant struct{ what, why string }

// common are the grants of both modes.
func common() []grant {
	return []grant{
		{"runs as user 0", "sysfs attributes and the kubelet's directory are writable for their owner alone"},
		{"user namespace of the host", "uevents reach no other"},
		{"priority class system-node-critical", "without the plugin all devices of the node are unhealthy"},
		{"tolerates any taint of NoSchedule", "nodes with accelerators are tainted to keep others away"},
		{"reads /sys at /host/sys", "devices, drivers, IOMMU groups and debugfs; writes on the host are heard only on the same sysfs"},
		{"writes /sys/devices at /host/sys/devices", "driver_override of VFs; uevent of lo"},
		{"writes /sys/bus/pci at /host/sys/bus/pci", "drivers_probe, bind and unbind; uevent of the bus"},
		{"writes /var/lib/kubelet/device-plugins at /var/lib/kubelet/device-plugins", "kubelet.sock and the plugin's sockets"},
		{"listens on port 8081 of the pod", "the kubelet's probes"},
	}
}

// grants are all that an overlay's pod is granted, each with its reason.
func (o overlay) grants() []grant {
	switch o.name {
	case "kernel":
		return append(common(),
			grant{"is privileged", "adf_ctl opens /dev/qat_adf_ctl, which the device cgroup allows no other container"},
			grant{"reads /dev at /dev", "adf_ctl looks for the driver's nodes there, which come and go with the driver"},
			grant{"reads /etc at /host/etc", "the devices' configuration files come and go"},
			grant{"reads /usr/local/bin/adf_ctl at /usr/local/bin/adf_ctl", "it must fit the node's driver"},
			grant{"reads /lib at /lib", "libraries of adf_ctl"},
			grant{"reads /lib64 at /lib64", "libraries of adf_ctl, and what loads them"},
			grant{"reads /usr/lib at /usr/lib", "libraries of adf_ctl"},
			grant{"reads /usr/lib64 at /usr/lib64", "libraries of adf_ctl"},
		)
	case "cdi":
		return append(dpdk(), grant{"writes /var/run/cdi at /var/run/cdi", "the spec of the VFs"})
	default:
		return dpdk()
	}
}

func dpdk() []grant {
	return append(common(),
		grant{"SELinux type container_device_plugin_t", "the ordinary one may neither write to sysfs nor speak to the kubelet"},
		grant{"reads /dev at /host/dev", "nodes of VFIO and UIO come and go"},
	)
}

// Whoever grants more says why, here and in docs/security.md.
func TestNoGrantIsUnaccountedFor(t *testing.T) {
	for _, o := range overlays() {
		t.Run(o.name, func(t *testing.T) {
			var want []string
			for _, g := range o.grants() {
				if want = append(want, g.what); g.why == "" {
					t.Errorf("%q has no reason", g.what)
				}
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, granted(t, o.plugin(t))); diff != "" {
				t.Errorf("grants (-accounted for +given):\n%s", diff)
			}
		})
	}
}

// granted lists what a pod is granted. Whatever it has no word for ends the test, so nothing is passed over.
func granted(t testing.TB, p plugin) (list []string) {
	t.Helper()
	add := func(condition bool, format string, args ...any) {
		if condition {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	spec, c := p.pod(), p.container(t)
	add(spec.HostNetwork, "network of the host")
	add(spec.HostPID, "processes of the host")
	add(spec.HostIPC, "IPC of the host")
	add(spec.HostUsers == nil || *spec.HostUsers, "user namespace of the host")
	add(spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken, "token of a service account")
	add(spec.EnableServiceLinks == nil || *spec.EnableServiceLinks, "variables of services")
	add(spec.PriorityClassName != "", "priority class %s", spec.PriorityClassName)
	for _, toleration := range spec.Tolerations {
		add(toleration.Effect == "", "tolerates any taint")
		add(toleration.Effect != "", "tolerates any taint of %s", toleration.Effect)
		if toleration.Operator != corev1.TolerationOpExists || toleration.Key != "" {
			t.Fatalf("the toleration %v has no word here", toleration)
		}
	}
	for _, port := range c.Ports {
		add(port.HostPort == 0, "listens on port %d of the pod", port.ContainerPort)
		add(port.HostPort != 0, "listens on port %d of the host", port.HostPort)
	}
	if spec.SecurityContext != nil {
		t.Fatal("a security context of the pod has no word here: say it at the container")
	}
	s := c.SecurityContext
	privileged := s.Privileged != nil && *s.Privileged
	add(privileged, "is privileged")
	add(s.RunAsUser == nil || *s.RunAsUser == 0, "runs as user 0")
	add(s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem, "writes to its image")
	add(s.ProcMount != nil && *s.ProcMount != corev1.DefaultProcMount, "sees /proc unmasked")
	add(s.AppArmorProfile != nil, "AppArmor %v", s.AppArmorProfile)
	if !privileged { // which is all of these
		add(s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation, "gains privileges by running a program")
		add(s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}), "capabilities that a runtime gives")
		if s.Capabilities != nil {
			for _, capability := range s.Capabilities.Add {
				add(true, "capability %s", capability)
			}
		}
		add(s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault, "system calls beyond the runtime's default")
		add(s.SELinuxOptions != nil, "SELinux type %s", s.SELinuxOptions.Type)
	}
	mounted := map[string]bool{}
	for _, m := range c.VolumeMounts {
		mounted[m.Name] = true
		path := p.hostPath(t, m.Name)
		add(path != "" && m.ReadOnly, "reads %s at %s", path, m.MountPath)
		add(path != "" && !m.ReadOnly, "writes %s at %s", path, m.MountPath)
		add(path == "" && !m.ReadOnly, "writes to a directory of its own at %s", m.MountPath)
		add(m.MountPropagation != nil, "mounts go %v at %s", m.MountPropagation, m.MountPath)
	}
	for _, v := range spec.Volumes {
		add(!mounted[v.Name], "the volume %s for nothing", v.Name)
	}
	slices.Sort(list)
	return list
}

// A runtime that can makes what is mounted below them read-only, too; a file has nothing below it.
func TestReadingADirectoryOfTheHostHoldsForWhatIsMountedBelowIt(t *testing.T) {
	for _, o := range overlays() {
		p := o.plugin(t)
		for _, m := range p.container(t).VolumeMounts {
			switch p.hostPath(t, m.Name) {
			case "/sys", "/dev", "/etc":
				if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly != corev1.RecursiveReadOnlyIfPossible {
					t.Errorf("%s: %s is not recursiveReadOnly: IfPossible", o.name, m.Name)
				}
			}
		}
	}
}

// The default AppArmor profiles of containerd and CRI-O deny writes below /sys, and the pod keeps them.
func TestNothingIsWrittenWhereAppArmorForbidsIt(t *testing.T) {
	for _, o := range overlays() {
		p := o.plugin(t)
		for _, m := range p.container(t).VolumeMounts {
			for _, forbidden := range []string{"/sys", "/proc"} {
				if _, below := below(m.MountPath, forbidden); below && !m.ReadOnly {
					t.Errorf("%s: %s is written at %s, which the runtime's AppArmor profile denies", o.name, m.Name, m.MountPath)
				}
			}
		}
	}
}

// On cgroup v1, or with a runtime that knows no recursive read-only mounts, user 0 could give itself every device through the host's cgroups.
func TestTheHostsCgroupsAreHidden(t *testing.T) {
	for _, o := range overlays() {
		if o.name == "kernel" {
			continue // is privileged
		}
		if m, onHost := o.plugin(t).mount(t, "/host/sys/fs/cgroup"); m == nil || onHost != "/cgroup" || !m.ReadOnly {
			t.Errorf("%s: /host/sys/fs/cgroup is %q of the host", o.name, onHost)
		}
	}
}

// A directory that is missing is a reason to say so and not to make it, on the host.
func TestNothingIsMadeOnTheHost(t *testing.T) {
	for _, o := range overlays() {
		for _, v := range o.plugin(t).pod().Volumes {
			if v.HostPath == nil || v.HostPath.Path == "/var/run/cdi" {
				continue
			}
			if kind := v.HostPath.Type; kind == nil || *kind != corev1.HostPathDirectory && *kind != corev1.HostPathFile {
				t.Errorf("%s: the type of %s is %v, want Directory or File: else a runtime makes it where it is missing", o.name, v.HostPath.Path, kind)
			}
		}
	}
}

func TestTheNetworkIsClosed(t *testing.T) {
	for _, o := range overlays() {
		policy := o.plugin(t).policy.Spec
		if len(policy.PolicyTypes) != 2 || len(policy.Ingress)+len(policy.Egress) > 0 {
			t.Errorf("%s: the policy lets something through: %v", o.name, policy)
		}
	}
}
