// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// namespacesEnv is set in the processes that this package starts in new namespaces.
const namespacesEnv = "QATPLUGIN_TEST_NAMESPACES"

// attributes returns the attributes of a process in new namespaces. flags are CLONE_NEW… flags.
// With CLONE_NEWUSER, the process is root in its user namespace.
func attributes(flags uintptr) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

// InNamespaces runs the calling test again in another process, and returns true there. The process
// is in a new user namespace, in which it is root, and in the namespaces of flags, such as
// CLONE_NEWNET. In the calling process InNamespaces returns false after the other process has
// ended. It fails the test if the test failed there, and skips it, see [Skip], if the test was
// skipped there or if the machine does not allow user namespaces.
func InNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	if os.Getenv(namespacesEnv) != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.Command(self, "-test.run="+pattern, "-test.v", "-test.timeout=2m")
	// Without CI, the test may be skipped in the other process; this process decides about that.
	// The race detector would delay the end of the other process by a second.
	cmd.Env = append(os.Environ(), namespacesEnv+"=1", "CI=", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = attributes(flags | unix.CLONE_NEWUSER)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		t.Fatalf("in new namespaces: %v\n%s", err, out)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EACCES):
		Skip(t, "this machine does not allow user namespaces: "+err.Error())
	case err != nil:
		t.Fatal(err)
	case strings.Contains(string(out), "--- SKIP"):
		Skip(t, strings.TrimSpace(string(out)))
	}
	t.Logf("in new namespaces:\n%s", out)
	return false
}

// RunInNamespaces is for the TestMain of tests that all need namespaces, which flags name. The
// first call runs the program again there, with the same arguments, and returns its exit code and
// again = true: the caller must exit with that code. In the new process it makes all mounts private
// and returns again = false. If the user may not create the namespaces, it also creates a user
// namespace. It returns an error if the machine does not allow that either.
func RunInNamespaces(flags uintptr) (code int, again bool, err error) {
	if os.Getenv(namespacesEnv) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return 0, false, fmt.Errorf("make the mounts of the new namespace private: %w", err)
		}
		return 0, false, nil
	}
	var failures []error
	for _, f := range []uintptr{flags, flags | unix.CLONE_NEWUSER} {
		code, err := runAgain(attributes(f))
		if err == nil {
			return code, true, nil
		}
		failures = append(failures, err)
	}
	return 0, false, fmt.Errorf("create namespaces: %w", errors.Join(failures...))
}

// runAgain runs this program again and returns its exit code, or an error if it did not start.
func runAgain(attr *syscall.SysProcAttr) (int, error) {
	// Pdeathsig is sent when the thread that started the child ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attr.Pdeathsig = syscall.SIGKILL
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), namespacesEnv+"=1")
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
