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

// This file keeps the IOMMU groups of the VFs. Usually each VF has a group of its own. On a host
// without ACS, the functions below one port share a group (Documentation/driver-api/vfio.rst). The
// decision about a VF then depends on the other functions of its group, its members:
//
//   - A VF is skipped if a member has a driver for the host, unless the plugin can bind the member
//     to the DPDK driver (blocker, in decide.go).
//   - Only one VF of a group is listed (assign.go).
//
// So each update of functions takes two more steps. withSiblings drops the groups that may have
// changed, and adds the VFs of these groups to the VFs to decide on. addMembers reads the dropped
// groups again, and adds the members to the facts about each VF.

// groupRetry is the time from a failed read of an IOMMU group to the next one.
const groupRetry = time.Second

// groups caches the IOMMU groups of the VFs. It is used only if the DPDK driver is vfio-pci.
//
// A group is read when a VF of it is first decided on. It is read again
//
//   - after a VF joins or leaves it,
//   - after any member is read again or named by an event, if it has several members,
//   - after a full read of the host, and
//   - after an audit, if it has several members or has changed.
//
// If a function of another device joins the group of a single VF, only a full read or an audit
// detects it.
type groups struct {
	reader  *device.Reader
	members map[int][]pci.Address  // group → its functions
	groupOf map[pci.Address]int    // function → its group; the inverse of members
	drivers map[pci.Address]string // members that are not known QAT functions → driver, as last read
	retry   time.Time              // when to read the groups that could not be read; zero: none failed
	failing bool                   // the last read failed

	// shared holds the functions of groups with several members; nil until there is one.
	shared atomic.Pointer[map[pci.Address]bool]
}

func newGroups(reader *device.Reader) *groups {
	return &groups{
		reader:  reader,
		members: map[int][]pci.Address{},
		groupOf: map[pci.Address]int{},
		drivers: map[pci.Address]string{},
	}
}

// isShared reports whether a function shares an IOMMU group with a VF, as of the last call of
// publish. Any goroutine may call it. It does not allocate.
func (g *groups) isShared(a pci.Address) bool {
	shared := g.shared.Load()
	return shared != nil && (*shared)[a]
}

// driver returns the driver of a function that is not a known QAT function. If the driver cannot be
// read, it returns the driver as last read.
func (g *groups) driver(a pci.Address) string {
	if driver, err := g.reader.Driver(a); err == nil {
		g.drivers[a] = driver
	}
	return g.drivers[a]
}

// clear drops all groups, so that they are read again.
func (g *groups) clear() {
	clear(g.members)
	clear(g.groupOf)
}

// forget drops a group, so that it is read again, and returns its members.
func (g *groups) forget(group int) []pci.Address {
	members := g.members[group]
	for _, a := range members {
		delete(g.groupOf, a)
	}
	delete(g.members, group)
	return members
}

// read returns the members of a group, from the cache if possible. An error sets the time of the
// next read.
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
		if other, ok := g.groupOf[a]; ok && other != group {
			g.forget(other)
		}
		g.groupOf[a] = group
	}
	g.members[group] = members
	return members, nil
}

// forgetChanged drops the groups that may have changed because these functions were read again or
// named by an event. It returns the members of the dropped groups.
func (g *groups) forgetChanged(functions []pci.Address, known map[pci.Address]*function) (siblings []pci.Address) {
	for _, a := range functions {
		f := known[a]
		old, hadGroup := g.groupOf[a]
		isVF := f != nil && f.IsVF && f.Group != nil
		if hadGroup && (len(g.members[old]) > 1 || !isVF || *f.Group != old) {
			siblings = append(siblings, g.forget(old)...)
		}
		if isVF && (!hadGroup || *f.Group != old) {
			siblings = append(siblings, g.forget(*f.Group)...) // a joined it, or the number is reused
		}
	}
	return siblings
}

// publish updates the set of functions that isShared uses.
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

// withSiblings returns the affected functions, and all VFs that shared or now share an IOMMU group
// with one of them or of the functions that events named. If groupRetry is over, it adds the VFs
// whose group could not be read. The result is sorted.
func (c *controller) withSiblings(named, affected []pci.Address, now time.Time) []pci.Address {
	if c.rules.driver != device.DriverVFIO {
		return affected
	}
	siblings := c.groups.forgetChanged(named, c.functions.known)
	siblings = append(siblings, c.groups.forgetChanged(affected, c.functions.known)...)
	if retry := c.groups.retry; !retry.IsZero() && !now.Before(retry) {
		c.groups.retry = time.Time{}
		siblings = append(siblings, c.functions.vfs(func(vf *function) bool {
			_, isRead := c.groups.groupOf[vf.Address]
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

// addMembers adds the members of the IOMMU groups to the facts about VFs. Members that are QAT
// functions are not read again.
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

// member returns the facts about another function in the IOMMU group of the VF of f. If the
// function is a VF of a served family, it also sets f.shared.
func (c *controller) member(a pci.Address, f *facts) member {
	known := c.functions.known[a]
	if known == nil {
		return member{address: a, driver: c.groups.driver(a)}
	}
	m := member{address: a, driver: known.Driver}
	if known.IsVF && slices.Contains(c.rules.served, known.Family.VFDriver) {
		m.bindable = notBindable(known, &f.driver, &c.rules).Text == "" && !c.isWithdrawn(a)
		f.shared = true
	}
	return m
}

// isWithdrawn reports whether the PF of a VF is withdrawn.
func (c *controller) isWithdrawn(vf pci.Address) bool {
	pf, ok := c.functions.pfOf(vf)
	return ok && c.allocator.withdrawn(pf) != ""
}

// auditGroups decides again about the VFs of each group that has changed without an event, and of
// each group with several members, because their drivers may have changed.
func (c *controller) auditGroups(now time.Time) {
	for group, members := range c.groups.members {
		current, err := c.reader.GroupMembers(group)
		if err == nil && (len(members) > 1 || !slices.Equal(current, members)) {
			c.groups.forget(group)
			c.groups.retry = now
		}
	}
	if !c.groups.retry.IsZero() {
		c.update(nil, nil, now)
	}
}
