package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	pciDevices = "/sys/bus/pci/devices"
	pciDrivers = "/sys/bus/pci/drivers"
	control    = "/sys/kernel/debug/qat_sim"
)

// A pf is one physical function of the module qat_sim, where it is after the module was loaded.
type pf struct {
	index   int
	address string // 0000:6b:00.0
}

// newHost loads the module with its parameters (module/main.c lists them) and unloads it when the test ends.
func newHost(t *testing.T, parameters string) []*pf {
	t.Helper()
	if err := insertModule("qat_sim", parameters); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeModule("qat_sim"); err != nil {
			t.Error(err)
		}
		if left := groups(t); len(left) > 0 {
			t.Errorf("VFIO groups left behind: %v", left)
		}
	})
	var pfs []*pf
	for i := range len(glob(t, control+"/*")) {
		bus := []string{"6b", "70", "75", "7a", "80", "85", "8a", "90"}[i]
		pfs = append(pfs, &pf{index: i, address: "0000:" + bus + ":00.0"})
	}
	return pfs
}

// path is a file of the PF in sysfs.
func (p *pf) path(name string) string { return filepath.Join(pciDevices, p.address, name) }

// control is a file of the PF in the module's debugfs directory.
func (p *pf) control(name string) string { return filepath.Join(control, strconv.Itoa(p.index), name) }

// heartbeat is the file whose reading performs the check.
func (p *pf) heartbeat(driver string) string {
	return "/sys/kernel/debug/qat_" + driver + "_" + p.address + "/heartbeat/status"
}

// vfs returns the addresses of the PF's VFs, by their number.
func (p *pf) vfs(t *testing.T) (addresses []string) {
	t.Helper()
	for i := range len(glob(t, p.path("virtfn*"))) {
		target, err := os.Readlink(p.path("virtfn" + strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, filepath.Base(target))
	}
	return addresses
}

func write(t *testing.T, path, value string) {
	t.Helper()
	if err := tryWrite(path, value); err != nil {
		t.Fatal(err)
	}
}

// tryWrite writes as echo does: the file must exist, and one system call holds the whole value.
func tryWrite(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// base returns the last element of a link's target, and "" when there is no link.
func base(link string) string {
	target, err := os.Readlink(link)
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// bind gives a function to vfio-pci, as an administrator does.
func bind(t *testing.T, address string) {
	t.Helper()
	write(t, filepath.Join(pciDevices, address, "driver_override"), "vfio-pci")
	write(t, "/sys/bus/pci/drivers_probe", address)
}

// groups returns the names of the VFIO group nodes.
func groups(t *testing.T) []string {
	t.Helper()
	nodes := glob(t, "/dev/vfio/[0-9]*")
	for i := range nodes {
		nodes[i] = filepath.Base(nodes[i])
	}
	slices.Sort(nodes)
	return nodes
}

// steady tells whether this is the machine whose time does not depend on how busy its host is (run.sh).
func steady() bool { return os.Getenv("VM_MACHINE") == "steady" }

// monotonic is CLOCK_MONOTONIC in microseconds, which all processes share.
func monotonic() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return now.Nano() / 1000
}
