// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/health"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/readpool"
	"qatplugin/qat/internal/sysfs"
)

// A readResult is what one read of a PCI function returned. It is zero if there is no QAT function.
type readResult struct {
	facts   *device.Function // as [device.Reader.Read] returns them
	err     error
	watches []device.Watch // directories of the function, watched since before they were read
}

func (r readResult) isPF() bool { return r.facts != nil && !r.facts.IsVF }

type (
	readPool   = readpool.Pool[pci.Address, readResult, device.Progress]
	poolResult = readpool.Result[pci.Address, readResult]
)

// A function is one QAT function, PF or VF, as it was read last. It is not changed afterwards.
type function struct {
	*device.Function
	readErr string       // what could not be read, for a reason that is not transient; "" when everything could
	pf      *pci.Address // the VF's PF by its physfn link, or by the link that it had

	// unhealthy says why the function, or the VFs of a PF, must not be used for reasons that sysfs
	// does not show: PCI errors, heartbeats, RAS counters.
	unhealthy status.Reason

	// removing says that the VF had a physfn link and has none any more. The kernel removes the
	// link before it unbinds and removes the VF (drivers/pci/iov.c, pci_iov_remove_virtfn).
	removing bool
}

func (f *function) equal(other *function) bool { return reflect.DeepEqual(f, other) }

