package follow

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// surroundings are what a process can tell of where it runs.
type surroundings interface {
	isSysfs(dir string) bool       // a sysfs is mounted there, or parts of one below
	whole(sysfs string) bool       // the PCI bus and the devices that it links to are of the same sysfs
	answers() bool                 // the kernel gives an event back that carries what it was asked with
	inUserNamespace() bool         // another than the first
	inFirstNetworkNamespace() bool // that of the machine's first process
}

// process is where this process runs.
type process struct{}

// pretended is where every directory is a sysfs.
type pretended struct{ process }

func (pretended) isSysfs(string) bool { return true }

// PretendSysfs has h take an ordinary directory for a sysfs and ask there, for tests of who listens with it.
func (h *Hearing) PretendSysfs() { h.world = pretended{} }

func (process) isSysfs(dir string) bool {
	for _, part := range []string{"", "bus/pci", "devices"} {
		var st unix.Statfs_t
		if unix.Statfs(filepath.Join(dir, part), &st) == nil && st.Type == unix.SYSFS_MAGIC {
			return true
		}
	}
	return false
}

// whole goes by the file system of the two that matter. The links of the bus lead to the devices, whatever is mounted around them.
func (process) whole(sysfs string) bool {
	var bus, devices unix.Stat_t
	if unix.Stat(filepath.Join(sysfs, "bus/pci/devices"), &bus) != nil {
		return true // whatever is wrong, it is not this
	}
	return unix.Stat(filepath.Join(sysfs, "devices"), &devices) == nil && bus.Dev == devices.Dev
}

// answers goes by the version: before 4.13 a question with a UUID is dropped without an error (lib/kobject_uevent.c, kobject_action_type). A
// version that makes no sense is taken for a new one.
func (process) answers() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return true
	}
	return answersAt(unix.ByteSliceToString(name.Release[:]))
}

func answersAt(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return true
	}
	return major > 4 || major == 4 && minor >= 13
}

// inUserNamespace goes by the mapping of users: in the first namespace every user is itself (user_namespaces(7)).
func (process) inUserNamespace() bool {
	mapping, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(mapping)), " ") != "0 0 4294967295"
}

// inFirstNetworkNamespace goes by a setting that the kernel shows only there (net/core/sysctl_net_core.c, net_core_table). Without /proc/sys
// it cannot be told, and is taken for granted.
func (process) inFirstNetworkNamespace() bool {
	const settings = "/proc/sys/net/core"
	return unix.Access(settings+"/netdev_budget", unix.F_OK) == nil || unix.Access(settings, unix.F_OK) != nil
}
