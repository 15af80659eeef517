// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolatedEnv is set in the process that runIsolated starts.
const isolatedEnv = "QATPLUGIN_TEST_CHAOS_NAMESPACE"

// runIsolated runs the tests in namespaces of their own: uevents that a test sends reach nobody
// else, and it may mount. The first call runs the program again there and returns its exit code
// and again = true: the caller must exit with that code. In the new process it returns
// again = false. It returns an error if the machine does not allow namespaces.
func runIsolated() (code int, again bool, err error) {
	if os.Getenv(isolatedEnv) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return 0, false, fmt.Errorf("make the mounts of the new namespace private: %w", err)
		}
		return 0, false, nil
	}
	// In a user namespace of its own, every user may create the other two.
	plain := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	user := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER,
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
	return 0, false, fmt.Errorf("create a mount and a network namespace: %w", errors.Join(failures...))
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

// loopbackUp brings up the loopback interface of a new network namespace.
func loopbackUp() error {
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
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("set up the loopback interface: %w", err)
	}
	return nil
}
