// SPDX-License-Identifier: Apache-2.0

package devicemanager

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolatedEnv is set in the process that RunIsolated starts.
const isolatedEnv = "QATPLUGIN_TEST_MOUNT_NAMESPACE"

// RunIsolated makes the program run with a /var/lib/kubelet of its own. The first call runs the
// program again, with the same arguments, in a new mount namespace, and returns its exit code and
// again = true: the caller must exit with that code. In the new process the call mounts the
// directory and returns again = false. It returns an error if the machine does not allow that.
func RunIsolated() (code int, again bool, err error) {
	if os.Getenv(isolatedEnv) != "" {
		return 0, false, mountKubeletDir()
	}
	// CLONE_NEWNS needs CAP_SYS_ADMIN. In a new user namespace every user has it.
	plain := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	user := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	var failures []error
	for _, attr := range []*syscall.SysProcAttr{plain, user} {
		code, err := runAgain(attr)
		if err == nil {
			return code, true, nil
		}
		failures = append(failures, err)
	}
	return 0, false, fmt.Errorf("create a mount namespace: %w", errors.Join(failures...))
}

// runAgain runs this program again and returns its exit code, or an error if it did not start.
func runAgain(attr *syscall.SysProcAttr) (int, error) {
	// Pdeathsig is sent when the thread that started the child ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attr.Pdeathsig = syscall.SIGKILL
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	default:
		_, _ = fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		return 1, nil
	}
}

// mountKubeletDir mounts an empty tmpfs at /var/lib/kubelet. If the machine has no such directory,
// it must not be created there, so the tmpfs is mounted at its parent.
func mountKubeletDir() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts of the new namespace private: %w", err)
	}
	target := "/var/lib/kubelet"
	if _, err := os.Stat(target); err != nil {
		target = "/var/lib"
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs at %q: %w", target, err)
	}
	if err := os.MkdirAll(SocketDir, 0o755); err != nil {
		return fmt.Errorf("create the kubelet's directory: %w", err)
	}
	return nil
}