// functions are the QAT functions of the host as they were read last.
type functions struct {
	reader    *device.Reader                                // for what never blocks
	reread    func(known *device.Function) *device.Function // [device.Reader.Reread]
	pool      *readPool                                     // for what the kernel may block
	allocator *Allocator
	health    *health.Monitor
	watches   *hostwatch.Watches
	pfRead    func(pf pci.Address, debugfs string) // see [Config.PFRead]

	attributes bool // devices have attributes, so the number of a VF at its PF must be known

	known      map[pci.Address]*function
	unreadable map[pci.Address]string      // functions that exist but were never read → why not
	owner      map[pci.Address]pci.Address // VF → PF, by the PFs' virtfn links
	watched    map[pci.Address][]string    // function → directories that are watched for it
	retries    map[pci.Address]retry       // functions whose last read failed
	expired    map[pci.Address]bool        // functions of which more than the links must be read again
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

// refresh reads these functions again and updates what is known. It returns, sorted, the addresses
// that must be decided on again: those of VFs, and those at which there is no QAT function, or at
// which none could be read before.
//
// A read that fails for a transient reason changes nothing that is known, and is retried later; see
// [retry]. The same holds for a read that does not return. Its result is used when it does.
//
// When a PF changes, its VFs are read after it, each once. The kernel may have removed the VFs
// before it changed the PF, and the events of that may still be queued, so refresh never combines
// cached VF state with fresh PF state. A VF that was read before its PF is read a second time.
func (fs *functions) refresh(addresses []pci.Address, now time.Time) []pci.Address {
	r := refreshing{functions: fs, now: now}
	r.updateConcurrent(fs.pool.Take())
	r.reportOverdue()
	for {
		addresses = slices.AppendSeq(addresses, maps.Keys(r.pending))
		if len(addresses) == 0 {
			break
		}
		r.readAndUpdate(addresses)
		addresses = nil
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

// refreshing is the state of one call of refresh.
type refreshing struct {
	*functions
	now      time.Time
	affected []pci.Address        // what refresh returns
	pending  map[pci.Address]bool // what refresh must still read because of what it has read
	absent   map[pci.Address]bool // addresses at which refresh found no QAT function
}

// readAndUpdate reads functions, first PFs and then known VFs, and updates what is known.
func (r *refreshing) readAndUpdate(addresses []pci.Address) {
	slices.SortFunc(addresses, func(a, b pci.Address) int {
		return cmp.Or(r.isKnownVF(a)-r.isKnownVF(b), a.Compare(b))
	})
	addresses = slices.Compact(addresses)
	firstVF, _ := slices.BinarySearchFunc(addresses, 1, func(a pci.Address, vf int) int { return r.isKnownVF(a) - vf })
	r.readFully(addresses[:firstVF])
	r.readFully(slices.DeleteFunc(addresses[firstVF:], r.readLinks))
}

// expire makes refresh read functions in full.
func (fs *functions) expire(addresses ...pci.Address) {
	for _, a := range addresses {
		fs.expired[a] = true
	}
}

// readLinks reads the links of a known VF again and updates what is known, unless more must be
// read. It reports whether it did.
func (r *refreshing) readLinks(a pci.Address) bool {
	vf := r.known[a]
	if vf == nil || vf.readErr != "" || r.expired[a] || r.pool.IsOutstanding(a) {
		return false
	}
	facts := r.reread(vf.Function)
	if facts != nil {
		r.updateRead(a, readResult{facts: facts})
	}
	return facts != nil
}

// readFully reads functions in other goroutines and updates what is known.
func (r *refreshing) readFully(addresses []pci.Address) {
	if len(addresses) == 0 {
		return
	}
	inOrder, concurrent := r.pool.Read(addresses)
	for _, result := range inOrder {
		r.updateRead(result.Key, result.Value)
	}
	for _, a := range addresses {
		if r.pool.IsOutstanding(a) {
			r.updateOutstanding(a)
		}
	}
	r.updateConcurrent(concurrent)
}

// updateConcurrent updates what is known after reads that ran at the same time have returned. PFs
// come last: a VF may have been read before its PF, so if the PF has changed, the VF is read again.
func (r *refreshing) updateConcurrent(results []poolResult) {
	for _, pfs := range []bool{false, true} {
		for _, result := range results {
			if result.Value.isPF() != pfs {
				continue
			}
			r.updateRead(result.Key, result.Value)
			if result.Stale {
				r.expired[result.Key] = true
				r.markPending(result.Key)
			}
			if result.Overdue > 0 {
				klog.InfoS("A read has returned at last", "device", result.Key, "after", result.Overdue)
			}
		}
	}
}

// updateOutstanding updates what can be known of a function while a read of it does not return.
func (r *refreshing) updateOutstanding(a pci.Address) {
	delete(r.pending, a)
	delete(r.retries, a)
	r.keep(a, errNotReturned(a, r.pool.Progress(a)))
	if exists, err := r.reader.Exists(a); err == nil && !exists {
		r.update(a, readResult{})
	}
}

// reportOverdue logs the reads that have not returned for a second, each once.
func (r *refreshing) reportOverdue() {
	for _, a := range r.pool.Overdue(r.now) {
		progress := r.pool.Progress(a)
		klog.ErrorS(nil, "A read does not return, keeping what is known of the device until it does",
			"device", a, "file", progress.File(), "after", readpool.Timeout)
		r.keep(a, errNotReturned(a, progress))
	}
}

// errNotReturned describes a read of a function that the kernel blocks.
func errNotReturned(a pci.Address, progress *device.Progress) error {
	return fmt.Errorf("read %s: it has not returned yet", cmp.Or(progress.File(), a.String()))
}

// updateRead updates what is known of a function after a read of it has returned.
func (r *refreshing) updateRead(a pci.Address, result readResult) {
	delete(r.pending, a)
	r.recordWatches(a, result.watches)
	r.scheduleRetry(a, result.err)
	if sysfs.IsTransient(result.err) {
		r.keep(a, result.err)
		return
	}
	delete(r.expired, a)
	if result.isPF() {
		r.monitorHealth(result.facts)
		if r.pfRead != nil {
			r.pfRead(a, result.facts.Debugfs)
		}
	}
	r.update(a, result)
}

// keep keeps what is known of a function that cannot be read now, and updates only its health. If
// nothing is known, err says why.
func (r *refreshing) keep(a pci.Address, err error) {
	if old := r.known[a]; old != nil {
		r.updateHealth(old)
		return
	}
	r.unreadable[a] = err.Error()
	r.affected = append(r.affected, a)
}

// update replaces what is known of a function. It marks as pending what must be read again because
// of that: the VFs of a PF that changed, and the PF of a VF if it is unread.
func (r *refreshing) update(a pci.Address, result readResult) {
	old, reason := r.known[a], r.unreadable[a]
	f := r.complete(a, result)
	delete(r.unreadable, a)
	switch {
	case f != nil:
	case result.err != nil:
		r.unreadable[a] = result.err.Error()
	default:
		if r.absent == nil {
			r.absent = map[pci.Address]bool{}
		}
		r.absent[a] = true
	}
	if f == nil || f.IsVF || reason != "" {
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
		r.allocator.remember(f.Function)
		pf, hasPF := r.pfOf(a)
		r.allocator.setPF(a, pf, hasPF)
		if f.pf != nil && (r.isUnread(*f.pf) || r.attributes && !r.isLinked(a, *f.pf)) {
			r.markPending(*f.pf)
		}
	case !f.equal(old):
		r.known[a] = f
		r.setVFs(a, f.VFs)
	}
}

// updateHealth updates only the health of a function, which sysfs does not show.
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

// scheduleRetry sets the time of the next read of a function if the last one failed.
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

// monitorHealth passes what was read of a PF to the health monitor.
func (r *refreshing) monitorHealth(pf *device.Function) {
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

// remove removes a function that no longer exists.
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

// setVFs replaces the virtfn links of a PF that changed. It marks as pending all VFs that belonged
// to the PF before or belong to it now, by either link.
func (r *refreshing) setVFs(pf pci.Address, vfs []pci.Address) {
	r.markVFs(pf)
	maps.DeleteFunc(r.owner, func(_, owner pci.Address) bool { return owner == pf })
	for _, vf := range vfs {
		r.owner[vf] = pf
	}
	r.markVFs(pf)
}

// isUnread reports whether nothing is known of a function, not even that it cannot be read now or
// is no QAT function.
func (r *refreshing) isUnread(a pci.Address) bool {
	return r.known[a] == nil && r.unreadable[a] == "" && !r.absent[a] && !r.pool.IsOutstanding(a)
}

// isLinked reports whether a VF has a virtfn link at its PF, as the PF was read last, or the PF is
// not known.
func (r *refreshing) isLinked(vf, pf pci.Address) bool {
	owner, linked := r.owner[vf]
	return linked && owner == pf || r.known[pf] == nil
}

func (r *refreshing) markPending(a pci.Address) {
	if r.pending == nil {
		r.pending = map[pci.Address]bool{}
	}
	r.pending[a] = true
}

// markVFs marks the VFs of a PF as pending.
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

// A watchedReader reads functions and watches their directories. Any goroutine may use it.
type watchedReader struct {
	watches *hostwatch.Watches
	last    functionTable // as read last
}

// read watches the directories of a function and then reads it, so that no change is missed. The
// kernel may block it.
func (w *watchedReader) read(reader *device.Reader, a pci.Address) readResult {
	h, err := reader.Open(a, w.last.get(a))
	if h == nil {
		w.last.remove(a)
		return readResult{err: err}
	}
	defer h.Close()
	for _, dir := range h.Watches() {
		w.watches.Want(dir.Dir, dir.Incarnation)
	}
	facts, err := h.Read()
	if facts == nil {
		w.last.remove(a)
	} else {
		w.last.set(facts)
	}
	return readResult{facts: facts, err: err, watches: h.Watches()}
}

// A functionTable holds functions by address. Any goroutine may use it. It needs a third of the
// memory of a sync.Map.
type functionTable struct {
	mu        sync.RWMutex
	functions map[pci.Address]*device.Function // nil: empty
}

// get returns the function at an address, or nil.
func (t *functionTable) get(a pci.Address) *device.Function {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.functions[a]
}

// set replaces the function at the address of f.
func (t *functionTable) set(f *device.Function) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.functions == nil {
		t.functions = map[pci.Address]*device.Function{}
	}
	t.functions[f.Address] = f
}

// remove removes the function at an address.
func (t *functionTable) remove(a pci.Address) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.functions, a)
}

// recordWatches records the directories that are watched for a function. The watches are dropped
// when the function is gone.
func (fs *functions) recordWatches(a pci.Address, watches []device.Watch) {
	for _, w := range watches {
		if !slices.Contains(fs.watched[a], w.Dir) {
			fs.watched[a] = append(fs.watched[a], w.Dir)
		}
	}
}

// complete returns the function that was read, with what sysfs does not show: its health, and the
// PF of a VF that is being removed. It returns nil if there is none or it could not be read.
func (fs *functions) complete(a pci.Address, result readResult) *function {
	facts := result.facts
	if facts == nil {
		return nil
	}
	f := &function{Function: facts, unhealthy: fs.health.Reason(a), pf: facts.PF}
	if result.err != nil {
		f.readErr = result.err.Error()
	}
	if old := fs.known[a]; f.IsVF && f.pf == nil && old != nil && old.Incarnation == f.Incarnation {
		f.pf, f.removing = old.pf, old.pf != nil
	}
	return f
}

// compare reads functions and returns those that differ from what is known. It does not change what
// is known. unread are the functions that could not be read now or the last time. They are read
// again in any case.
func (fs *functions) compare(addresses []pci.Address) (differing, unread []pci.Address) {
	addresses = slices.DeleteFunc(addresses, func(a pci.Address) bool {
		_, failed := fs.retries[a]
		skip := failed || fs.pool.IsOutstanding(a)
		if skip {
			unread = append(unread, a)
		}
		return skip
	})
	inOrder, concurrent := fs.pool.Read(addresses)
	for _, r := range slices.Concat(inOrder, concurrent) {
		fs.recordWatches(r.Key, r.Value.watches)
		facts, err := r.Value.facts, r.Value.err
		switch {
		case sysfs.IsTransient(err):
			unread = append(unread, r.Key)
		case facts == nil && err != nil || !fs.complete(r.Key, r.Value).equal(fs.known[r.Key]):
			differing = append(differing, r.Key)
		}
	}
	for _, a := range addresses {
		if fs.pool.IsOutstanding(a) {
			unread = append(unread, a)
		}
	}
	return differing, unread
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
