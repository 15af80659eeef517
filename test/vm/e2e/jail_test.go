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

// jailWord is the argument by which the machine's first program becomes the one that goes into a container.
const jailWord = "jail"

// in is the command that runs qat_plugin in the container, in network, mount, process and IPC namespaces of its own.
func (c *container) in(t *testing.T, flags ...string) *exec.Cmd {
	t.Helper()
	with := *c
	with.Args = append(append([]string{}, c.Args...), flags...)
	text, err := json.Marshal(with)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/init", jailWord, string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if c.UserNamespace {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = root, root
	}
	return cmd
}

// jail is the life of the process in the container until it becomes qat_plugin. It returns only when something failed.
func jail(text string) error {
	runtime.LockOSThread() // privileges are each thread's own: that which drops them must be the one that becomes the program (capabilities(7))
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
	for _, m := range append([]mount{{Source: "proc", Target: "/proc"}, {Source: "sysfs", Target: "/sys", ReadOnly: true}}, c.Mounts...) {
		if err := m.make(root); err != nil {
			return fmt.Errorf("mount %+v: %w", m, err)
		}
	}
	if err := upLoopback(); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	// As switch_root does: the machine's first file system cannot be pivoted.
	if err := errors.Join(os.Chdir(root), unix.Mount(root, "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/")); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := dropPrivileges(); err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	return fmt.Errorf("run %s: %w", program, syscall.Exec(program, append([]string{program}, c.Args...), nil))
}

// make mounts the volume below the container's root. proc and sysfs are made anew, as a runtime does.
func (m mount) make(root string) error {
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

// upLoopback does what a network plugin does in each pod.
func upLoopback() error {
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

// dropPrivileges is "capabilities: drop: ALL" and "allowPrivilegeEscalation: false" for user 0.
func dropPrivileges() error {
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: the kernel knows fewer
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	none := [2]unix.CapUserData{}
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
}
