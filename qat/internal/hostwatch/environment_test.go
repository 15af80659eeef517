// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"qatplugin/internal/testenv"
)

// What the kernel calls its first namespaces (include/uapi/linux/nsfs.h, enum init_ns_ino); that of networks has had a name of its own since 6.18.
const firstUser, firstNetwork, firstPID = "user:[4026531837]", "net:[4026531833]", "pid:[4026531836]"

func link(t *testing.T, name string) string {
	t.Helper()
	target, err := os.Readlink(name)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestAProcessKnowsItsNamespaces(t *testing.T) {
	if got, want := (process{}).inUserNamespace(), link(t, "/proc/self/ns/user") != firstUser; got != want {
		t.Errorf("in a user namespace: %v, want %v", got, want)
	}
	network := link(t, "/proc/self/ns/net")
	first, err := os.Readlink("/proc/1/ns/net") // which root may see, as a rule
	known := err == nil && link(t, "/proc/self/ns/pid") == firstPID
	if got, want := (process{}).inInitialNetworkNamespace(), network == firstNetwork || known && network == first; got != want && (want || known) {
		t.Errorf("in the first network namespace: %v, want %v", got, want)
	}
	if !inNamespaces(t) {
		return
	}
	if !(process{}).inUserNamespace() || (process{}).inInitialNetworkNamespace() {
		t.Error("in namespaces of its own: a process does not know them")
	}
}

// A sysfs can be mounted as a whole or in parts, over another one or over nothing.
func TestAProcessKnowsWhatItsSysfsIsMadeOf(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	for _, dir := range []string{"/sys/bus/pci/devices", "/sys/devices"} {
		if _, err := os.Stat(dir); err != nil {
			testenv.Skip(t, "this machine has no PCI bus in sysfs: "+err.Error())
		}
	}
	for name, tt := range map[string]struct {
		own              bool     // of this network namespace, below what is mounted
		host             []string // parts of the host's that are mounted
		isSysfs, isWhole bool
	}{
		"an ordinary directory":                 {isWhole: true},
		"the host's":                            {host: []string{""}, isSysfs: true, isWhole: true},
		"one of its own":                        {own: true, isSysfs: true, isWhole: true},
		"the host's bus alone":                  {host: []string{"bus/pci"}, isSysfs: true},
		"the host's devices alone":              {host: []string{"devices"}, isSysfs: true, isWhole: true}, // there is no bus to listen to
		"the host's bus over one of its own":    {own: true, host: []string{"bus/pci"}, isSysfs: true},
		"the host's list over one of its own":   {own: true, host: []string{"bus/pci/devices"}, isSysfs: true},
		"the host's bus and devices":            {host: []string{"bus/pci", "devices"}, isSysfs: true, isWhole: true},
		"both, over one of its own":             {own: true, host: []string{"bus/pci", "devices"}, isSysfs: true, isWhole: true},
		"the host's with its own parts over it": {host: []string{"", "bus/pci", "devices"}, isSysfs: true, isWhole: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Cleanup(func() {
				for unix.Unmount(dir, unix.MNT_DETACH) == nil { // one mount after another, each with what is mounted in it
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
				if err := unix.Mount(filepath.Join("/sys", part), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
					t.Fatal(err)
				}
			}
			if got := (process{}).isSysfs(dir); got != tt.isSysfs {
				t.Errorf("is a sysfs: %v, want %v", got, tt.isSysfs)
			}
			if got := (process{}).isWhole(dir); got != tt.isWhole {
				t.Errorf("is whole: %v, want %v", got, tt.isWhole)
			}
		})
	}
}

func TestKernelsFrom4Point13OnAnswer(t *testing.T) {
	for release, want := range map[string]bool{
		"3.10.0-1160.el7.x86_64": false, "4.9.337": false, "4.12.14-122-default": false, "4.13.0": true, "4.18.0-553.el8_10.x86_64": true,
		"5.4.0": true, "6.12.43+deb13-cloud-amd64": true, "10.0": true, "of my own": true, "": true,
	} {
		if got := isSyntheticEventRelease(release); got != want {
			t.Errorf("kernel %q answers: %v, want %v", release, got, want)
		}
	}
	if !(process{}).hasSyntheticEvents() {
		t.Error("the kernel of this machine, which Go and this test run on, does not answer")
	}
}

// inNamespaces runs the test that calls it in user, network and mount namespaces of its own, as another process, and returns true there.
func inNamespaces(t *testing.T) bool {
	t.Helper()
	const mark = "HOSTWATCH_TEST_IN_NAMESPACES"
	if os.Getenv(mark) != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=1m")
	// What it must leave out is for this process to judge. The race detector would keep it for a second at its end.
	cmd.Env = append(os.Environ(), mark+"=1", "CI=", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		t.Fatalf("in namespaces of its own: %v\n%s", err, out)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EACCES):
		testenv.Skip(t, "this machine does not allow user namespaces: "+err.Error())
	case err != nil:
		t.Fatal(err)
	case strings.Contains(string(out), "--- SKIP"):
		testenv.Skip(t, strings.TrimSpace(string(out)))
	}
	t.Logf("in namespaces of its own:\n%s", out)
	return false
}
