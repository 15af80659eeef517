// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

// groupRetry is when an IOMMU group is read again that could not be read.
const groupRetry = time.Second

// groups are the IOMMU groups of the VFs that VFIO can have. Mostly each VF has a group of its own.
// On a host without ACS, the functions below one port share a group
// (Documentation/driver-api/vfio.rst).
//
// A group is read once. It is read again when a function joins or leaves it, or, if it has several,
// when an event names one of them. That a function of another device joins the group of a VF that
// was alone shows only in a full read and in an audit.
type groups struct {
	reader  *device.Reader
	members map[int][]pci.Address  // group → its functions
	of      map[pci.Address]int    // function → its group, by members
	drivers map[pci.Address]string // functions of other devices in these groups → driver, as read last
	retry   time.Time              // when to read again what could not be read; zero: nothing
	failing bool                   // the last read failed
	shared  atomic.Pointer[map[pci.Address]bool]
}

func newGroups(reader *device.Reader) *groups {
	return &groups{
		reader:  reader,
		members: map[int][]pci.Address{},
		of:      map[pci.Address]int{},
		drivers: map[pci.Address]string{},
	}
}

// isShared reports whether a function shares an IOMMU group with a VF. Any goroutine may call it.
// It does not allocate.
func (g *groups) isShared(a pci.Address) bool {
	shared := g.shared.Load()
	return shared != nil && (*shared)[a]
}

// driver returns the driver of a function of another device, or the one that it had if it cannot be
// read.
func (g *groups) driver(a pci.Address) string {
	if driver, err := g.reader.Driver(a); err == nil {
		g.drivers[a] = driver
	}
	return g.drivers[a]
}

// clear drops all groups, so that they are read again.
func (g *groups) clear() {
	clear(g.members)
	clear(g.of)
}

// forget drops a group, so that it is read again, and returns its functions.
func (g *groups) forget(group int) []pci.Address {
	members := g.members[group]
	for _, a := range members {
		delete(g.of, a)
	}
	delete(g.members, group)
	return members
}

// read returns the functions of a group. After an error the group is read again later.
func (g *groups) read(group int, now time.Time) ([]pci.Address, error) {
	if members, ok := g.members[group]; ok {
		return members, nil
	}
	members, err := g.reader.GroupMembers(group)
	if err != nil {
		if !g.failing {
			klog.ErrorS(err, "Cannot read an IOMMU group, trying again", "group", group)
		}
		g.failing, g.retry = true, now.Add(groupRetry)
		return nil, err
	}
	g.failing = false
	for _, a := range members {
		if other, ok := g.of[a]; ok && other != group {
			g.forget(other)
		}
		g.of[a] = group
	}
	g.members[group] = members
	return members, nil
}

// changed takes note of functions that were read again. It returns the functions that share, or
// shared, an IOMMU group with one of them: what is true of one VF of a group depends on the others.
func (g *groups) changed(functions []pci.Address, known map[pci.Address]*function) (siblings []pci.Address) {
	for _, a := range functions {
		f := known[a]
		old, hadGroup := g.of[a]
		isVF := f != nil && f.IsVF && f.Group != nil
		if hadGroup && (len(g.members[old]) > 1 || !isVF || *f.Group != old) {
			siblings = append(siblings, g.forget(old)...)
		}
		if isVF && (!hadGroup || *f.Group != old) {
			siblings = append(siblings, g.forget(*f.Group)...) // a joins it, or the number is used again
		}
	}
	return siblings
}

// publish makes isShared report what is known by now.
func (g *groups) publish() {
	shared := map[pci.Address]bool{}
	for _, members := range g.members {
		if len(members) > 1 {
			for _, a := range members {
				shared[a] = true
			}
		}
	}
	if old := g.shared.Load(); old != nil || len(shared) > 0 {
		g.shared.Store(&shared)
	}
}

// withSiblings adds to functions that were read again the VFs that must be decided on because of
// them.
func (c *controller) withSiblings(functions, affected []pci.Address, now time.Time) []pci.Address {
	if c.rules.driver != device.DriverVFIO {
		return affected
	}
	siblings := c.groups.changed(functions, c.functions.known)
	siblings = append(siblings, c.groups.changed(affected, c.functions.known)...)
	if retry := c.groups.retry; !retry.IsZero() && !now.Before(retry) {
		c.groups.retry = time.Time{}
		siblings = append(siblings, c.functions.vfs(func(vf *function) bool {
			_, isRead := c.groups.of[vf.Address]
			return vf.Group != nil && !isRead
		})...)
	}
	if len(siblings) == 0 {
		return affected
	}
	for _, a := range siblings {
		if c.functions.isKnownVF(a) == 1 {
			affected = append(affected, a)
		}
	}
	slices.SortFunc(affected, pci.Address.Compare)
	return slices.Compact(affected)
}

// addMembers completes the facts about VFs by those about the other functions of their IOMMU
// groups. The VFs among these are as they were read last.
func (c *controller) addMembers(vfs []facts, now time.Time) {
	if c.rules.driver != device.DriverVFIO {
		return
	}
	several := false
	for i := range vfs {
		if f := &vfs[i]; f.vf != nil && f.vf.Group != nil {
			members, err := c.groups.read(*f.vf.Group, now)
			if err != nil {
				f.groupErr = err.Error()
			}
			for _, a := range members {
				if a != f.address {
					f.members = append(f.members, c.member(a, f))
					several = true
				}
			}
		}
	}
	if several || c.groups.shared.Load() != nil {
		c.groups.publish()
	}
}

// member returns what matters of a function in the IOMMU group of a VF.
func (c *controller) member(a pci.Address, f *facts) member {
	known := c.functions.known[a]
	if known == nil {
		return member{address: a, driver: c.groups.driver(a)}
	}
	m := member{address: a, driver: known.Driver}
	if known.IsVF && slices.Contains(c.rules.served, known.Family.VFDriver) {
		m.taken = notBindable(known, &f.driver, &c.rules) == ""
		f.shared = true
	}
	return m
}

// auditGroups decides again about the VFs of groups that changed without an event, or may have.
func (c *controller) auditGroups(now time.Time) {
	for group, members := range c.groups.members {
		current, err := c.reader.GroupMembers(group)
		if err == nil && (len(members) > 1 || !slices.Equal(current, members)) {
			c.groups.forget(group)
			c.groups.retry = now
		}
	}
	if !c.groups.retry.IsZero() {
		c.update(nil, now)
	}
}
