// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// containerArg is the argument with which the test binary enters a container. The container
// follows as JSON.
const containerArg = "container"

// command returns a command that runs qat_plugin in the container, with additional flags.
func (c *container) command(t *testing.T, flags ...string) *exec.Cmd {
	t.Helper()
	withFlags := *c
	withFlags.Args = append(append([]string{}, c.Args...), flags...)
	text, err := json.Marshal(withFlags)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/init", containerArg, string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	if c.UserNamespace {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = root, root
	}
	return cmd
}

// execInContainer sets up the container in the namespaces of this process, as a container runtime
// does, and replaces the process with qat_plugin. It returns only if that fails.
func execInContainer(text string) error {
	// Each thread has capabilities of its own. The one that drops them must be the one that calls
	// execve (capabilities(7)).
	runtime.LockOSThread()
	var c container
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	const root = "/tmp"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount the container's root: %w", err)
	}
	const program = "/usr/local/bin/qat_plugin"
	if err := copyFile("/bin/qat_plugin", root+program); err != nil {
		return err
	}
	standard := []mount{{Source: "proc", Target: "/proc"}, {Source: "sysfs", Target: "/sys", ReadOnly: true}}
	for _, m := range append(standard, c.Mounts...) {
		if err := m.mountBelow(root); err != nil {
			return fmt.Errorf("mount %+v: %w", m, err)
		}
	}
	if err := setLoopbackUp(); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the container's root read-only: %w", err)
	}
	// Like switch_root, because pivot_root does not work on the initial root file system.
	err := errors.Join(os.Chdir(root), unix.Mount(root, "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/"))
	if err != nil {
		return fmt.Errorf("enter the container's root: %w", err)
	}
	if err := dropPrivileges(); err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	return fmt.Errorf("execute %s: %w", program, syscall.Exec(program, append([]string{program}, c.Args...), nil))
}

// mountBelow mounts the volume below the container's root. For proc and sysfs it mounts a new
// instance, as a runtime does.
func (m mount) mountBelow(root string) error {
	target := filepath.Join(root, m.Target)
	if err := os.MkdirAll(target, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
		return err
	}
	var err error
	switch m.Source {
	case "proc", "sysfs":
		err = unix.Mount(m.Source, target, m.Source, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	case "":
		err = unix.Mount("tmpfs", target, "tmpfs", 0, "mode=777")
	default:
		err = unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil || !m.ReadOnly {
		return err
	}
	flags := uint(0)
	if m.Recursive {
		flags = unix.AT_RECURSIVE
	}
	return unix.MountSetattr(unix.AT_FDCWD, target, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o755)
}

// setLoopbackUp sets the interface lo up, as a network plugin does in each pod.
func setLoopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// dropPrivileges does for user 0 what "drop: [ALL]" and "allowPrivilegeEscalation: false" ask for.
func dropPrivileges() error {
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: the kernel does not know the capability
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	none := [2]unix.CapUserData{}
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
}
