// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"qatplugin/devtree"
)

// sectionVariable is the environment variable by which the QAT library of a
// container finds its section.
const sectionVariable = "QAT_SECTION_NAME"

// buildTree returns the Tree that follows from a snapshot, sharing with old
// what did not change, and what it skipped.
func buildTree(old *devtree.Tree, s *snapshot) (*devtree.Tree, skips) {
	skipped := skips{}
	for _, node := range s.missing {
		skipped.add("/dev/"+node, "the node is missing")
	}
	usable := s.usable(skipped)
	units := unitMap{}
	for _, g := range groupSections(usable) {
		reason := g.conflict(usable)
		if reason == "" {
			reason = s.addUnits(units, g, usable)
		}
		if reason != "" {
			skipped.add("["+g.name+"]", reason)
		}
	}
	b := old.Edit()
	for r := range old.Resources() {
		for d := range r.Devices() {
			if units[r.Name()][d.ID] == nil {
				b.Remove(r.Name(), d.ID)
			}
		}
	}
	for _, resource := range slices.Sorted(maps.Keys(units)) {
		for id, d := range units[resource] {
			if err := b.Put(resource, d); err != nil {
				skipped.add("unit "+id, err.Error())
				b.Remove(resource, id)
			}
		}
	}
	return b.Build(), skipped
}

// A unitMap maps resources to IDs to units.
type unitMap map[string]map[string]*devtree.Device

// usable returns the devices that processes can use.
func (s *snapshot) usable(skipped skips) []*device {
	var usable []*device
	for _, d := range s.devices {
		if reason := s.unusable(d); reason != "" {
			skipped.add(d.name(), reason)
			continue
		}
		usable = append(usable, d)
	}
	return usable
}

// unusable returns why a device cannot be used, or "" if it can.
func (s *snapshot) unusable(d *device) string {
	switch {
	case s.iommu && !d.isVF():
		return "it is a PF; with an IOMMU only VFs can be used"
	case !s.iommu && d.isVF():
		return "it is a VF; without an IOMMU only PFs can be used"
	case !d.isUp():
		return fmt.Sprintf("adf_ctl reports the state %q", d.State)
	case d.UIOErr != nil:
		return d.UIOErr.Error()
	case d.MissingNode != "":
		return fmt.Sprintf("its node /dev/%s is missing", d.MissingNode)
	case d.ConfigErr != nil:
		return d.ConfigErr.Error()
	}
	return ""
}

// inconsistency returns where sysfs contradicts adf_ctl, or "" if it does
// not. Either something changed since adf_ctl ran, or a device is starting or
// stopping: in the middle of that the driver creates and removes UIO devices.
func (s *snapshot) inconsistency() string {
	for _, u := range s.unlisted {
		if isVFType(u.Driver) == s.iommu {
			return fmt.Sprintf("adf_ctl does not list %s, which driver %s is bound to", u.Address, u.Driver)
		}
	}
	for _, d := range s.devices {
		switch {
		case d.isVF() != s.iommu:
		case !d.isUp() && len(d.UIO) > 0:
			return fmt.Sprintf("%s is %s and has %s", d.name(), d.State, d.UIO[0])
		case d.isUp() && len(d.UIO) == 0:
			return fmt.Sprintf("%s is up and has no UIO device", d.name())
		}
	}
	return ""
}

// addUnits adds a unit for each process of the section: all of them, or none and the reason.
func (s *snapshot) addUnits(units unitMap, g *group, usable []*device) (reason string) {
	resource := g.resource()
	template := s.unit(g, usable)
	members := g.members
	if !members[0].section.Pinned {
		members = members[:1] // its processes span the devices, and every file describes the same ones
	}
	added := map[string]*devtree.Device{}
	for _, m := range members {
		prefix := g.name + "_" + s.shortName(m.device) + "_"
		for process := range m.section.Processes {
			d := *template
			d.ID = prefix + strconv.Itoa(process)
			if units[resource][d.ID] != nil {
				return fmt.Sprintf("its unit %s has the same name as one of another section", d.ID)
			}
			added[d.ID] = &d
		}
	}
	if units[resource] == nil {
		units[resource] = map[string]*devtree.Device{}
	}
	maps.Copy(units[resource], added)
	return ""
}

// shortName is the device's part of a unit's ID: its number, with its type if
// the number is not unique.
func (s *snapshot) shortName(d *device) string {
	for _, other := range s.devices {
		if other.Number == d.Number && other.Type != d.Type && other.isVF() == d.isVF() {
			return d.name()
		}
	}
	return "dev" + strconv.Itoa(d.Number)
}

// unit returns what all units of a section have in common. Each gets the nodes of all devices:
// the QAT library decides by the section's name which of them a process uses.
func (s *snapshot) unit(g *group, usable []*device) *devtree.Device {
	d := &devtree.Device{Health: devtree.Healthy}
	if len(s.missing) > 0 {
		d.Health, d.Reason = devtree.Unhealthy, "missing: /dev/"+strings.Join(s.missing, ", /dev/")
	}
	for _, m := range g.members {
		if m.device.NUMANode >= 0 {
			d.NUMANodes = append(d.NUMANodes, m.device.NUMANode)
		}
	}
	slices.Sort(d.NUMANodes)
	d.NUMANodes = slices.Compact(d.NUMANodes)
	d.Env = map[string]string{sectionVariable: g.name}
	nodes := controlNodes()
	for _, device := range usable {
		nodes = append(nodes, device.UIO...)
	}
	for _, name := range nodes {
		n := devtree.DeviceNode{HostPath: "/dev/" + name, ContainerPath: "/dev/" + name, Permissions: "rw"}
		if !slices.Contains(d.DeviceNodes, n) {
			d.DeviceNodes = append(d.DeviceNodes, n)
		}
	}
	return d
}
