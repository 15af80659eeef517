// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == containerArg {
		fmt.Fprintln(os.Stderr, execInContainer(os.Args[2]))
		os.Exit(1)
	}
	if os.Getpid() != 1 {
		// The second line makes go test print "[no tests to run]" after "ok", even without -v.
		fmt.Println("not in the test VM: run make e2e\ntesting: warning: no tests to run")
		return
	}
	if err := setUpGuest(); err != nil {
		fmt.Println("set up the guest:", err)
		powerOff(1)
	}
	if len(os.Args) > 1 && os.Args[1] == "shell" {
		runShell()
		powerOff(0)
	}
	rc := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Println("FAIL:", err)
		rc = 1
	}
	if warnings := kernelWarnings(); len(warnings) > 0 {
		fmt.Printf("FAIL: the kernel logged warnings:\n%s\n", strings.Join(warnings, "\n"))
		rc = 1
	}
	powerOff(rc)
}

// setUpGuest mounts the kernel's file systems and loads the modules of the initrd.
func setUpGuest() error {
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"devtmpfs", "/dev"},
		{"tmpfs", "/tmp"},
		{"tmpfs", "/run"},
		{"debugfs", "/sys/kernel/debug"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(order)) {
		if err := insertModule(name, ""); err != nil {
			return err
		}
	}
	// Not every kernel finds the interrupt remapping of the emulated IOMMU. Without it, VFIO opens
	// a VF only with this parameter set.
	return os.WriteFile("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", []byte("1"), 0)
}

func insertModule(name, parameters string) error {
	f, err := os.Open(filepath.Join("/modules", name+".ko"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), parameters, 0); err != nil {
		return fmt.Errorf("insert module %s %s: %w", name, parameters, err)
	}
	return nil
}

func removeModule(name string) error {
	if err := unix.DeleteModule(name, unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("remove module %s: %w", name, err)
	}
	return nil
}

// runShell runs a shell on the serial console.
func runShell() {
	fmt.Println(`busybox sh; "exit" powers the machine off. Try:`)
	fmt.Println(`insmod /modules/qat_sim.ko npf=2; ls /sys/bus/pci/devices /sys/kernel/debug/qat_sim`)
	_ = exec.Command("/bin/busybox", "--install", "-s", "/bin").Run()
	cmd := exec.Command("/bin/busybox", "sh")
	cmd.Env = []string{"PATH=/bin", "HOME=/", "PS1=vm# "}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
	}
}

// kernelWarnings returns the lines of the kernel log that only a bug in a module or in a test can
// cause.
func kernelWarnings() (found []string) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return []string{err.Error()}
	}
	log := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, log)
	if err != nil {
		return []string{err.Error()}
	}
	patterns := []string{
		"WARNING:", "BUG:", "Oops", "refcount_t",
		"blocked for more than", "rcu_sched self-detected", "already present!",
	}
	for lines := bufio.NewScanner(bytes.NewReader(log[:n])); lines.Scan(); {
		for _, pattern := range patterns {
			if strings.Contains(lines.Text(), pattern) {
				found = append(found, lines.Text())
			}
		}
	}
	return found
}

// powerOff ends the machine. run.sh takes the exit status from the line that it prints.
func powerOff(rc int) {
	fmt.Printf("@@EXIT %d\n", rc)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
