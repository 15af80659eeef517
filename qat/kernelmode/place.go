package kernelmode

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"qatplugin/devtree"
)

// sectionVariable is the variable by which the QAT library of a container finds its section.
const sectionVariable = "QAT_SECTION_NAME"

// place makes the Tree that follows from what was seen, and says what is left out of it. What did not change is shared with old.
func place(old *devtree.Tree, s *sight) (*devtree.Tree, []Omission) {
	left := slices.Clone(s.left)
	units := map[string]map[string]*devtree.Device{} // resource → unit ID → unit
	for _, g := range groupSections(s.devices) {
		why := g.disagreement(s.devices)
		if why == "" {
			why = s.addUnits(units, g)
		}
		if why != "" {
			left = append(left, Omission{Subject: "[" + g.name + "]", Reason: why})
		}
	}
	for _, name := range s.missing {
		left = append(left, Omission{Subject: "/dev/" + name, Reason: "the node is missing"})
	}
	b := old.Edit()
	for r := range old.Resources() {
		for d := range r.Devices() {
			if units[r.Name()][d.ID] == nil {
				b.Remove(r.Name(), d.ID)
			}
		}
	}
	for resource, byID := range units {
		for id, d := range byID {
			if err := b.Put(resource, d); err != nil {
				left = append(left, Omission{Subject: "unit " + id, Reason: err.Error()})
				b.Remove(resource, id)
			}
		}
	}
	return b.Build(), sortOmissions(left)
}

// addUnits adds a unit for each process of the section; all or, for the reason that it returns, none.
func (s *sight) addUnits(units map[string]map[string]*devtree.Device, g *group) (why string) {
	resource := g.resource()
	if err := devtree.CheckResourceName(resource); err != nil {
		return err.Error()
	}
	template := s.unit(g)
	members := g.members
	if !members[0].section.Pinned {
		members = members[:1] // its processes span the devices, so each file speaks of the same ones
	}
	added := map[string]*devtree.Device{}
	for _, m := range members {
		for k := range m.section.Processes {
			d := *template
			d.ID = s.unitID(m, k)
			if units[resource][d.ID] != nil || added[d.ID] != nil {
				return fmt.Sprintf("its unit %s has the name of another section's", d.ID)
			}
			added[d.ID] = &d
		}
	}
	if units[resource] == nil {
		units[resource] = map[string]*devtree.Device{}
	}
	for id, d := range added {
		units[resource][id] = d
	}
	return ""
}

// unitID names a unit. The number of a device alone does not name it on a host with devices of several types.
func (s *sight) unitID(m member, k int) string {
	device := "dev" + strconv.Itoa(m.device.Number)
	if s.shared[m.device.Number] {
		device = m.device.name()
	}
	return m.section.Name + "_" + device + "_" + strconv.Itoa(k)
}

// unit is what all units of a section have in common. Each gets the nodes of all devices: which of them a process uses, pinned or not, the QAT
// library decides by the section's name.
func (s *sight) unit(g *group) *devtree.Device {
	d := &devtree.Device{Health: devtree.Healthy}
	if len(s.missing) > 0 {
		d.Health, d.Reason = devtree.Unhealthy, "missing: /dev/"+strings.Join(s.missing, ", /dev/")
	}
	for _, m := range g.members {
		if m.device.Node >= 0 {
			d.NUMANodes = append(d.NUMANodes, m.device.Node)
		}
	}
	slices.Sort(d.NUMANodes)
	d.NUMANodes = slices.Compact(d.NUMANodes)
	d.Env = map[string]string{sectionVariable: g.name}
	nodes := controlNodes()
	for _, f := range s.devices {
		nodes = append(nodes, f.UIO...)
	}
	for _, name := range nodes {
		n := devtree.DeviceNode{HostPath: "/dev/" + name, ContainerPath: "/dev/" + name, Permissions: "rw"}
		if !slices.Contains(d.DeviceNodes, n) {
			d.DeviceNodes = append(d.DeviceNodes, n)
		}
	}
	return d
}
