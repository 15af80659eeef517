package follow

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// surroundings are what a process can tell of where it runs.
type surroundings interface {
	isSysfs(dir string) bool       // a sysfs is mounted there
	whole(sysfs string) bool       // the buses and the devices below it are of the same sysfs
	inUserNamespace() bool         // another than the first
	inFirstNetworkNamespace() bool // that of the machine's first process
}

// process is where this process runs.
type process struct{}

func (process) isSysfs(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.SYSFS_MAGIC
}

func (process) whole(sysfs string) bool {
	var root unix.Stat_t
	if unix.Stat(sysfs, &root) != nil {
		return true // whatever is wrong, it is not this
	}
	for _, dir := range []string{"bus/pci", "bus/pci/devices", "devices"} {
		var part unix.Stat_t
		if unix.Stat(filepath.Join(sysfs, dir), &part) == nil && part.Dev != root.Dev {
			return false
		}
	}
	return true
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
