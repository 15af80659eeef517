// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"qatplugin/internal/testenv"
)

// The links of the initial namespaces (include/uapi/linux/nsfs.h, enum init_ns_ino). That of the
// network namespace has had a fixed number since Linux 6.18.
const initialUser, initialNetwork, initialPID = "user:[4026531837]", "net:[4026531833]", "pid:[4026531836]"

func link(t *testing.T, name string) string {
	t.Helper()
	target, err := os.Readlink(name)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestNamespacesOfTheProcess(t *testing.T) {
	if got, want := (process{}).inUserNamespace(), link(t, "/proc/self/ns/user") != initialUser; got != want {
		t.Errorf("inUserNamespace() = %v, want %v", got, want)
	}
	network := link(t, "/proc/self/ns/net")
	first, err := os.Readlink("/proc/1/ns/net") // mostly allowed to root only
	known := err == nil && link(t, "/proc/self/ns/pid") == initialPID
	want := network == initialNetwork || known && network == first
	if got := (process{}).inInitialNetworkNamespace(); got != want && (want || known) {
		t.Errorf("inInitialNetworkNamespace() = %v, want %v", got, want)
	}
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS) {
		return
	}
	if !(process{}).inUserNamespace() || (process{}).inInitialNetworkNamespace() {
		t.Error("new namespaces are taken for the initial ones")
	}
}

// A sysfs can be mounted as a whole or in parts, over another one or over nothing.
func TestWhatIsMountedAtTheSysfsRoot(t *testing.T) {
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS) {
		return
	}
	for _, dir := range []string{"/sys/bus/pci/devices", "/sys/devices"} {
		if _, err := os.Stat(dir); err != nil {
			testenv.Skip(t, "this machine has no PCI bus in sysfs: "+err.Error())
		}
	}
	for name, tt := range map[string]struct {
		own              bool     // mount a sysfs of this network namespace first
		host             []string // then mount these parts of the host's sysfs
		isSysfs, isWhole bool
	}{
		"an ordinary directory":       {isWhole: true},
		"the host's":                  {host: []string{""}, isSysfs: true, isWhole: true},
		"its own":                     {own: true, isSysfs: true, isWhole: true},
		"the host's bus":              {host: []string{"bus/pci"}, isSysfs: true},
		"the host's devices, no bus":  {host: []string{"devices"}, isSysfs: true, isWhole: true},
		"the host's bus over its own": {own: true, host: []string{"bus/pci"}, isSysfs: true},
		"the host's list of devices over its own": {
			own: true, host: []string{"bus/pci/devices"}, isSysfs: true,
		},
		"the host's bus and devices": {
			host: []string{"bus/pci", "devices"}, isSysfs: true, isWhole: true,
		},
		"the host's bus and devices over its own": {
			own: true, host: []string{"bus/pci", "devices"}, isSysfs: true, isWhole: true,
		},
		"the host's, and again its parts": {
			host: []string{"", "bus/pci", "devices"}, isSysfs: true, isWhole: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Cleanup(func() {
				for unix.Unmount(dir, unix.MNT_DETACH) == nil { // one mount after another, with its submounts
				}
			})
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
				testenv.Skip(t, "this machine does not allow mounts in a user namespace: "+err.Error())
			}
			if tt.own {
				if err := unix.Mount("sysfs", dir, "sysfs", 0, ""); err != nil {
					testenv.Skip(t, "this machine does not allow a sysfs in a user namespace: "+err.Error())
				}
			}
			for _, part := range tt.host {
				target := filepath.Join(dir, part)
				if err := os.MkdirAll(target, 0o755); err != nil {
					t.Fatal(err)
				}
				source := filepath.Join("/sys", part)
				if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
					t.Fatal(err)
				}
			}
			if got := (process{}).isSysfs(dir); got != tt.isSysfs {
				t.Errorf("isSysfs() = %v, want %v", got, tt.isSysfs)
			}
			if got := (process{}).isWhole(dir); got != tt.isWhole {
				t.Errorf("isWhole() = %v, want %v", got, tt.isWhole)
			}
		})
	}
}

func TestSyntheticEventsExistSinceLinux4Point13(t *testing.T) {
	for release, want := range map[string]bool{
		"3.10.0-1160.el7.x86_64":    false,
		"4.9.337":                   false,
		"4.12.14-122-default":       false,
		"4.13.0":                    true,
		"4.18.0-553.el8_10.x86_64":  true,
		"5.4.0":                     true,
		"6.12.43+deb13-cloud-amd64": true,
		"10.0":                      true,
		"unusual":                   true,
		"":                          true,
	} {
		if got := isSyntheticEventRelease(release); got != want {
			t.Errorf("isSyntheticEventRelease(%q) = %v, want %v", release, got, want)
		}
	}
	if !(process{}).hasSyntheticEvents() {
		t.Error("the kernel of this machine is taken for an old one")
	}
}
