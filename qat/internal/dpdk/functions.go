// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/health"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// A function is one QAT function, PF or VF, as it was read last. It is not changed afterwards.
type function struct {
	*device.Function
	readErr string       // what could not be read, for a reason that is not transient; "" when everything could
	pf      *pci.Address // the VF's PF by its physfn link, or by the link that it had

	// unhealthy says why the function, or the VFs of a PF, must not be used for reasons that sysfs
	// does not show: PCI errors, heartbeats, RAS counters.
	unhealthy string

	// removing says that the VF had a physfn link and has none any more. The kernel removes the
	// link before it unbinds and removes the VF (drivers/pci/iov.c, pci_iov_remove_virtfn).
	removing bool
}

func (f *function) equal(other *function) bool { return reflect.DeepEqual(f, other) }

// functions are the QAT functions of the host as they were read last.
type functions struct {
	reader  *device.Reader
	health  *health.Monitor
	watches *hostwatch.Watches

	known      map[pci.Address]*function
	unreadable map[pci.Address]string      // functions of which nothing is known, though they exist → why
	owner      map[pci.Address]pci.Address // VF → PF, by the PFs' virtfn links
	watched    map[pci.Address][]string    // function → directories that are watched for it
	retries    map[pci.Address]retry       // functions that could not be read
}

// all lists every PCI function of the host and every function that is known,
// including those that no longer exist, each once.
func (fs *functions) all() ([]pci.Address, error) {
	addresses, err := fs.reader.Addresses()
	if err != nil {
		return nil, err
	}
	addresses = slices.AppendSeq(addresses, maps.Keys(fs.known))
	addresses = slices.AppendSeq(addresses, maps.Keys(fs.unreadable))
	slices.SortFunc(addresses, pci.Address.Compare)
	return slices.Compact(addresses), nil
}

// refresh reads these functions again. It returns the addresses that must be decided on again:
// those of VFs, and those at which there is no QAT function or none could be read before. They are
// sorted.
//
// A transient error leaves what is known of a function as it is. Each function that could not be
// read is read again later; see [retry].
//
// The VFs of a PF that changed are read after the PF, and only once, but a VF that is heard of
// before its PF is read twice. After a full read every PCI function of the host passes decide.
// Cached VF state must never be combined with fresh PF state: the kernel may have removed the VFs
// before it changed the PF, and the events of that may still be under way.
func (fs *functions) refresh(addresses []pci.Address, now time.Time) []pci.Address {
	r := refreshing{functions: fs, now: now}
	slices.SortFunc(addresses, func(a, b pci.Address) int { // known VFs last
		return cmp.Or(fs.isKnownVF(a)-fs.isKnownVF(b), a.Compare(b))
	})
	for _, a := range slices.Compact(addresses) {
		r.read(a)
	}
	for len(r.pending) > 0 {
		addresses = slices.AppendSeq(addresses[:0], maps.Keys(r.pending))
		slices.SortFunc(addresses, pci.Address.Compare)
		for _, a := range addresses {
			r.read(a)
		}
	}
	slices.SortFunc(r.affected, pci.Address.Compare)
	return slices.Compact(r.affected)
}

// isKnownVF is 1 for a VF that is known, and 0 for any other function.
func (fs *functions) isKnownVF(a pci.Address) int {
	if f := fs.known[a]; f != nil && f.IsVF {
		return 1
	}
	return 0
}

// refreshing is one call of refresh.
type refreshing struct {
	*functions
	now      time.Time
	affected []pci.Address
	pending  map[pci.Address]bool // VFs that are to be read because their PF changed; nil: none
}

// read reads one function and updates what is known.
func (r *refreshing) read(a pci.Address) {
	delete(r.pending, a)
	old, before := r.known[a], r.unreadable[a]
	facts, err := r.readWatched(a)
	r.scheduleRetry(a, err)
	if sysfs.IsTransient(err) {
		if old == nil {
			r.unreadable[a] = err.Error()
			r.affected = append(r.affected, a)
		}
		return
	}
	if facts != nil && !facts.IsVF {
		r.track(facts)
	}
	f := r.complete(a, facts, err)
	delete(r.unreadable, a)
	if f == nil && err != nil {
		r.unreadable[a] = err.Error()
	}
	if f == nil || f.IsVF || before != "" {
		r.affected = append(r.affected, a)
	}
	if old != nil && (f == nil || f.IsVF != old.IsVF) {
		r.remove(old)
		old = nil
	}
	switch {
	case f == nil:
		for _, dir := range r.watched[a] {
			r.watches.Drop(dir)
		}
		delete(r.watched, a)
	case f.IsVF:
		r.known[a] = f
		if f.pf != nil && r.known[*f.pf] == nil {
			r.read(*f.pf)
		}
	case !f.equal(old):
		r.known[a] = f
		r.setVFs(a, f.VFs)
	}
}

