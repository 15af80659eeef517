// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// A reader reads the files of a host. Reading has no side effect.
type reader struct {
	sysfs, dev, etc string // roots
}

// A snapshot is the state of the host and the answer of adf_ctl at one moment. The Tree is a
// function of the snapshot.
type snapshot struct {
	iommu    bool       // the kernel uses an IOMMU: only VFs can be used; otherwise only PFs can
	devices  []*device  // in the order of adf_ctl status
	unlisted []unlisted // in the order of their drivers
	missing  []string   // the controlNodes that do not exist
}

// A device is one device that adf_ctl lists, with the files that belong to it.
type device struct {
	entry
	UIO         []string // names of its UIO devices; each is a node in /dev
	UIOErr      error    // why UIO is empty
	MissingNode string   // the first of UIO without a node; "" if all have one
	Config      config   // its configuration that is in effect
}

// An unlisted function is bound to a QAT driver, but adf_ctl does not list it.
type unlisted struct {
	Driver  string
	Address pci.Address
}

var (
	// controlNodes are the nodes below /dev that every QAT process needs: two of the driver, and
	// one of its memory driver.
	controlNodes = []string{"qat_adf_ctl", "qat_dev_processes", "usdm_drv"}

	uioName    = regexp.MustCompile(`^uio[0-9]+$`)
	configName = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9_-]*)_dev[0-9]+\.conf$`)
)

// snapshot reads everything except for the configuration files, which files maps by name. It
// returns an error if it cannot determine whether the host has an IOMMU, because everything else
// depends on that.
func (r *reader) snapshot(entries []entry, files map[string]config) (*snapshot, error) {
	iommu, err := sysfs.Names(r.iommus())
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IOMMU support has no such class
		return nil, fmt.Errorf("look for an IOMMU: %w", err)
	}
	s := &snapshot{iommu: len(iommu) > 0}
	listed := map[pci.Address]bool{}
	for _, e := range entries {
		listed[e.Address] = true
	}
	for _, driver := range r.types(entries) {
		names, _ := sysfs.Names(filepath.Join(r.drivers(), driver)) // empty if it is not loaded
		for _, name := range names {
			if a, ok := pci.Parse(name); ok && !listed[a] {
				s.unlisted = append(s.unlisted, unlisted{Driver: driver, Address: a})
			}
		}
	}
	for _, e := range entries {
		s.devices = append(s.devices, r.device(e, files))
	}
	for _, node := range controlNodes {
		if !r.nodeExists(node) {
			s.missing = append(s.missing, node)
		}
	}
	return s, nil
}

func (r *reader) device(e entry, files map[string]config) *device {
	d := &device{entry: e}
	d.UIO, d.UIOErr = r.uio(e)
	if k := slices.IndexFunc(d.UIO, func(node string) bool { return !r.nodeExists(node) }); k >= 0 {
		d.MissingNode = d.UIO[k]
	}
	name := e.name() + ".conf"
	var ok bool
	if d.Config, ok = files[name]; !ok {
		d.Config.err = &os.PathError{Op: "open", Path: filepath.Join(r.etc, name), Err: unix.ENOENT}
	}
	return d
}

// uio returns the UIO devices through which user space reaches the rings of a
// device. It returns an error if the device has none.
func (r *reader) uio(e entry) ([]string, error) {
	dir, err := r.uioDir(e)
	if err != nil {
		return nil, fmt.Errorf("driver %s is not bound to %s", e.Type, e.Address)
	}
	names, err := sysfs.Names(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !uioName.MatchString(name) })
	if len(names) == 0 {
		return nil, fmt.Errorf("driver %s created no UIO device for %s", e.Type, e.Address)
	}
	slices.SortFunc(names, func(a, b string) int { // uio2 before uio10
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	})
	return names, nil
}

// watchDirs returns the directories whose changes matter to a snapshot, each
// with its incarnation, or 0 if it is never replaced. They need not exist.
func (r *reader) watchDirs(entries []entry) map[string]uint64 {
	dirs := map[string]uint64{r.etc: 0, r.dev: 0, r.iommus(): 0, r.drivers(): 0}
	for _, driver := range r.types(entries) {
		dir := filepath.Join(r.drivers(), driver)
		dirs[dir], _ = sysfs.Inode(dir) // 0 if it does not exist
	}
	for _, e := range entries {
		if dir, err := r.uioDir(e); err == nil {
			dirs[dir], _ = sysfs.Inode(dir)
		}
	}
	return dirs
}

func (r *reader) iommus() string  { return filepath.Join(r.sysfs, "class/iommu") }
func (r *reader) drivers() string { return filepath.Join(r.sysfs, "bus/pci/drivers") }

// uioDir returns the directory of a device's UIO devices. It returns an error
// if the driver of the device's type is not bound to the device.
func (r *reader) uioDir(e entry) (string, error) {
	dir, err := sysfs.RealDir(filepath.Join(r.drivers(), e.Type, e.Address.String()))
	return filepath.Join(dir, "uio"), err
}

// types returns the names of the QAT drivers: those that adf_ctl lists, and
// those that have a configuration file, because they may be loaded at any time.
func (r *reader) types(entries []entry) []string {
	var types []string
	for _, e := range entries {
		types = append(types, e.Type)
	}
	names, _ := sysfs.Names(r.etc) // if this fails, reading a device's file fails, too
	for _, name := range names {
		if driver, ok := configType(name); ok {
			types = append(types, driver)
		}
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// nodeExists reports whether a node exists. If it cannot find out, it returns true.
func (r *reader) nodeExists(name string) bool {
	exists, err := sysfs.Exists(filepath.Join(r.dev, name))
	return exists || err != nil
}

// configType returns the type of the device that a file with this name configures.
func configType(name string) (driver string, ok bool) {
	m := configName.FindStringSubmatch(name)
	if m == nil || forQATlib.MatchString(m[1]) {
		return "", false
	}
	return m[1], true
}

// isCoprocessor reports whether a function could be a QAT device: its vendor
// is Intel, and its PCI class is co-processor (include/linux/pci_ids.h,
// PCI_CLASS_PROCESSOR_CO). It is used for functions that adf_ctl has not listed.
func (r *reader) isCoprocessor(a pci.Address) bool {
	dir, err := sysfs.OpenDir(filepath.Join(r.sysfs, "bus/pci/devices", a.String()))
	if err != nil {
		return false
	}
	defer dir.Close()
	vendor, err1 := dir.Read("vendor")
	class, err2 := dir.Read("class")
	return err1 == nil && err2 == nil && vendor == "0x8086" && strings.HasPrefix(class, "0x0b40")
}
