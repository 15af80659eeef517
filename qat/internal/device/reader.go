// SPDX-License-Identifier: Apache-2.0

// Package device reads facts about QAT devices from sysfs, debugfs and /dev.
//
// A [Reader] reads the [Function] at a PCI address, and determines the directories in which inotify
// reports changes of it. Reading has no side effect: it installs no watch, binds no driver and
// keeps no state.
package device

import (
	"cmp"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// The drivers through which DPDK applications use VFs.
const (
	DriverVFIO   = "vfio-pci"
	DriverIGBUIO = "igb_uio"

	// driverQATVFIO is the kernel's variant of vfio-pci for QAT VFs, which adds live migration
	// (drivers/vfio/pci/qat).
	driverQATVFIO = "qat_vfio_pci"
)

// Drivers returns the valid values of [Config.Driver].
func Drivers() []string { return []string{DriverVFIO, DriverIGBUIO} }

// The interfaces through which VFIO gives a device to user space. A kernel has one of them or both.
const (
	InterfaceAuto  = "auto"  // the group if its node exists, else the character device
	InterfaceGroup = "group" // the node of the IOMMU group (drivers/vfio/group.c)
	InterfaceCdev  = "cdev"  // the node of the device itself (drivers/vfio/device_cdev.c)
)

// Interfaces returns the valid values of [Config.Interface].
func Interfaces() []string { return []string{InterfaceAuto, InterfaceGroup, InterfaceCdev} }

// Config configures a Reader. All fields but Attributes are required.
type Config struct {
	Sysfs     string // where the host's sysfs is mounted
	Dev       string // where the host's /dev is mounted
	Driver    string // the DPDK driver: one of [Drivers]
	Interface string // the VFIO interface: one of [Interfaces]

	// Attributes reads also the fields of a Function that only the attributes of DRA devices need.
	Attributes bool
}

// Reader reads the QAT functions of one host. Any number of goroutines may use it.
type Reader struct {
	cfg      Config
	progress *Progress // may be nil
}

// NewReader returns a Reader.
func NewReader(cfg Config) *Reader { return &Reader{cfg: cfg} }

// Tracked returns a Reader that records in p which file it accesses.
func (r *Reader) Tracked(p *Progress) *Reader { return &Reader{cfg: r.cfg, progress: p} }

// Addresses returns the addresses of all PCI functions of the host in ascending order.
func (r *Reader) Addresses() ([]pci.Address, error) {
	names, err := sysfs.Names(filepath.Join(r.cfg.Sysfs, "bus/pci/devices"))
	if err != nil {
		return nil, err
	}
	addresses := make([]pci.Address, 0, len(names))
	for _, name := range names {
		if a, ok := pci.Parse(name); ok {
			addresses = append(addresses, a)
		}
	}
	slices.SortFunc(addresses, pci.Address.Compare)
	return addresses, nil
}

// Exists reports whether the host has a PCI function with this address. It does not wait for a
// device: the kernel looks up a path in sysfs without the device lock.
func (r *Reader) Exists(a pci.Address) (bool, error) { return sysfs.Exists(r.entry(a)) }

// entry returns the path of a function's entry in bus/pci/devices, a link to its directory.
func (r *Reader) entry(a pci.Address) string {
	return filepath.Join(r.cfg.Sysfs, "bus/pci/devices", a.String())
}

// DriverState describes whether the DPDK driver can bind to VFs, and to which.
type DriverState struct {
	Loaded bool

	// Denylist reports whether vfio-pci refuses denylisted families. The parameter disable_denylist
	// can only be set when the module is loaded. Kernels without the parameter have no denylist
	// (drivers/vfio/pci/vfio_pci.c, vfio_pci_probe).
	Denylist bool

	// NeedsGroup reports whether the driver binds only to functions with an IOMMU group. VFIO does,
	// unless enable_unsafe_noiommu_mode is set (drivers/vfio/group.c, vfio_group_find_or_alloc).
	NeedsGroup bool
}

// DriverState reads the state of the DPDK driver. Like [Reader.Exists], it does not wait for a
// device. Where the state cannot be read, DriverState assumes that the driver can bind: the attempt
// to bind then shows the error.
func (r *Reader) DriverState() DriverState {
	loaded, err := sysfs.Exists(filepath.Join(r.cfg.Sysfs, "bus/pci/drivers", r.cfg.Driver))
	s := DriverState{Loaded: loaded || err != nil}
	if r.cfg.Driver == DriverVFIO && s.Loaded {
		s.Denylist = r.parameter(disableDenylist) == "N"
		s.NeedsGroup = r.parameter(noIOMMUMode) != "Y"
	}
	return s
}

const (
	disableDenylist = "module/vfio_pci/parameters/disable_denylist"
	noIOMMUMode     = "module/vfio/parameters/enable_unsafe_noiommu_mode"
)

// parameter returns the value of a module parameter, or "" if it cannot be read.
func (r *Reader) parameter(name string) string {
	value, _ := sysfs.ReadFile(filepath.Join(r.cfg.Sysfs, name))
	return value
}

// TotalVFs returns the number of VFs that a PF can have, or 0 if that cannot be read. The kernel
// does not lock the device for it (drivers/pci/iov.c, sriov_totalvfs_show).
func (r *Reader) TotalVFs(pf pci.Address) int {
	text, err := sysfs.ReadFile(filepath.Join(r.entry(pf), "sriov_totalvfs"))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// GroupMembers returns the PCI functions of an IOMMU group in ascending order. Like
// [Reader.Exists], it does not wait for a device.
func (r *Reader) GroupMembers(group int) ([]pci.Address, error) {
	names, err := sysfs.Names(filepath.Join(r.cfg.Sysfs, "kernel/iommu_groups", strconv.Itoa(group), "devices"))
	if err != nil && !sysfs.IsAbsent(err) {
		return nil, err
	}
	var members []pci.Address
	for _, name := range names {
		if a, ok := pci.Parse(name); ok {
			members = append(members, a)
		}
	}
	slices.SortFunc(members, pci.Address.Compare)
	return members, nil
}

// Driver returns the driver of any PCI function, or "" if the function has no driver or does not
// exist.
func (r *Reader) Driver(a pci.Address) (string, error) {
	dir, err := sysfs.OpenDir(r.entry(a))
	if sysfs.IsAbsent(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer dir.Close()
	return dir.Link("driver")
}

// LeavesGroup reports whether user space can open an IOMMU group that contains a function with this
// driver, or with no driver (""). It can with the VFIO drivers, pci-stub and the driver of PCI
// Express ports, which set driver_managed_dma (Documentation/driver-api/vfio.rst;
// drivers/pci/pci-driver.c, pci_dma_configure). It cannot with any other driver.
func LeavesGroup(driver string) bool {
	return driver == "" || driver == "pci-stub" || driver == "pcieport" || strings.Contains(driver, "vfio")
}

// IsBound reports whether a VF with this driver is bound to the DPDK driver. qat_vfio_pci counts as
// vfio-pci.
func (r *Reader) IsBound(driver string) bool {
	return driver == r.cfg.Driver || r.cfg.Driver == DriverVFIO && driver == driverQATVFIO
}

// HostWatches returns the directories to watch for any host, whatever devices it has. The result
// may change when the DPDK driver or one of its modules is loaded.
func (r *Reader) HostWatches() []Watch {
	watches := []Watch{
		{Dir: filepath.Join(r.cfg.Sysfs, "bus/pci/devices")},
		{Dir: filepath.Join(r.cfg.Sysfs, "bus/pci/drivers")},
		{Dir: filepath.Join(r.cfg.Sysfs, "kernel/debug")},
	}
	if r.cfg.Driver == DriverIGBUIO {
		return append(watches, Watch{Dir: r.cfg.Dev})
	}
	parameters := filepath.Join(r.cfg.Sysfs, filepath.Dir(noIOMMUMode))
	incarnation, _ := sysfs.Inode(parameters) // 0 until vfio is loaded
	watches = append(watches,
		Watch{Dir: parameters, Incarnation: incarnation},
		Watch{Dir: filepath.Join(r.cfg.Dev, "vfio")})
	if r.cfg.Interface != InterfaceGroup {
		watches = append(watches, Watch{Dir: filepath.Join(r.cfg.Dev, "vfio/devices")}, Watch{Dir: r.cfg.Dev})
	}
	return watches
}

// Function holds the state of one QAT function, a PF or a VF, at the time of the read. The comments
// name the source of each field, relative to bus/pci/devices/<address>.
type Function struct {
	Address     pci.Address
	Dir         string  // the directory that bus/pci/devices/<address> points to
	Family      *Family // by vendor and device
	IsVF        bool
	Incarnation uint64 // inode of the directory; changes when another device gets the address
	Driver      string // driver; "" when unbound
	NUMANode    int    // numa_node; -1 when unknown

	// The following fields are set for a VF.
	PF    *pci.Address // physfn; nil in a guest, and while the kernel adds or removes the VF
	Group *int         // iommu_group; nil without an IOMMU
	Node  Node

	// registration is the inode of vfio-dev, which exists while a VFIO driver is bound to the VF; 0
	// if it was not read. It changes when the VF is bound again.
	registration uint64

	// The following fields are set for a PF.
	VFs      []pci.Address // virtfn*, in ascending order
	State    string        // qat/state; "" when the driver has no such attribute
	Services string        // qat/cfg_services; "" when the driver has no such attribute
	Resource string        // the resource of its VFs, derived from its services; Generic when unknown
	Debugfs  string        // its driver's directory in debugfs, which need not exist

	// The following fields are set with Config.Attributes.
	PCIeRoot      string // of any function: the root complex in Dir, such as "pci0000:6b"; "" if there is none
	VFNumbers     []int  // of a PF: N of virtfnN, for each of VFs
	DriverVersion string // of a PF: driver/module/version; "" when the module has no version
}

// Equal reports whether f and other have the same content. Either may be nil.
func (f *Function) Equal(other *Function) bool { return reflect.DeepEqual(f, other) }

// IsDown reports whether qat/state of a PF exists and is not "up"
// (Documentation/ABI/testing/sysfs-driver-qat).
func (f *Function) IsDown() bool { return f.State != "" && f.State != "up" }

// Watch is a directory in which inotify reports changes of a function.
type Watch struct {
	Dir string
	// Incarnation changes when another directory has this path. The directory then needs a new
	// watch. 0 means that the watch need not be renewed.
	Incarnation uint64
}

// Handle is a QAT function that is open for reading. One goroutine may use it at a time.
//
// Everything that a Handle reads from the function's directory belongs to one incarnation, even if
// another device takes the address meanwhile.
type Handle struct {
	reader   *Reader
	entry    string // path of the function's entry in bus/pci/devices
	dir      directory
	known    *Function // what was read of this incarnation before; nil: nothing
	identity Function  // the fields that Open has read
	watches  []Watch
	watchErr error // why watches does not contain qat/; nil if it need not
}

// directory is implemented by [sysfs.Dir].
type directory interface {
	Inode(name string) (uint64, error)
	Read(name string) (string, error)
	Link(name string) (string, error)
	Exists(name string) (bool, error)
	Names(sub string) ([]string, error)
	Close()
}

// Open opens the function at an address. It returns nil and no error if there is no function or if
// it is not a QAT device. The caller closes the Handle.
//
// known is what was read at this address before, or nil. If it has the same incarnation, Open takes
// from it what the kernel never changes of a function, and does not read that again.
//
// A caller that installs the watches of the Handle before it calls [Handle.Read] misses no change
// that inotify reports.
//
// The kernel removes the entry in bus/pci/devices before it sends the remove event
// (drivers/base/core.c, device_del). After that event, Open returns nil, although the directory
// that the entry pointed to may still exist.
func (r *Reader) Open(a pci.Address, known *Function) (*Handle, error) {
	entry := r.entry(a)
	r.progress.set(entry, "")
	dir, err := sysfs.OpenDir(entry)
	if err == nil {
		return r.open(a, entry, trackedDir{dir, entry, r.progress}, known)
	}
	return nil, r.unlessGone(a, err)
}

// unlessGone returns err, or nil if the function no longer exists.
func (r *Reader) unlessGone(a pci.Address, err error) error {
	if err != nil {
		if exists, existsErr := r.Exists(a); existsErr == nil && !exists {
			return nil
		}
	}
	return err
}

// open returns a Handle for the function's directory. If the function is not a QAT device, or on an
// error, it closes the directory and returns no Handle.
func (r *Reader) open(a pci.Address, entry string, dir directory, known *Function) (*Handle, error) {
	h := &Handle{reader: r, entry: entry, dir: dir, identity: Function{Address: a, NUMANode: -1}}
	err := h.identify(known)
	if err == nil && h.identity.Family != nil {
		return h, nil
	}
	h.Close()
	return nil, r.unlessGone(a, err)
}

// identify finds out what the function is and determines what to watch. It leaves Family nil when
// the function is not a QAT device.
//
// The kernel reads the IDs of a function once, before the function gets a directory
// (drivers/pci/probe.c, pci_setup_device). The files vendor and device show these
// (drivers/pci/pci-sysfs.c), so they are read once for each incarnation.
func (h *Handle) identify(known *Function) (err error) {
	f := &h.identity
	if known != nil {
		if f.Incarnation, err = h.dir.Inode("."); err != nil {
			return err
		}
	}
	if known != nil && known.Incarnation == f.Incarnation {
		h.known = known
		f.Family, f.IsVF, f.Dir, f.PCIeRoot = known.Family, known.IsVF, known.Dir, known.PCIeRoot
	} else if err = h.readIdentity(); err != nil || f.Family == nil {
		return err
	}
	h.watches = []Watch{{Dir: f.Dir, Incarnation: f.Incarnation}}
	if !f.IsVF {
		h.identifyPF()
	}
	return nil
}

// readIdentity reads what is the same for as long as the function exists. It leaves Family nil when
// the function is not a QAT device.
func (h *Handle) readIdentity() error {
	f := &h.identity
	vendor, err := h.readID("vendor")
	if err != nil || vendor != vendorIntel {
		return err
	}
	device, err := h.readID("device")
	if err != nil {
		return err
	}
	family, isVF := FamilyOf(vendor, device)
	if family == nil {
		return nil
	}
	h.reader.progress.set(h.entry, "")
	if f.Dir, err = sysfs.RealDir(h.entry); err != nil {
		return err
	}
	if f.Incarnation, err = h.dir.Inode("."); err != nil {
		return err
	}
	f.Family, f.IsVF = family, isVF
	if h.reader.cfg.Attributes {
		f.PCIeRoot = pcieRoot(h.reader.cfg.Sysfs, f.Dir)
	}
	return nil
}

// pcieRoot returns the name of the PCIe root complex of a function: the first component of its
// directory below devices/, such as "pci0000:6b". Like
// k8s.io/dynamic-resource-allocation/deviceattribute (pci_linux.go, resolvePCIeRoot), it returns
// the outermost root of a function behind Intel VMD, and "" for a root that is not directly below
// devices/, such as that of a device tree.
func pcieRoot(sysfs, dir string) string {
	below, ok := strings.CutPrefix(dir, sysfs+"/devices/")
	if !ok || !strings.HasPrefix(below, "pci") {
		return ""
	}
	root, _, _ := strings.Cut(below, "/")
	return root
}

func (h *Handle) readID(name string) (uint16, error) {
	text, err := h.dir.Read(name)
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 16)
	if err != nil {
		file := filepath.Join(h.entry, name)
		return 0, fmt.Errorf("read %s: %q is not a PCI ID such as 0x8086", file, text)
	}
	return uint16(id), nil
}

// IsVF reports whether the function is a VF.
func (h *Handle) IsVF() bool { return h.identity.IsVF }

// Attribute returns the value of an attribute in the function's directory, such as "numa_node" or
// "qat/state". It returns "" and no error if there is no such attribute.
//
// The kernel can block the read. In particular, sriov_numvfs takes the device lock of a PF, so that
// the read waits until the kernel has added or removed all VFs (drivers/pci/iov.c,
// sriov_numvfs_show).
func (h *Handle) Attribute(name string) (string, error) {
	text, err := h.dir.Read(name)
	if sysfs.IsAbsent(err) {
		return "", nil
	}
	return text, err
}

// Watches returns the directories in which inotify reports changes of the function.
func (h *Handle) Watches() []Watch { return h.watches }

// Close closes the Handle. It must be called once.
func (h *Handle) Close() { h.dir.Close() }

// Read reads the function. It returns nil and no error if the function no longer exists, even if
// another function now has its address. On another error, Read returns the error and a Function
// with the fields that were read before the error.
//
// Read reads the driver before physfn. The kernel creates physfn before a driver can bind to a VF
// (drivers/pci/iov.c, pci_iov_add_virtfn), so a Function of a bound VF has its PF.
func (h *Handle) Read() (*Function, error) {
	f := h.identity
	err := h.read(&f)
	// The links in a removed directory are absent, so a removed function reads as unbound.
	h.reader.progress.set(h.entry, "")
	inode, inodeErr := sysfs.Inode(h.entry)
	if sysfs.IsAbsent(inodeErr) || inodeErr == nil && inode != f.Incarnation {
		return nil, nil
	}
	return &f, cmp.Or(err, inodeErr)
}

func (h *Handle) read(f *Function) (err error) {
	if f.Driver, err = h.dir.Link("driver"); err != nil {
		return err
	}
	text, err := h.dir.Read("numa_node")
	if sysfs.IsTransient(err) {
		return err
	}
	if n, err := strconv.Atoi(text); err == nil && n >= 0 {
		f.NUMANode = n
	}
	if f.IsVF {
		return h.readVF(f)
	}
	return h.readPF(f)
}

// Read opens, reads and closes the function at an address. Its results are those of [Handle.Read];
// the Function is also nil when there is no QAT device, or an error hides whether there is one.
func (r *Reader) Read(a pci.Address) (*Function, error) {
	h, err := r.Open(a, nil)
	if h == nil {
		return nil, err
	}
	defer h.Close()
	return h.Read()
}
