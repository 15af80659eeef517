// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pciDevices = "/sys/bus/pci/devices"
	pciDrivers = "/sys/bus/pci/drivers"
	debugfs    = "/sys/kernel/debug"
)

// pf is a physical function of the module qat_sim.
type pf struct {
	index   int
	address string // such as 0000:6b:00.0; stays the same when the PF is removed and added again
}

// loadPFs loads the module qat_sim with the parameters, which module/main.c describes, and unloads
// it when the test ends.
func loadPFs(t *testing.T, parameters string) []*pf {
	t.Helper()
	if err := insertModule("qat_sim", parameters); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeModule("qat_sim"); err != nil {
			t.Error(err)
		}
		if left := vfioGroups(t); len(left) > 0 {
			t.Errorf("VFIO groups left behind: %v", left)
		}
	})
	var pfs []*pf
	for i := range len(glob(t, debugfs+"/qat_sim/*")) {
		bus := []string{"6b", "70", "75", "7a", "80", "85", "8a", "90"}[i]
		pfs = append(pfs, &pf{index: i, address: "0000:" + bus + ":00.0"})
	}
	return pfs
}

// path returns the path of a file of the PF in sysfs.
func (p *pf) path(name string) string { return filepath.Join(pciDevices, p.address, name) }

// control returns the path of a file that controls the simulated PF; see module/control.c.
func (p *pf) control(name string) string {
	return filepath.Join(debugfs, "qat_sim", strconv.Itoa(p.index), name)
}

// debugfs returns the path of a file in the debugfs directory of the PF's driver.
func (p *pf) debugfs(name string) string {
	return filepath.Join(debugfs, "qat_"+linkBase(p.path("driver"))+"_"+p.address, name)
}

// heartbeat returns the path of a file in the debugfs directory heartbeat of the PF's driver.
func (p *pf) heartbeat(name string) string { return p.debugfs(filepath.Join("heartbeat", name)) }

// enableVFs creates all VFs of the PF. The driver ignores the number.
func (p *pf) enableVFs(t *testing.T) {
	t.Helper()
	write(t, p.path("sriov_numvfs"), "16")
}

// disableVFs removes all VFs of the PF.
func (p *pf) disableVFs(t *testing.T) {
	t.Helper()
	write(t, p.path("sriov_numvfs"), "0")
}

// vfs returns the addresses of the PF's VFs in the order of their numbers.
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

// resource returns the name of the resource that the PF's VFs belong to.
func (p *pf) resource(t *testing.T) string {
	t.Helper()
	name := "generic"
	if len(glob(t, p.path("qat/cfg_services"))) > 0 {
		if name = strings.ReplaceAll(read(t, p.path("qat/cfg_services")), ";", "-"); name == "asym-sym" {
			name = "cy"
		}
	}
	return "qat.intel.com/" + name
}

// bindToVFIO binds a function to vfio-pci, as an administrator does.
func bindToVFIO(t *testing.T, address string) {
	t.Helper()
	write(t, filepath.Join(pciDevices, address, "driver_override"), "vfio-pci")
	write(t, "/sys/bus/pci/drivers_probe", address)
}

// driverOf returns the driver that a function is bound to, or "".
func driverOf(address string) string { return linkBase(filepath.Join(pciDevices, address, "driver")) }

// groupOf returns the number of a function's IOMMU group, or "".
func groupOf(address string) string {
	return linkBase(filepath.Join(pciDevices, address, "iommu_group"))
}

// vfioGroups returns the numbers of the groups that have a node in /dev/vfio.
func vfioGroups(t *testing.T) []string {
	t.Helper()
	nodes := glob(t, "/dev/vfio/[0-9]*")
	for i := range nodes {
		nodes[i] = filepath.Base(nodes[i])
	}
	slices.Sort(nodes)
	return nodes
}

func write(t *testing.T, path, value string) {
	t.Helper()
	if err := tryWrite(path, value); err != nil {
		t.Fatal(err)
	}
}

// tryWrite writes as echo does: into an existing file, with a single system call.
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

// linkBase returns the last element of a link's target, or "" if there is no link.
func linkBase(link string) string {
	target, err := os.Readlink(link)
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// isSteady reports whether this is the machine whose clock does not depend on the load of its host;
// see run.sh.
func isSteady() bool { return os.Getenv("VM_MACHINE") == "steady" }

// monotonic returns the time of CLOCK_MONOTONIC, which all processes share.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return time.Duration(now.Nano())
}
