// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"cmp"
	"slices"

	"qatplugin/devtree"
	"qatplugin/internal/status"
)

// Snapshot copies the Tree and the last answer of adf_ctl, neither of which changes.
func (m *mode) Snapshot() func(s *status.Snapshot, skipped map[string]string) {
	tree, entries := m.tree, m.entries
	return func(s *status.Snapshot, skipped map[string]string) {
		s.Processes = append(s.Processes, processes(tree)...)
		for _, e := range entries {
			if e.isVF() {
				s.VFs = append(s.VFs, e.vf(skipped[e.name()]))
			} else {
				s.PFs = append(s.PFs, e.pf(skipped[e.name()]))
			}
		}
		slices.SortFunc(s.PFs, func(a, b status.PF) int { return cmp.Compare(a.Address, b.Address) })
		slices.SortFunc(s.VFs, func(a, b status.VF) int { return cmp.Compare(a.Address, b.Address) })
	}
}

// processes describes the units of a Tree.
func processes(tree *devtree.Tree) (list []status.Process) {
	for r := range tree.Resources() {
		for d := range r.Devices() {
			p := status.Process{ID: d.ID, Resource: r.Name(), Health: status.Healthy, Reason: d.Reason}
			if d.Health == devtree.Unhealthy {
				p.Health = status.Unhealthy
			}
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b status.Process) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// pf describes a PF. reason is why the mode does not use it, or "".
func (e entry) pf(reason string) status.PF {
	pf := status.PF{
		Address:  e.Address.String(),
		Family:   e.Type,
		Driver:   e.Type,
		NUMANode: e.NUMANode,
		State:    e.State,
		Health:   status.Healthy,
		Reason:   reason,
	}
	if !e.isUp() {
		pf.Health = status.Unhealthy
	}
	return pf
}

// vf describes a VF. reason is why the mode does not use it, or "".
func (e entry) vf(reason string) status.VF {
	vf := status.VF{
		Address:  e.Address.String(),
		Family:   e.Type,
		Driver:   e.Type,
		NUMANode: e.NUMANode,
		State:    status.StateListed,
		Reason:   reason,
	}
	if reason != "" {
		vf.State, vf.Class = status.StateSkipped, status.ClassOther
	}
	return vf
}
