// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"qatplugin/qat/internal/sysfs"
)

// environment describes where a process runs.
type environment interface {
	isSysfs(dir string) bool         // a sysfs, or a part of one, is mounted at dir
	isWhole(sysfs string) bool       // the PCI bus and the devices that it links to are of one mount
	hasSyntheticEvents() bool        // the kernel answers a synthetic uevent with its UUID
	inUserNamespace() bool           // this is not the initial user namespace
	inInitialNetworkNamespace() bool // this is the initial network namespace
}

// process is the environment of this process.
type process struct{}

func (process) isSysfs(dir string) bool {
	for _, part := range []string{"", "bus/pci", "devices"} {
		var st unix.Statfs_t
		if unix.Statfs(filepath.Join(dir, part), &st) == nil && st.Type == unix.SYSFS_MAGIC {
			return true
		}
	}
	return false
}

// isWhole compares the file systems of the two directories that matter: the
// links of the bus lead to the devices, whatever is mounted around them.
func (process) isWhole(sysfs string) bool {
	var bus, devices unix.Stat_t
	if unix.Stat(filepath.Join(sysfs, "bus/pci/devices"), &bus) != nil {
		return true // there is a problem, but not this one
	}
	return unix.Stat(filepath.Join(sysfs, "devices"), &devices) == nil && bus.Dev == devices.Dev
}

// hasSyntheticEvents goes by the kernel's version. Before 4.13 the kernel drops a synthetic
// event with a UUID without an error (lib/kobject_uevent.c, kobject_action_type).
func (process) hasSyntheticEvents() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return true
	}
	return isSyntheticEventRelease(unix.ByteSliceToString(name.Release[:]))
}

// isSyntheticEventRelease takes a release that it cannot parse for a new one.
func isSyntheticEventRelease(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return true
	}
	return major > 4 || major == 4 && minor >= 13
}

// inUserNamespace goes by the user ID mapping: in the initial namespace every
// user is mapped to itself (user_namespaces(7)).
func (process) inUserNamespace() bool {
	mapping, err := sysfs.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(mapping)), " ") != "0 0 4294967295"
}

// inInitialNetworkNamespace goes by a setting that the kernel shows only there
// (net/core/sysctl_net_core.c, net_core_table). Without /proc/sys it assumes
// the initial namespace.
func (process) inInitialNetworkNamespace() bool {
	const settings = "/proc/sys/net/core"
	return unix.Access(settings+"/netdev_budget", unix.F_OK) == nil || unix.Access(settings, unix.F_OK) != nil
}
