package qat

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/ini.v1"
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
	Group *int     // VF only: base of the iommu_group link; nil without an IOMMU
	Node  Node     // VF only: the file in /dev through which user space drives it

	VFs      []Address // PF only: the virtfn* links, ascending
	State    string    // PF only: qat/state; "" when the driver does not have it
	Resource string    // PF only: the resource that its services make, Generic when nothing says

	Broken string // what could not be read, "" when all could

	incarnation uint64 // differs when the device went and another came under the same address
}

// Node says how far a VF is from being usable through its DPDK driver.
type Node struct {
	Name string // below /dev: "vfio/12", "vfio/noiommu-0", "uio3"; "" when the DPDK driver does not have the VF
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

func (h *host) lookAtVF(d directory, f *Function) error {
	physfn, err := d.link("physfn")
	if err != nil {
		return err
	}
	if pf, ok := ParseAddress(physfn); ok {
		f.PF = &pf
	}
	group, err := d.link("iommu_group")
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(group); err == nil {
		f.Group = &n
	}
	switch {
	case h.dpdkDriver == driverVFIO && f.Group != nil && (h.bound(f.Driver) || f.Driver == ""):
		return h.lookForVFIO(d, f)
	case !h.bound(f.Driver):
		return nil
	case h.dpdkDriver == driverUIO:
		return h.lookForUIO(d, f)
	}
	f.Node.Missing = "it has no IOMMU group: the kernel needs intel_iommu=on, or vfio its enable_unsafe_noiommu_mode"
	return nil
}

// lookForVFIO finds the node of the VF's IOMMU group (drivers/vfio/group.c). When a VF is removed or unbound that a workload holds open,
// the driver link and vfio-dev go at once; the group's node stays until the holder closes it, which may take seconds
// (drivers/base/dd.c, __device_release_driver; drivers/vfio/vfio_main.c, vfio_unregister_group_dev).
func (h *host) lookForVFIO(d directory, f *Function) error {
	node := "vfio/" + strconv.Itoa(*f.Group)
	if name, err := d.read("iommu_group/name"); err == nil && name == "vfio-noiommu" {
		node = "vfio/noiommu-" + strconv.Itoa(*f.Group)
	}
	there := exists(filepath.Join(h.dev, node))
	if f.Driver == "" {
		if there && alone(d) {
			f.Node = Node{Name: node, Missing: leaving, Leaving: true}
		}
		return nil
	}
	f.Node.Name = node
	if !there {
		f.Node.Missing = "/dev/" + node + " is not there"
		return nil
	}
	// Kernels from 6.1 on have a vfio-dev for each device that VFIO serves.
	if exists(filepath.Join(h.sysfs, "class/vfio-dev")) {
		there, err := d.exists("vfio-dev")
		if err != nil {
			return err
		}
		if !there {
			f.Node.Missing, f.Node.Leaving = leaving, true
		}
	}
	return nil
}

const leaving = "it is being removed or unbound while a workload holds it"

// alone tells whether a function shares its IOMMU group with no other, so that the group's node is its own.
func alone(d directory) bool {
	names, err := d.names("iommu_group/devices")
	return err == nil && len(names) <= 1
}

func (h *host) lookForUIO(d directory, f *Function) error {
	names, err := d.names("uio")
	if err != nil && !absent(err) {
		return err
	}
	if len(names) == 0 {
		f.Node.Missing = "it has no uio device yet"
		return nil
	}
	slices.Sort(names)
	f.Node.Name = names[0]
	if !exists(filepath.Join(h.dev, names[0])) {
		f.Node.Missing = "/dev/" + names[0] + " is not there"
	}
	return nil
}

// lookAtPF reads what a PF tells of its VFs. sriov_numvfs is not read: that waits for the PF's device lock, seconds at worst.
func (h *host) lookAtPF(d directory, f *Function) error {
	names, err := d.names(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "virtfn") {
			continue
		}
		target, err := d.link(name)
		if err != nil {
			return err
		}
		if vf, ok := ParseAddress(target); ok {
			f.VFs = append(f.VFs, vf)
		}
	}
	slices.SortFunc(f.VFs, Address.Compare)
	f.Resource = Generic
	if f.Family.Services {
		return h.lookAtServices(d, f)
	}
	return nil
}

func (h *host) lookAtServices(d directory, f *Function) error {
	h.watch(filepath.Join(h.sysfs, f.debugfs()), 0)
	inode, err := d.inode("qat")
	if err != nil && !absent(err) {
		return err
	}
	if err == nil {
		h.watch(filepath.Join(f.Dir, "qat"), inode)
	}
	if f.State, err = d.read("qat/state"); err != nil && !absent(err) {
		return err
	}
	value, err := d.read("qat/cfg_services")
	if err != nil && !absent(err) {
		return err
	}
	if name := resourceOfServices(value); name != "" {
		f.Resource = name
		return nil
	}
	if value, err = h.devCfgServices(f); err != nil {
		return err
	}
	if name := resourceOfServices(value); name != "" {
		f.Resource = name
	}
	return nil
}

// debugfs is the directory that the PF's driver makes, below the root of sysfs (drivers/crypto/intel/qat/qat_common/adf_dbgfs.c).
func (f *Function) debugfs() string {
	return path.Join("kernel/debug", "qat_"+f.Family.PFDriver+"_"+f.Address.String())
}

// devCfgServices reads ServicesEnabled of the driver's dev_cfg; "" when there is none.
func (h *host) devCfgServices(f *Function) (string, error) {
	text, err := os.ReadFile(filepath.Join(h.sysfs, f.debugfs(), "dev_cfg"))
	if absent(err) || errors.Is(err, os.ErrPermission) {
		return "", nil // debugfs is not mounted, or is not for this process
	}
	if err != nil {
		return "", err
	}
	cfg, err := ini.LoadSources(ini.LoadOptions{IgnoreInlineComment: true, SkipUnrecognizableLines: true}, text)
	if err != nil {
		return "", fmt.Errorf("read dev_cfg of %s: %w", f.Address, err)
	}
	return cfg.Section("GENERAL").Key("ServicesEnabled").String(), nil
}
