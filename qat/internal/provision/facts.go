// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// The attributes of a PF that are written, relative to its directory
// (Documentation/ABI/testing/sysfs-driver-qat, Documentation/ABI/testing/sysfs-bus-pci).
//
// The driver accepts cfg_services and pm_idle_enabled only while the PF is down, with EINVAL
// otherwise. It accepts auto_reset at any time (drivers/crypto/intel/qat/qat_common/adf_sysfs.c,
// cfg_services_store, pm_idle_enabled_store, auto_reset_store). To take a PF down is EBUSY while it
// is in reset or in use by the kernel (state_store).
const (
	attrState     = "qat/state"
	attrServices  = "qat/cfg_services"
	attrAutoReset = "qat/auto_reset"
	attrPMIdle    = "qat/pm_idle_enabled"
	attrNumVFs    = "sriov_numvfs"
	attrTotalVFs  = "sriov_totalvfs"
	attrAutoprobe = "sriov_drivers_autoprobe"
)

// attrUnbind is the file, relative to the directory of a VF, that unbinds it from its driver.
const attrUnbind = "driver/unbind"

// facts is the state of a PF at the time of a read. An attribute that does not exist is "", or 0 if
// it is a number: Gen2 has none of qat/, and kernels differ in which of it they have.
type facts struct {
	address     pci.Address
	incarnation uint64 // changes when another device gets the address
	family      *device.Family
	numaNode    int
	driver      string // "" when unbound

	state, services, autoReset, pmIdle string
	totalVFs, numVFs                   int
	autoprobe                          string
	vfs                                []vf // by the virtfn links, in ascending order
}

// A vf is a VF of a PF.
type vf struct {
	address pci.Address
	driver  string // "" when unbound
}

// sameSettings reports whether a PF has the same settings in other as in f. The drivers of the VFs
// do not count, because mode dpdk binds new VFs.
func (f *facts) sameSettings(other *facts) bool {
	return f.incarnation == other.incarnation && f.driver == other.driver && f.state == other.state &&
		f.services == other.services && f.autoReset == other.autoReset && f.pmIdle == other.pmIdle &&
		f.totalVFs == other.totalVFs && f.numVFs == other.numVFs && len(f.vfs) == len(other.vfs)
}

// isComplete reports whether the facts look like those of a PF that the kernel does not change at
// the moment. While its driver is being bound, qat/state can be missing. While VFs are added or
// removed, their number is not sriov_numvfs.
func (f *facts) isComplete() bool {
	return len(f.vfs) == f.numVFs && (f.driver == "" || f.state != "" || !f.family.Services)
}

// A host reads the host. The kernel can block read, but not the other methods.
type host interface {
	// addresses returns the addresses of all PCI functions.
	addresses() ([]pci.Address, error)

	// read reads the PF at an address. The result has no facts and no error if there is no PF. It
	// records its progress in p.
	read(a pci.Address, p *device.Progress) readResult

	// incarnation returns what facts.incarnation of a function is now; 0 if it is gone.
	incarnation(a pci.Address) (uint64, error)

	// attribute returns the value of an attribute of a PF.
	attribute(a pci.Address, name string) (string, error)

	// vfs returns the VFs of a PF, in no order.
	vfs(a pci.Address) ([]vf, error)

	// hasIOMMU reports whether the host has an IOMMU that is enabled.
	hasIOMMU() bool
}

// A readResult is the result of a read of one function.
type readResult struct {
	facts   *facts
	watched []string // directories that are watched for the PF
	err     error
}

// sysfsHost is the host that a sysfs shows.
type sysfsHost struct {
	sysfs   string
	reader  *device.Reader
	watches *hostwatch.Watches
}

func (h *sysfsHost) entry(a pci.Address) string {
	return filepath.Join(h.sysfs, "bus/pci/devices", a.String())
}

func (h *sysfsHost) addresses() ([]pci.Address, error) { return h.reader.Addresses() }

func (h *sysfsHost) incarnation(a pci.Address) (uint64, error) {
	inode, err := sysfs.Inode(h.entry(a))
	if sysfs.IsAbsent(err) {
		return 0, nil
	}
	return inode, err
}

func (h *sysfsHost) attribute(a pci.Address, name string) (string, error) {
	return sysfs.ReadFile(filepath.Join(h.entry(a), name))
}

func (h *sysfsHost) vfs(a pci.Address) (vfs []vf, err error) {
	dir, err := sysfs.OpenDir(h.entry(a))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Names(".")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "virtfn") {
			continue
		}
		target, err := dir.Link(name)
		if err != nil {
			return nil, err
		}
		if address, ok := pci.Parse(target); ok {
			driver, err := h.reader.Driver(address)
			if err != nil {
				return nil, err
			}
			vfs = append(vfs, vf{address, driver})
		}
	}
	return vfs, nil
}

func (h *sysfsHost) hasIOMMU() bool {
	names, err := sysfs.Names(filepath.Join(h.sysfs, "class/iommu"))
	return err != nil || len(names) > 0
}

// read watches the directories of a PF before it reads them, so that it misses no change.
func (h *sysfsHost) read(a pci.Address, p *device.Progress) (r readResult) {
	handle, err := h.reader.Tracked(p).Open(a, nil)
	if handle == nil {
		return readResult{err: err}
	}
	defer handle.Close()
	if handle.IsVF() {
		return readResult{}
	}
	for _, w := range handle.Watches() {
		h.watches.Want(w.Dir, w.Incarnation)
		r.watched = append(r.watched, w.Dir)
	}
	r.facts, r.err = h.readPF(a, handle)
	return r
}

// readPF reads a PF whose driver does not change meanwhile.
func (h *sysfsHost) readPF(a pci.Address, handle *device.Handle) (*facts, error) {
	const attempts = 3
	for i := 1; ; i++ {
		driver, err := h.reader.Driver(a)
		if err != nil {
			return nil, err
		}
		f, err := h.readOnce(handle)
		if err != nil || f == nil || f.driver == driver || i == attempts {
			return f, err
		}
	}
}

// readOnce reads sriov_numvfs first. That read waits until a driver that is being bound or unbound
// is, and until the kernel has added or removed all VFs.
func (h *sysfsHost) readOnce(handle *device.Handle) (*facts, error) {
	f := &facts{}
	for _, attribute := range []struct {
		name  string
		value *int
	}{
		{attrNumVFs, &f.numVFs},
		{attrTotalVFs, &f.totalVFs},
	} {
		text, err := handle.Attribute(attribute.name)
		if err != nil {
			return nil, err
		}
		if text == "" {
			continue
		}
		if *attribute.value, err = strconv.Atoi(text); err != nil {
			return nil, fmt.Errorf("read %s: %q is not a number", attribute.name, text)
		}
	}
	for _, attribute := range []struct {
		name  string
		value *string
	}{
		{attrAutoprobe, &f.autoprobe},
		{attrAutoReset, &f.autoReset},
		{attrPMIdle, &f.pmIdle},
	} {
		var err error
		if *attribute.value, err = handle.Attribute(attribute.name); err != nil {
			return nil, err
		}
	}
	function, err := handle.Read()
	if function == nil || err != nil {
		return nil, err
	}
	f.address, f.incarnation, f.family = function.Address, function.Incarnation, function.Family
	f.numaNode, f.driver = function.NUMANode, function.Driver
	f.state, f.services = function.State, function.Services
	for _, a := range function.VFs {
		driver, err := h.reader.Driver(a)
		if err != nil {
			return nil, err
		}
		f.vfs = append(f.vfs, vf{a, driver})
	}
	return f, nil
}
