package qat

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Function is one QAT function, PF or VF, as sysfs showed it at one moment. Paths below are those of the function's directory,
// bus/pci/devices/<address>, unless they say otherwise.
type Function struct {
	Address  Address
	Dir      string  // the directory that the entry in bus/pci/devices points to
	Family   *Family // by vendor and device
	IsVF     bool
	Driver   string // base of the driver link; "" when no driver is bound
	NUMANode int    // numa_node; -1 when the platform does not say

	PF    *Address // VF only: base of the physfn link; nil in a guest, and for a moment after the VF came
	Going bool     // VF only: it had a physfn link, and has none any more: the kernel is about to take it away
	Group *int     // VF only: base of the iommu_group link; nil without an IOMMU
	Node  Node     // VF only: the file in /dev through which user space drives it

	VFs      []Address // PF only: the virtfn* links, ascending
	State    string    // PF only: qat/state; "" when the driver does not have it
	Resource string    // PF only: the resource that its services make, Generic when nothing says

	Broken string // what could not be read, "" when all could
	Sick   string // why the function, or a PF's VFs, must not be used, "" when they may; not of sysfs

	incarnation uint64 // differs when the device went and another came under the same address
}

// Node says how far a VF is from being usable through its DPDK driver.
type Node struct {
	Name string // below /dev: "vfio/12", "vfio/noiommu-0", "vfio/devices/vfio3", "uio3"; "" when the DPDK driver does not have the VF
	// Missing is why the node cannot be used, "" when it can. The driver link alone says nothing: it is there for a moment while a
	// probe fails, and stays while a VF that a workload holds open is removed.
	Missing string
	Leaving bool // the node is there but no VFIO device behind it: the VF is being taken from its holder, or still being probed
}

func (f *Function) equal(other *Function) bool {
	return f == other || f != nil && other != nil && reflect.DeepEqual(f, other)
}

// A host is what the plugin reads: one sysfs and one /dev, wherever they are mounted.
type host struct {
	sysfs      string
	dev        string
	dpdkDriver string
	vfio       string // one of VFIOInterfaces
	// watch is called with each directory that says something of a QAT function, before it is read: what changes from then on is
	// heard of. incarnation differs when the directory is another one under the same name; 0: that needs no telling.
	watch func(dir string, incarnation uint64)
}

const (
	driverVFIO = "vfio-pci"
	driverUIO  = "igb_uio"
	// driverQATVFIO is the kernel's vfio-pci with live migration for QAT VFs (drivers/vfio/pci/qat).
	driverQATVFIO = "qat_vfio_pci"
)

// bound tells whether a driver is the wanted one, or one that does its work.
func (h *host) bound(driver string) bool {
	return driver == h.dpdkDriver || h.dpdkDriver == driverVFIO && driver == driverQATVFIO
}

// addresses lists every PCI function of the host, QAT or not.
func (h *host) addresses() ([]Address, error) {
	d, err := openDirectory(filepath.Join(h.sysfs, "bus/pci/devices"))
	if err != nil {
		return nil, err
	}
	defer d.close()
	names, err := d.names(".")
	if err != nil {
		return nil, err
	}
	list := make([]Address, 0, len(names))
	for _, name := range names {
		if a, ok := ParseAddress(name); ok {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, Address.Compare)
	return list, nil
}

// look reads one function. It is nil without an error when there is none at the address or it is not of QAT. With an error, which says
// what could not be read, the Function holds what could, or is nil when not even its kind could be told.
//
// The entry in bus/pci/devices goes before the remove event is sent (drivers/base/core.c, device_del), so a look that follows the event
// finds none, though the directory behind it may still be there.
//
// The order of the reads matters: the driver comes before physfn. The kernel lets a driver take a VF only after it made physfn
// (drivers/pci/iov.c, pci_iov_add_virtfn), so a VF that is seen bound here is seen with its PF.
func (h *host) look(a Address) (*Function, error) {
	link := filepath.Join(h.sysfs, "bus/pci/devices", a.String())
	f, err := h.lookAt(a, link)
	if err != nil && !exists(link) {
		return nil, nil // it went away meanwhile
	}
	return f, err
}

func (h *host) lookAt(a Address, link string) (*Function, error) {
	d, err := openDirectory(link)
	if err != nil {
		return nil, err
	}
	defer d.close()
	vendor, err := readID(d, "vendor")
	if err != nil {
		return nil, err
	}
	if vendor != vendorIntel {
		return nil, nil
	}
	device, err := readID(d, "device")
	if err != nil {
		return nil, err
	}
	family, isVF := familyOf(vendor, device)
	if family == nil {
		return nil, nil
	}
	f := &Function{Address: a, Family: family, IsVF: isVF, NUMANode: -1}
	if f.Dir, err = realDirectory(link); err != nil {
		return nil, err
	}
	if f.incarnation, err = d.inode("."); err != nil {
		return nil, err
	}
	h.watch(f.Dir, f.incarnation)
	if f.Driver, err = d.link("driver"); err != nil {
		return nil, err
	}
	if text, err := d.read("numa_node"); err == nil {
		if n, err := strconv.Atoi(text); err == nil && n >= 0 {
			f.NUMANode = n
		}
	}
	if isVF {
		err = h.lookAtVF(d, f)
	} else {
		err = h.lookAtPF(d, f)
	}
	return f, err
}

func readID(d directory, name string) (uint16, error) {
	text, err := d.read(name)
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 16)
	if err != nil {
		return 0, fmt.Errorf("read %q: %q is not a PCI ID such as 0x8086", filepath.Join(d.path, name), text)
	}
	return uint16(id), nil
}
