// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

// A snapshot is a copy of what a controller knew at one time. The functions and places that it
// refers to do not change.
type snapshot struct {
	controller *controller // for what any goroutine may read
	known      map[pci.Address]*function
	owner      map[pci.Address]pci.Address
	listed     map[pci.Address]*place
	classes    map[pci.Address]string // of the reasons why VFs are not listed
}

// Snapshot copies pointers to what the controller knows. The function that it returns adds that to
// a [status.Snapshot].
func (c *controller) Snapshot() func(s *status.Snapshot, skipped map[string]string) {
	copied := &snapshot{
		controller: c,
		known:      maps.Clone(c.functions.known),
		owner:      maps.Clone(c.functions.owner),
		listed:     maps.Clone(c.assignment.listed),
		classes:    maps.Clone(c.assignment.classes),
	}
	return copied.addTo
}

// addTo adds all functions to s. skipped maps VFs to the reasons why they are not listed.
func (v *snapshot) addTo(s *status.Snapshot, skipped map[string]string) {
	c := v.controller
	binding := map[pci.Address]bool{}
	for _, a := range c.binder.Pending() {
		binding[a] = true
	}
	for a, f := range v.known {
		if f.IsVF {
			s.VFs = append(s.VFs, v.vf(f, skipped[a.String()], binding[a]))
		} else {
			s.PFs = append(s.PFs, v.pf(f))
		}
	}
	c.totals.keep(v.known)
	slices.SortFunc(s.PFs, func(a, b status.PF) int { return cmp.Compare(a.Address, b.Address) })
	slices.SortFunc(s.VFs, func(a, b status.VF) int { return cmp.Compare(a.Address, b.Address) })
	s.Counters.Binds = c.binder.Results()
}

// pf describes a PF.
func (v *snapshot) pf(f *function) status.PF {
	c := v.controller
	pf := status.PF{
		Address:   f.Address.String(),
		Family:    f.Family.Name,
		DeviceID:  fmt.Sprintf("%04x", f.Family.PF),
		Driver:    f.Driver,
		NUMANode:  f.NUMANode,
		State:     f.State,
		Services:  f.Services,
		Resource:  f.Resource,
		VFs:       len(f.VFs),
		TotalVFs:  c.totals.get(c.reader, f.Function),
		Health:    status.Healthy,
		ReadErr:   f.readErr,
		Withdrawn: c.allocator.withdrawn(f.Address),
	}
	switch {
	case f.IsDown():
		pf.Health, pf.Reason = status.Unhealthy, "is "+f.State
	case f.unhealthy.Text != "":
		pf.Health, pf.Reason = status.Unhealthy, f.unhealthy.Text
	}
	h := c.health.Heartbeats(f.Address)
	pf.Heartbeat = status.Heartbeat{Last: h.Last, Good: h.Good, Failed: h.Failed}
	if !h.At.IsZero() {
		pf.Heartbeat.LastAt = &h.At
	}
	return pf
}

// vf describes a VF. reason is why it is not listed. binding says that the binder has it, which may
// be newer than reason.
func (v *snapshot) vf(f *function, reason string, binding bool) status.VF {
	vf := status.VF{
		Address:    f.Address.String(),
		Family:     f.Family.Name,
		DeviceID:   fmt.Sprintf("%04x", f.Family.VF),
		Driver:     f.Driver,
		NUMANode:   f.NUMANode,
		IOMMUGroup: f.Group,
	}
	if pf, hasPF := v.pfOf(f); hasPF {
		vf.PF = pf.String()
	}
	if f.Node.Name != "" && f.Node.Missing == "" {
		vf.Node = "/dev/" + f.Node.Name
	}
	p := v.listed[f.Address]
	if p != nil {
		vf.Resource = p.decision.resource
		reason = p.decision.device.Reason
	}
	vf.Reason = reason
	switch {
	case p != nil && p.decision.device.Health == devtree.Unhealthy:
		vf.State = status.StateUnhealthy
	case p != nil:
		vf.State = status.StateListed
	case binding || reason != "" && v.classes[f.Address] == "":
		vf.State = status.StateBinding
	default:
		vf.State, vf.Class = status.StateSkipped, cmp.Or(v.classes[f.Address], status.ClassOther)
	}
	return vf
}

func (v *snapshot) pfOf(vf *function) (pci.Address, bool) {
	if vf.pf != nil {
		return *vf.pf, true
	}
	pf, ok := v.owner[vf.Address]
	return pf, ok
}

// totalVFs caches how many VFs the PFs can have. Any goroutine may use it.
type totalVFs struct {
	mu  sync.Mutex // guards pfs
	pfs map[pci.Address]totalOfPF
}

// A totalOfPF is the number of VFs that a PF can have with its driver, which may lower the number
// (include/linux/pci.h, pci_sriov_set_totalvfs).
type totalOfPF struct {
	incarnation uint64
	driver      string
	total       int
}

// get returns the number of VFs that a PF can have. It returns 0 if that cannot be read.
func (t *totalVFs) get(reader *device.Reader, pf *device.Function) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.pfs[pf.Address]
	if known.incarnation != pf.Incarnation || known.driver != pf.Driver || known.total == 0 {
		known = totalOfPF{pf.Incarnation, pf.Driver, reader.TotalVFs(pf.Address)}
		t.pfs[pf.Address] = known
	}
	return known.total
}

// keep drops the PFs that are not known.
func (t *totalVFs) keep(known map[pci.Address]*function) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.pfs, func(a pci.Address, _ totalOfPF) bool { return known[a] == nil })
}
