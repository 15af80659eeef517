package qat

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/qat/internal/follow"
)

// A fold turns looks at sysfs into Trees. It keeps each QAT function as it was last read; what a VF means to the kubelet follows from
// those alone, so the order of events, and whether one was lost or doubled, leaves no trace. It is for one goroutine.
type fold struct {
	host        *host
	binder      *binder
	directories *follow.Directories
	health      *health
	faults      *faults
	vfDrivers   map[string]bool // the VF drivers whose families are served
	max         int             // of devices listed; 0: no limit
	prefer      *preference

	functions  map[Address]*Function
	unreadable map[Address]string    // functions of which not even the kind could be read → why
	owner      map[Address]Address   // VF → PF, by the PFs' virtfn links
	listed     map[Address]string    // VF → the resource that it is listed in
	left       map[Address]string    // VF → why it is not listed
	waiting    map[Address]candidate // VFs that the limit keeps out
	tree       *devtree.Tree
}

func newFold(h *host, b *binder, d *follow.Directories, vfDrivers []string, limit int) *fold {
	f := &fold{
		host: h, binder: b, directories: d, vfDrivers: map[string]bool{}, max: limit,
		health:    &health{sysfs: h.sysfs, mark: func(Address) {}, answered: func(Address) bool { return false }, now: time.Now, pfs: map[Address]*pulse{}},
		prefer:    &preference{},
		faults:    &faults{reason: map[Address]string{}},
		functions: map[Address]*Function{}, unreadable: map[Address]string{}, owner: map[Address]Address{},
		listed: map[Address]string{}, left: map[Address]string{}, waiting: map[Address]candidate{}, tree: &devtree.Tree{},
	}
	for _, name := range vfDrivers {
		f.vfDrivers[name] = true
	}
	h.watch = d.Want
	return f
}

// lookAtAll reads the whole host again: the first look, and after a loss. An error is one of reading the list of functions; what is
// known stays as it is then.
func (f *fold) lookAtAll(now time.Time) error {
	watchStanding(f.directories, f.host)
	addresses, err := f.host.addresses()
	if err != nil {
		return fmt.Errorf("list the PCI functions: %w", err)
	}
	known := slices.AppendSeq(slices.Collect(maps.Keys(f.functions)), maps.Keys(f.unreadable)) // also those that are gone
	f.lookAt(append(addresses, known...), now)
	return nil
}

// lookAt reads these functions again and makes the Tree that follows.
func (f *fold) lookAt(addresses []Address, now time.Time) {
	touched := map[Address]bool{}
	slices.SortFunc(addresses, Address.Compare) // mostly, PFs come before their VFs then
	for _, a := range slices.Compact(addresses) {
		f.read(a, touched)
	}
	f.place(touched, now)
}

// look is how the host shows a function now: nil when there is none, or when not even its kind could be read, which why then says.
func (f *fold) look(a Address) (now *Function, why string) {
	now, err := f.host.look(a)
	if err != nil {
		klog.V(2).InfoS("Cannot read a PCI function", "device", a, "err", err)
		why = err.Error()
	}
	if now == nil {
		return nil, why
	}
	now.Broken, now.Sick = why, f.sick(now)
	if old := f.functions[a]; now.IsVF && now.PF == nil && old != nil && old.incarnation == now.incarnation {
		// The kernel takes physfn away before it unbinds and takes the VF (drivers/pci/iov.c, pci_iov_remove_virtfn).
		now.PF, now.Going = old.PF, old.PF != nil
	}
	return now, ""
}

// read reads one function and marks the VFs for which that may mean something.
func (f *fold) read(a Address, touched map[Address]bool) {
	old := f.functions[a]
	now, why := f.look(a)
	delete(f.unreadable, a)
	if now == nil {
		if why != "" {
			f.unreadable[a] = why
		}
		if old != nil {
			f.gone(old, touched)
		}
		return
	}
	f.functions[a] = now
	if !now.IsVF {
		f.health.follow(now)
		now.Sick = f.sick(now) // that may have ended what was wrong
	}
	if now.IsVF {
		touched[a] = true
		if now.PF != nil && f.functions[*now.PF] == nil {
			f.read(*now.PF, touched)
		}
		return
	}
	if old.equal(now) {
		return
	}
	f.readVFs(a, touched)
	f.own(old, now)
	f.readVFs(a, touched)
}

// sick says what is wrong with a function that sysfs does not show.
func (f *fold) sick(fn *Function) string {
	if fault := f.faults.of(fn.Address); fault != "" || fn.IsVF {
		return fault
	}
	return f.health.reason(fn.Address)
}

func (f *fold) gone(old *Function, touched map[Address]bool) {
	unwatch(f.directories, f.host, old)
	delete(f.functions, old.Address)
	if old.IsVF {
		touched[old.Address] = true
		return
	}
	f.health.forget(old.Address)
	f.readVFs(old.Address, touched)
	f.own(old, nil)
}

// own replaces what the PF's virtfn links say of whose its VFs are.
func (f *fold) own(old, now *Function) {
	if old != nil {
		for _, vf := range old.VFs {
			delete(f.owner, vf)
		}
	}
	if now != nil {
		for _, vf := range now.VFs {
			f.owner[vf] = now.Address
		}
	}
}

// pfOf finds the VF's PF by either link; false in a guest, which has none.
func (f *fold) pfOf(vf *Function) (Address, bool) {
	if vf.PF != nil {
		return *vf.PF, true
	}
	pf, ok := f.owner[vf.Address]
	return pf, ok
}

// readVFs reads the VFs of a PF again. They must not be placed by what is known of them and what is new of the PF: the kernel may have
// taken them away before it changed the PF, and the events of that may still be under way.
func (f *fold) readVFs(pf Address, touched map[Address]bool) {
	for _, a := range f.where(func(vf *Function) bool { p, ok := f.pfOf(vf); return ok && p == pf }) {
		f.read(a, touched)
	}
}

// inGroup lists the VFs of an IOMMU group.
func (f *fold) inGroup(group int) []Address {
	return f.where(func(fn *Function) bool { return fn.Group != nil && *fn.Group == group })
}

// unbound lists the VFs that are not usable yet, and those whose node is gone.
func (f *fold) unbound() []Address {
	return f.where(func(fn *Function) bool { return f.listed[fn.Address] == "" || fn.Node.Missing != "" })
}

func (f *fold) where(match func(*Function) bool) []Address {
	var list []Address
	for a, fn := range f.functions {
		if fn.IsVF && match(fn) {
			list = append(list, a)
		}
	}
	return list
}
