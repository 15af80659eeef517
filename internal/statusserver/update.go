// SPDX-License-Identifier: Apache-2.0

package statusserver

import (
	"reflect"

	"qatplugin/internal/status"
)

// newUpdate returns the difference between two snapshots, or nil if they differ in nothing but
// their times.
func newUpdate(before, after *status.Snapshot) *status.Update {
	pfs, noPFs := changes(before.PFs, after.PFs, func(f *status.PF) string { return f.Address }, equalPFs)
	vfs, noVFs := changes(before.VFs, after.VFs, func(f *status.VF) string { return f.Address }, equalVFs)
	u := &status.Update{
		Time:         after.Time,
		PFs:          pfs,
		VFs:          vfs,
		Removed:      append(noPFs, noVFs...),
		Resources:    after.Resources,
		Loops:        after.Loops,
		Checks:       after.Checks,
		Processes:    after.Processes,
		Provisioning: after.Provisioning,
		DRA:          after.DRA,
		Counters:     after.Counters,
	}
	// The parts that an update always contains in full.
	rest := func(s *status.Snapshot) any {
		return []any{s.Resources, s.Loops, s.Checks, s.Processes, s.Provisioning, s.DRA, s.Counters}
	}
	if len(u.PFs)+len(u.VFs)+len(u.Removed) == 0 && reflect.DeepEqual(rest(before), rest(after)) {
		return nil
	}
	return u
}

// changes returns the functions that are new or differ, and the addresses of those that are gone.
func changes[T any](
	before, after []T, address func(*T) string, equal func(a, b T) bool,
) (changed []T, gone []string) {
	old := make(map[string]*T, len(before))
	for i := range before {
		old[address(&before[i])] = &before[i]
	}
	for i := range after {
		f := &after[i]
		if was := old[address(f)]; was == nil || !equal(*was, *f) {
			changed = append(changed, *f)
		}
		delete(old, address(f))
	}
	for i := range before {
		if a := address(&before[i]); old[a] != nil {
			gone = append(gone, a)
		}
	}
	return changed, gone
}

func equalPFs(a, b status.PF) bool {
	same := equalPointers(a.Heartbeat.LastAt, b.Heartbeat.LastAt)
	a.Heartbeat.LastAt, b.Heartbeat.LastAt = nil, nil
	return same && a == b
}

func equalVFs(a, b status.VF) bool {
	same := equalPointers(a.IOMMUGroup, b.IOMMUGroup)
	a.IOMMUGroup, b.IOMMUGroup = nil, nil
	return same && a == b
}

// equalPointers reports whether both are nil or point to the same value.
func equalPointers[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
