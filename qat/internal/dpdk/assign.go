// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
)

// An assignment is which VFs are listed, and why the others are not.
type assignment struct {
	limit  int // of listed VFs; 0: no limit
	policy policy.Policy

	listed  map[pci.Address]string   // VF → the resource that it is listed in
	waiting map[pci.Address]decision // VFs that could be listed but for the limit
	skipped map[string]string        // VF → why it is not listed
	tree    *devtree.Tree
}

// apply brings the lists in line with new decisions. A VF that is listed keeps its place under the
// limit. pending are VFs that are being bound for the first time, and pfOf finds the PF of a VF.
func (s *assignment) apply(decisions []decision, pending []pci.Address, pfOf policy.PFOf) {
	b := s.tree.Edit()
	for _, d := range decisions {
		s.applyOne(b, d)
	}
	if len(s.waiting) > 0 {
		s.fill(b, pending, pfOf)
	}
	s.tree = b.Build()
}

func (s *assignment) applyOne(b *devtree.Builder, d decision) {
	a, id := d.vf, d.vf.String()
	delete(s.waiting, a)
	delete(s.skipped, id)
	resource, listed := s.listed[a]
	if listed && d.resource != resource {
		b.Remove(resource, id)
	}
	switch {
	case d.action != actionList:
		delete(s.listed, a)
		if d.reason != "" {
			s.skipped[id] = d.reason
		}
	case listed || s.limit == 0:
		s.list(b, d)
	default:
		s.waiting[a] = d
	}
}

// fill gives the places that the limit leaves to VFs that wait for one. A VF that is being bound
// holds a place, too: otherwise the VFs of the PF that is bound first would take all of them.
func (s *assignment) fill(b *devtree.Builder, pending []pci.Address, pfOf policy.PFOf) {
	candidates := slices.AppendSeq(slices.Clone(pending), maps.Keys(s.waiting))
	places := s.limit - len(s.listed)
	for _, a := range policy.Order(s.policy, candidates, pfOf, maps.Keys(s.listed)) {
		d, ready := s.waiting[a]
		switch {
		case places == 0 && ready:
			s.skipped[a.String()] = fmt.Sprintf("hidden by -max-num-devices=%d", s.limit)
		case places > 0 && ready:
			s.list(b, d)
			delete(s.waiting, a)
			places--
		case places > 0:
			places--
		}
	}
}

func (s *assignment) list(b *devtree.Builder, d decision) {
	a, id := d.vf, d.vf.String()
	delete(s.skipped, id)
	if err := b.Put(d.resource, d.device); err != nil {
		klog.ErrorS(err, "Cannot list a device", "device", a)
		b.Remove(d.resource, id)
		delete(s.listed, a)
		s.skipped[id] = err.Error()
		return
	}
	s.listed[a] = d.resource
}
