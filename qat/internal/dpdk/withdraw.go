// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
	"sync"
	"time"

	"qatplugin/devtree"
	"qatplugin/qat/internal/pci"
)

// withdrawals holds the PFs that are withdrawn: their VFs must not be allocated. It also holds when
// each VF was allocated. Both have the same lock, so that every allocation either comes before a
// withdrawal, and is visible after it, or fails.
//
// An entry is kept after its VF is removed. The VFs of a host use a fixed set of addresses, which
// bounds the number of entries.
type withdrawals struct {
	mu        sync.Mutex // guards all following fields
	reasons   map[pci.Address]string
	pfs       map[pci.Address]pci.Address // VF → PF, by the last read; none for a VF without a PF
	allocated map[pci.Address]time.Time   // VF → last allocation
	changed   func(pf pci.Address)        // marks a PF for the mode; nil: the mode does not run
}

func newWithdrawals() withdrawals {
	return withdrawals{
		reasons:   map[pci.Address]string{},
		pfs:       map[pci.Address]pci.Address{},
		allocated: map[pci.Address]time.Time{},
	}
}

// Withdraw withdraws a PF: no container gets one of its VFs from then on, for this reason. If the
// reason is empty, Withdraw offers the VFs again. Any goroutine may call it, also before and after
// the mode runs.
//
// Every call of PostAllocate or Check that begins after Withdraw has returned fails with the
// reason. A call that ran at the same time has either failed, or LastAllocated reports it.
//
// The mode follows soon after. Listed VFs of the PF become unhealthy with the reason, and keep
// their places under a device limit for as long as they exist. Its other VFs, also those that the
// kernel adds later, are skipped with the reason and not bound. A bind in progress may still end.
// With Config.Attributes, the other VFs that are bound are listed as unhealthy.
func (w *withdrawals) Withdraw(pf pci.Address, reason string) {
	w.mu.Lock()
	changed := w.changed
	if w.reasons[pf] == reason {
		changed = nil
	}
	if reason == "" {
		delete(w.reasons, pf)
	} else {
		w.reasons[pf] = reason
	}
	w.mu.Unlock()
	if changed != nil {
		changed(pf)
	}
}

// LastAllocated returns when Check last returned nil for a VF, in this process. It returns
// the zero time if it never did. The kubelet may have discarded the result since.
func (w *withdrawals) LastAllocated(vf pci.Address) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.allocated[vf]
}

// follow sets the function that is called after a change with the PF. Nil ends that.
func (w *withdrawals) follow(changed func(pf pci.Address)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed = changed
}

// setPF records the PF of a VF, as it was read last.
func (w *withdrawals) setPF(vf, pf pci.Address, hasPF bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if hasPF {
		w.pfs[vf] = pf
	} else {
		delete(w.pfs, vf)
	}
}

// withdrawn returns why a PF is withdrawn, or "" if it is not.
func (w *withdrawals) withdrawn(pf pci.Address) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reasons[pf]
}

// withdrawsAny reports whether any PF is withdrawn.
func (w *withdrawals) withdrawsAny() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.reasons) > 0
}

// allocate records that these VFs are allocated now. If the PF of one is withdrawn, it records
// nothing and returns an error.
func (w *withdrawals) allocate(vfs []pci.Address) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range vfs {
		if pf, ok := w.pfs[a]; ok && w.reasons[pf] != "" {
			return fmt.Errorf("allocate %s: %w: %s", a, devtree.ErrUnfit, w.reasons[pf])
		}
	}
	now := time.Now()
	for _, a := range vfs {
		w.allocated[a] = now
	}
	return nil
}
