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
	reader    *device.Reader // for what never blocks
	allocator *Allocator
	health    *health.Monitor
	watches   *hostwatch.Watches
	looks     *looks

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
// read is read again later; see [retry]. A look that does not return is a transient error, too. Its
// result counts when it is there.
//
// The VFs of a PF that changed are read after the PF, and only once, but a VF that is heard of
// before its PF is read twice. After a full read every PCI function of the host passes decide.
// Cached VF state must never be combined with fresh PF state: the kernel may have removed the VFs
// before it changed the PF, and the events of that may still be under way.
func (fs *functions) refresh(addresses []pci.Address, now time.Time) []pci.Address {
	r := refreshing{functions: fs, now: now}
	addresses = append(addresses, r.takeReturned()...)
	for _, a := range fs.looks.blocked(now) {
		r.keep(a, fs.looks.err(a))
	}
	for len(addresses) > 0 || len(r.pending) > 0 || r.apart && fs.looks.await() {
		if r.apart {
			addresses = append(addresses, r.takeReturned()...)
		}
		r.read(addresses)
		addresses = slices.AppendSeq([]pci.Address(nil), maps.Keys(r.pending))
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
	pending  map[pci.Address]bool // what to read next: VFs whose PF changed, PFs of which nothing is known
	absent   map[pci.Address]bool // addresses at which there is no QAT function
	apart    bool                 // a look did not return soon, so others were started at the same time
}

// read reads functions and updates what is known: first PFs, then known VFs.
func (r *refreshing) read(addresses []pci.Address) {
	slices.SortFunc(addresses, func(a, b pci.Address) int {
		return cmp.Or(r.isKnownVF(a)-r.isKnownVF(b), a.Compare(b))
	})
	addresses = slices.DeleteFunc(slices.Compact(addresses), r.postpone)
	if len(addresses) == 0 {
		return
	}
	found := r.looks.inOrder(addresses, r.now)
	for _, l := range found {
		r.take(l)
	}
	if len(found) == len(addresses) {
		return
	}
	r.keepSlow(addresses[len(found)])
	for _, a := range addresses[len(found)+1:] { // which may be slow, too
		r.looks.apart(a, r.now)
		r.keepSlow(a)
	}
	r.apart = true
}

// postpone has a function read later if there is a slow look at it, and reports whether it did.
func (r *refreshing) postpone(a pci.Address) bool {
	if !r.looks.isSlow(a) {
		return false
	}
	delete(r.pending, a)
	r.looks.repeat(a)
	if old := r.known[a]; old != nil {
		r.updateHealth(old)
	}
	if exists, err := r.reader.Exists(a); err == nil && !exists {
		r.update(look{address: a})
	}
	return true
}

// keepSlow keeps what is known of a function with a slow look.
func (r *refreshing) keepSlow(a pci.Address) {
	delete(r.pending, a)
	delete(r.retries, a)
	r.keep(a, r.looks.err(a))
}

// takeReturned takes the looks that took long and have returned. It returns the functions that must
// be read again, because an event named them meanwhile.
func (r *refreshing) takeReturned() []pci.Address {
	found, again := r.looks.returned()
	for _, l := range found {
		r.take(l)
	}
	return again
}

// take takes the result of a look.
func (r *refreshing) take(l look) {
	delete(r.pending, l.address)
	r.noteWatches(l)
	r.scheduleRetry(l.address, l.err)
	if sysfs.IsTransient(l.err) {
		r.keep(l.address, l.err)
		return
	}
	if l.facts != nil && !l.facts.IsVF {
		r.track(l.facts)
	}
	r.update(l)
}

// keep keeps what is known of a function that cannot be read now.
func (r *refreshing) keep(a pci.Address, err error) {
	if old := r.known[a]; old != nil {
		r.updateHealth(old)
		return
	}
	r.unreadable[a] = err.Error()
	r.affected = append(r.affected, a)
}

// update updates what is known of a function.
func (r *refreshing) update(l look) {
	a := l.address
	old, before := r.known[a], r.unreadable[a]
	f := r.complete(l)
	delete(r.unreadable, a)
	switch {
	case f != nil:
	case l.err != nil:
		r.unreadable[a] = l.err.Error()
	default:
		if r.absent == nil {
			r.absent = map[pci.Address]bool{}
		}
		r.absent[a] = true
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
		if old == nil || old.Registration != f.Registration {
			r.allocator.remember(f.Function)
		}
		if f.pf != nil && r.knowsNothing(*f.pf) {
			r.markPending(*f.pf)
		}
	case !f.equal(old):
		r.known[a] = f
		r.setVFs(a, f.VFs)
	}
}

// updateHealth keeps what was read of a function, and replaces what sysfs does not show.
func (r *refreshing) updateHealth(old *function) {
	f := *old
	if f.unhealthy = r.health.Reason(f.Address); f.unhealthy == old.unhealthy {
		return
	}
	r.known[f.Address] = &f
	if f.IsVF {
		r.affected = append(r.affected, f.Address)
	} else {
		r.markVFs(f.Address)
	}
}

// scheduleRetry has a function read again if it could not be read.
func (r *refreshing) scheduleRetry(a pci.Address, err error) {
	if err == nil {
		delete(r.retries, a)
		return
	}
	if sysfs.IsTransient(err) && !r.hasTransientRetry() {
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
		State:       pf.State,
		Services:    pf.Services,
		VFs:         pf.VFs,
	})
}