// scheduleRetry has a function read again if it could not be read.
func (r *refreshing) scheduleRetry(a pci.Address, err error) {
	if err == nil {
		delete(r.retries, a)
		return
	}
	if sysfs.IsTransient(err) && len(r.retries) == 0 {
		klog.ErrorS(err, "Cannot read a PCI function now, keeping what is known of it and reading it again",
			"device", a)
	} else {
		klog.V(2).InfoS("Cannot read a PCI function", "device", a, "err", err)
	}
	r.retries[a] = r.retries[a].after(err, r.now)
}

// track has the health of a PF monitored.
func (r *refreshing) track(pf *device.Function) {
	r.health.Track(health.PF{
		Address:     pf.Address,
		Dir:         pf.Dir,
		Debugfs:     pf.Debugfs,
		Incarnation: pf.Incarnation,
		Down:        pf.Driver == "" || pf.IsDown(),
	})
}

// remove forgets a function that no longer exists.
func (r *refreshing) remove(f *function) {
	delete(r.known, f.Address)
	if f.IsVF {
		r.affected = append(r.affected, f.Address)
		return
	}
	r.health.Forget(f.Address)
	r.setVFs(f.Address, nil)
}

// setVFs replaces the virtfn links of a PF that changed, and has all VFs read that belonged to it
// before or belong to it now, by either link.
func (r *refreshing) setVFs(pf pci.Address, vfs []pci.Address) {
	r.markVFs(pf)
	maps.DeleteFunc(r.owner, func(_, owner pci.Address) bool { return owner == pf })
	for _, vf := range vfs {
		r.owner[vf] = pf
	}
	r.markVFs(pf)
}

func (r *refreshing) markVFs(pf pci.Address) {
	if r.pending == nil {
		r.pending = map[pci.Address]bool{}
	}
	for a, f := range r.known {
		if owner, ok := r.pfOf(a); ok && owner == pf && f.IsVF {
			r.pending[a] = true
		}
	}
	for a := range r.unreadable {
		if owner, ok := r.owner[a]; ok && owner == pf {
			r.pending[a] = true
		}
	}
}

// readWatched reads a function and has its directories watched. The watches are installed before
// the directories are read, so that no change is missed. Its results are those of
// [device.Reader.Read].
func (fs *functions) readWatched(a pci.Address) (*device.Function, error) {
	h, err := fs.reader.Open(a)
	if h == nil {
		return nil, err
	}
	defer h.Close()
	for _, w := range h.Watches() {
		fs.watches.Want(w.Dir, w.Incarnation)
		if !slices.Contains(fs.watched[a], w.Dir) {
			fs.watched[a] = append(fs.watched[a], w.Dir)
		}
	}
	return h.Read()
}

// complete adds what sysfs does not show to the facts about a function. The result is nil if there
// are no facts.
func (fs *functions) complete(a pci.Address, facts *device.Function, err error) *function {
	if facts == nil {
		return nil
	}
	f := &function{Function: facts, unhealthy: fs.health.Reason(a), pf: facts.PF}
	if err != nil {
		f.readErr = err.Error()
	}
	if old := fs.known[a]; f.IsVF && f.pf == nil && old != nil && old.Incarnation == f.Incarnation {
		f.pf, f.removing = old.pf, old.pf != nil
	}
	return f
}

// differs reports whether the host shows a function differently from what is known. It changes
// nothing. A function that could not be read the last time does not differ: it is read again soon
// enough. The error is transient.
func (fs *functions) differs(a pci.Address) (bool, error) {
	if _, retrying := fs.retries[a]; retrying {
		return false, nil
	}
	facts, err := fs.reader.Read(a)
	if sysfs.IsTransient(err) {
		return false, err
	}
	return err != nil && facts == nil || !fs.complete(a, facts, err).equal(fs.known[a]), nil
}

// pfOf returns the PF of a VF by either link. A VF in a guest has none.
func (fs *functions) pfOf(vf pci.Address) (pci.Address, bool) {
	if f := fs.known[vf]; f != nil && f.pf != nil {
		return *f.pf, true
	}
	pf, ok := fs.owner[vf]
	return pf, ok
}

// vfs lists the VFs that match.
func (fs *functions) vfs(match func(*function) bool) []pci.Address {
	var list []pci.Address
	for a, f := range fs.known {
		if f.IsVF && match(f) {
			list = append(list, a)
		}
	}
	return list
}
