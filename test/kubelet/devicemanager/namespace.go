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

// isolatedEnv marks the process that RunIsolated started.
const isolatedEnv = "QATPLUGIN_TEST_MOUNT_NAMESPACE"

// RunIsolated makes sure that the program runs with a /var/lib/kubelet of its own. The first call, in the process that a person or `go
// test` started, runs the same program with the same arguments once more, in a new mount namespace, and returns its exit code with
// again = true: the caller has nothing more to do than to exit with it. In the process in the namespace it prepares the directory and
// returns again = false. An error says why this machine does not allow it.
func RunIsolated() (code int, again bool, err error) {
	if os.Getenv(isolatedEnv) != "" {
		return 0, false, mountKubeletDir()
	}
	// CLONE_NEWNS needs CAP_SYS_ADMIN. A user namespace gives it to anybody, where the machine allows user namespaces.
	plain := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	user := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	var failed []error
	for _, attr := range []*syscall.SysProcAttr{plain, user} {
		code, err := runAgain(attr)
		if err == nil {
			return code, true, nil
		}
		failed = append(failed, err)
	}
	return 0, false, fmt.Errorf("make a mount namespace: %w", errors.Join(failed...))
}

// runAgain runs this program once more and waits for it. An error means that it did not start.
func runAgain(attr *syscall.SysProcAttr) (int, error) {
	// The child dies with the thread that started it.
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

// mountKubeletDir mounts an empty tmpfs for /var/lib/kubelet. On a machine without that directory, where none is to be made, the tmpfs is
// mounted on its parent.
func mountKubeletDir() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts of the new namespace private: %w", err)
	}
	target := "/var/lib/kubelet"
	if _, err := os.Stat(target); err != nil {
		target = "/var/lib"
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs on %q: %w", target, err)
	}
	if err := os.MkdirAll(SocketDir, 0o755); err != nil {
		return fmt.Errorf("make the kubelet's directory: %w", err)
	}
	return nil
}