// remove forgets a function that no longer exists.
func (r *refreshing) remove(f *function) {
	delete(r.known, f.Address)
	if f.IsVF {
		r.allocator.forget(f.Address)
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

// knowsNothing reports whether a function has not been read, or not found.
func (r *refreshing) knowsNothing(a pci.Address) bool {
	return r.known[a] == nil && r.unreadable[a] == "" && !r.looks.isSlow(a) && !r.absent[a]
}

func (r *refreshing) markPending(a pci.Address) {
	if r.pending == nil {
		r.pending = map[pci.Address]bool{}
	}
	r.pending[a] = true
}

func (r *refreshing) markVFs(pf pci.Address) {
	for a, f := range r.known {
		if owner, ok := r.pfOf(a); ok && owner == pf && f.IsVF {
			r.markPending(a)
		}
	}
	for a := range r.unreadable {
		if owner, ok := r.owner[a]; ok && owner == pf {
			r.markPending(a)
		}
	}
}

// readWatched reads a function and has its directories watched. The watches are installed before
// the directories are read, so that no change is missed. Any goroutine may call it, and it may
// block.
func readWatched(reader *device.Reader, watches *hostwatch.Watches, a pci.Address) look {
	h, err := reader.Open(a)
	if h == nil {
		return look{address: a, err: err}
	}
	defer h.Close()
	for _, w := range h.Watches() {
		watches.Want(w.Dir, w.Incarnation)
	}
	facts, err := h.Read()
	return look{address: a, facts: facts, err: err, watches: h.Watches()}
}

// noteWatches takes note of the directories that a look had watched.
func (fs *functions) noteWatches(l look) {
	for _, w := range l.watches {
		if !slices.Contains(fs.watched[l.address], w.Dir) {
			fs.watched[l.address] = append(fs.watched[l.address], w.Dir)
		}
	}
}

// complete adds what sysfs does not show to the facts about a function. The result is nil if there
// are no facts.
func (fs *functions) complete(l look) *function {
	facts := l.facts
	if facts == nil {
		return nil
	}
	f := &function{Function: facts, unhealthy: fs.health.Reason(l.address), pf: facts.PF}
	if l.err != nil {
		f.readErr = l.err.Error()
	}
	if old := fs.known[l.address]; f.IsVF && f.pf == nil && old != nil && old.Incarnation == f.Incarnation {
		f.pf, f.removing = old.pf, old.pf != nil
	}
	return f
}

// compare returns the functions that the host shows differently from what is known, of which it
// changes nothing. unclear are those that cannot be read now. They are read again soon enough, as
// are those that could not be read the last time. After a few slow looks compare leaves the rest
// out, as an event may wait.
func (fs *functions) compare(addresses []pci.Address, now time.Time) (differing, unclear []pci.Address) {
	addresses = slices.DeleteFunc(addresses, func(a pci.Address) bool {
		_, skip := fs.retries[a]
		if skip = skip || fs.looks.isSlow(a); skip {
			unclear = append(unclear, a)
		}
		return skip
	})
	for slow := 0; len(addresses) > 0; {
		found := fs.looks.inOrder(addresses, now)
		for _, l := range found {
			fs.noteWatches(l)
			switch {
			case sysfs.IsTransient(l.err):
				unclear = append(unclear, l.address)
			case l.facts == nil && l.err != nil || !fs.complete(l).equal(fs.known[l.address]):
				differing = append(differing, l.address)
			}
		}
		if addresses = addresses[len(found):]; len(addresses) == 0 {
			break
		}
		if slow++; slow == maxSlowCompared {
			return differing, append(unclear, addresses...)
		}
		unclear, addresses = append(unclear, addresses[0]), addresses[1:]
	}
	return differing, unclear
}

// maxSlowCompared is the number of slow looks after which compare ends.
const maxSlowCompared = 4

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
