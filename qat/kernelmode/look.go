package kernelmode

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"qatplugin/qat"
)

// A host is what the plugin reads: one sysfs, one /dev and one /etc, wherever they are seen here.
type host struct {
	sysfs, dev, etc string
	// watch is called with each directory that says something, before it is read: what changes from then on is heard of. incarnation differs
	// when the directory is another one under the same name; 0: that needs no telling.
	watch func(dir string, incarnation uint64)
}

// A sight is all that a Tree is made of, as it was at one moment.
type sight struct {
	devices []*function // those that can be used, in the order of adf_ctl status
	shared  map[int]bool
	left    []Omission
	missing []string // those of controlNodes that are not there
	// doubt is where sysfs contradicts what adf_ctl said; "" where it does not. Either something changed since, or a device is starting or
	// stopping: the driver makes and removes UIO devices in the midst of that.
	doubt string
}

// controlNodes are the nodes below /dev that every QAT process needs: the driver's own, and that of its memory driver.
func controlNodes() []string { return []string{"qat_adf_ctl", "qat_dev_processes", "usdm_drv"} }

var (
	uioName    = regexp.MustCompile(`^uio[0-9]+$`)
	configName = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9_-]*)_dev[0-9]+\.conf$`)
)

// look reads everything. An error says that not even the IOMMU rule is known.
func (h *host) look(status []instance) (*sight, error) {
	h.standing()
	iommu, err := h.hasIOMMU()
	if err != nil {
		return nil, err
	}
	s := &sight{shared: map[int]bool{}}
	known := map[qat.Address]bool{}
	types := h.configuredTypes()
	numbers := map[int]string{}
	for _, i := range status {
		known[i.Address] = true
		types = append(types, i.Type)
		if i.isVF() == iommu {
			if other := numbers[i.Number]; other != "" && other != i.Type {
				s.shared[i.Number] = true
			}
			numbers[i.Number] = i.Type
		}
	}
	slices.Sort(types)
	for _, t := range slices.Compact(types) {
		for _, a := range h.held(t) {
			if !known[a] && isVFType(t) == iommu {
				s.doubted("adf_ctl does not list %s, which driver %s holds", a, t)
			}
		}
	}
	for _, i := range status {
		if d, why := h.function(s, i, iommu); why != "" {
			s.left = append(s.left, Omission{Subject: i.name(), Reason: why})
		} else {
			s.devices = append(s.devices, d)
		}
	}
	for _, node := range controlNodes() {
		if !exists(filepath.Join(h.dev, node)) {
			s.missing = append(s.missing, node)
		}
	}
	return s, nil
}

// standing asks for the directories that are followed whatever devices there are.
func (h *host) standing() {
	h.watch(h.etc, 0)
	h.watch(h.dev, 0)
	h.watch(filepath.Join(h.sysfs, "class/iommu"), 0)
	h.watch(filepath.Join(h.sysfs, "bus/pci/drivers"), 0)
}

// hasIOMMU tells whether the kernel uses an IOMMU: a kernel that was built without has no such class.
func (h *host) hasIOMMU() (bool, error) {
	names, err := readDir(filepath.Join(h.sysfs, "class/iommu"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("look for an IOMMU: %w", err)
	}
	return len(names) > 0, nil
}

// configuredTypes are the types that have a configuration file: their drivers may come any time.
func (h *host) configuredTypes() []string {
	names, _ := readDir(h.etc) // where it cannot be read, each device's file says so
	var types []string
	for _, name := range names {
		if m := configName.FindStringSubmatch(name); m != nil {
			types = append(types, m[1])
		}
	}
	return types
}

// held lists the functions that a driver holds.
func (h *host) held(driver string) []qat.Address {
	dir := filepath.Join(h.sysfs, "bus/pci/drivers", driver)
	h.watch(dir, inode(dir))
	names, _ := readDir(dir) // a driver that is not loaded holds none
	var list []qat.Address
	for _, name := range names {
		if a, ok := qat.ParseAddress(name); ok {
			list = append(list, a)
		}
	}
	return list
}

// function reads one device; why says why it is left out.
func (h *host) function(s *sight, i instance, iommu bool) (d *function, why string) {
	d = &function{instance: i}
	switch {
	case iommu && !i.isVF():
		return nil, "under an IOMMU only VFs can be used, and it is a PF"
	case !iommu && i.isVF():
		return nil, "without an IOMMU only PFs can be used, and it is a VF"
	}
	uio, err := h.uio(i)
	up := i.State == "up"
	switch {
	case !up && len(uio) > 0:
		s.doubted("%s is %s and has %s", i.name(), i.State, uio[0])
	case up && len(uio) == 0:
		s.doubted("%s is up and has no UIO device", i.name())
	}
	switch {
	case !up:
		return nil, fmt.Sprintf("adf_ctl says that its state is %s", i.State)
	case err != nil:
		return nil, err.Error()
	}
	for _, name := range uio {
		if !exists(filepath.Join(h.dev, name)) {
			return nil, fmt.Sprintf("its node /dev/%s is missing", name)
		}
	}
	d.UIO = uio
	if d.Sections, err = readConfig(filepath.Join(h.etc, i.name()+".conf")); err != nil {
		return nil, err.Error()
	}
	return d, ""
}

// uio lists the UIO devices through which user space reaches a device's rings. There is at least one, or an error.
func (h *host) uio(i instance) ([]string, error) {
	link := filepath.Join(h.sysfs, "bus/pci/drivers", i.Type, i.Address.String())
	dir, err := filepath.EvalSymlinks(link)
	if err != nil {
		return nil, fmt.Errorf("driver %s does not hold %s", i.Type, i.Address)
	}
	dir = filepath.Join(dir, "uio")
	h.watch(dir, inode(dir))
	names, err := readDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !uioName.MatchString(name) })
	if len(names) == 0 {
		return nil, fmt.Errorf("driver %s made no UIO device for %s", i.Type, i.Address)
	}
	slices.SortFunc(names, func(a, b string) int { // uio2 before uio10
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return names, nil
}

func (s *sight) doubted(format string, args ...any) {
	if s.doubt == "" {
		s.doubt = fmt.Sprintf(format, args...)
	}
}

// isCoprocessor tells whether a function could be a QAT device: Intel's, and a co-processor by its PCI class. It is for functions that adf_ctl
// has not spoken of yet.
func (h *host) isCoprocessor(a qat.Address) bool {
	dir := filepath.Join(h.sysfs, "bus/pci/devices", a.String())
	vendor, err1 := readFile(path.Join(dir, "vendor"))
	class, err2 := readFile(path.Join(dir, "class"))
	return err1 == nil && err2 == nil && strings.TrimSpace(string(vendor)) == "0x8086" && strings.HasPrefix(string(class), "0x"+classCoprocessor)
}

// classCoprocessor begins the class code of a co-processor (include/linux/pci_ids.h, PCI_CLASS_PROCESSOR_CO).
const classCoprocessor = "0b40"

func readDir(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// exists tells whether a path is there.
func exists(name string) bool { return unix.Access(name, unix.F_OK) == nil }

// inode tells one incarnation of a directory of sysfs from the next: kernfs numbers them ever upwards. 0: it is not there.
func inode(name string) uint64 {
	var st unix.Stat_t
	if unix.Stat(name, &st) != nil {
		return 0
	}
	return st.Ino
}
