// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"qatplugin/devtree"
)

// sectionVariable is the environment variable by which the QAT library of a
// container finds its section.
const sectionVariable = "QAT_SECTION_NAME"

// buildTree returns the Tree for a snapshot, and what it skipped. The Tree shares what did not
// change with old.
func buildTree(old *devtree.Tree, s *snapshot) (*devtree.Tree, skips) {
	skipped := skips{}
	for _, node := range s.missing {
		skipped.add("/dev/"+node, "the node is missing")
	}
	var usable []*device
	for _, d := range s.devices {
		if reason := s.unusable(d); reason != "" {
			skipped.add(d.name(), reason)
			continue
		}
		if d.Config.newErr != nil {
			skipped.add(d.name()+".conf", d.Config.newErr.Error()+"; the last valid content stays in effect")
		}
		usable = append(usable, d)
	}
	b := (&devtree.Tree{}).Edit()
	taken := map[string]bool{} // the units of the previous sections, as resource/ID
	for _, g := range groupSections(usable) {
		units, reason := s.units(g, usable, taken)
		if reason != "" {
			skipped.add("["+g[0].Name+"]", reason)
		}
		for _, d := range units {
			taken[g.resource()+"/"+d.ID] = true
			if err := b.Put(g.resource(), d); err != nil {
				skipped.add("unit "+d.ID, err.Error())
			}
		}
	}
	return b.Build().After(old), skipped
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
	case d.Config.err != nil:
		return d.Config.err.Error()
	}
	return ""
}

// inconsistency returns how sysfs contradicts adf_ctl, or "" if it does not. Either something
// changed since adf_ctl ran, or a device is starting or stopping, during which the driver creates
// and removes UIO devices.
func (s *snapshot) inconsistency() string {
	for _, u := range s.unlisted {
		if isVFType(u.Driver) == s.iommu {
			return fmt.Sprintf("adf_ctl does not list %s, which is bound to driver %s", u.Address, u.Driver)
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

// A group holds one section of the files of all devices that have it. It has at least one member,
// in the order of the devices.
type group []member

// A member is a device with one section of its configuration file.
type member struct {
	*device
	section
}

// groupSections collects the sections of all devices, in the order in which they occur first.
func groupSections(devices []*device) []group {
	var groups []group
	index := map[string]int{}
	for _, d := range devices {
		for _, s := range d.Config.sections {
			i, found := index[s.Name]
			if !found {
				i = len(groups)
				index[s.Name] = i
				groups = append(groups, nil)
			}
			groups[i] = append(groups[i], member{device: d, section: s})
		}
	}
	return groups
}

// resource returns the name of the resource of the section's units.
func (g group) resource() string { return fmt.Sprintf("cy%d_dc%d", g[0].Cy, g[0].Dc) }

// IsResource reports whether a resource, named without its namespace, is one of this mode. Those of
// mode dpdk are named by services and have no underscore.
func IsResource(name string) bool { return resourceName.MatchString(name) }

var resourceName = regexp.MustCompile(`^cy[0-9]+_dc[0-9]+$`)

// conflict returns why the section cannot be used, or "" if it can. A process finds its instances
// on every device by the name of the section, so the section must be the same in all files.
func (g group) conflict(devices []*device) string {
	for _, m := range g {
		if m.Invalid != "" {
			return fmt.Sprintf("in %s.conf, %s", m.name(), m.Invalid)
		}
	}
	a := g[0]
	for _, b := range g[1:] {
		differ := func(key string, x, y any) string {
			return fmt.Sprintf("%s is %v in %s.conf and %v in %s.conf", key, x, a.name(), y, b.name())
		}
		switch {
		case a.Pinned && !b.Pinned:
			return differ("LimitDevAccess", 1, 0)
		case !a.Pinned && b.Pinned:
			return differ("LimitDevAccess", 0, 1)
		case a.Cy != b.Cy:
			return differ("NumberCyInstances", a.Cy, b.Cy)
		case a.Dc != b.Dc:
			return differ("NumberDcInstances", a.Dc, b.Dc)
		case !a.Pinned && a.Processes != b.Processes:
			return differ("NumProcesses", a.Processes, b.Processes)
		}
	}
	for i, d := range devices {
		if a.Pinned && (i >= len(g) || g[i].device != d) {
			return "LimitDevAccess is 1, so it must be in every device's file; it is missing in " + d.name() + ".conf"
		}
	}
	return ""
}

// units returns a unit for each process of the section, or the reason why there are none. The name
// of a unit must not be taken.
func (s *snapshot) units(g group, usable []*device, taken map[string]bool) (units []*devtree.Device, reason string) {
	if reason = g.conflict(usable); reason != "" {
		return nil, reason
	}
	template := s.unit(g, usable)
	members := g
	if !g[0].Pinned {
		members = g[:1] // a process uses all devices, and every file describes the same processes
	}
	for _, m := range members {
		prefix := m.Name + "_" + s.shortName(m.device) + "_"
		for process := range m.Processes {
			d := *template
			d.ID = prefix + strconv.Itoa(process)
			if taken[g.resource()+"/"+d.ID] {
				return nil, fmt.Sprintf("its unit %s has the same name as one of another section", d.ID)
			}
			units = append(units, &d)
		}
	}
	return units, ""
}

// shortName returns the part of a unit's ID that names the device: its number, with its type if the
// number is not unique.
func (s *snapshot) shortName(d *device) string {
	for _, other := range s.devices {
		if other.Number == d.Number && other.Type != d.Type && other.isVF() == d.isVF() {
			return d.name()
		}
	}
	return "dev" + strconv.Itoa(d.Number)
}

// unit returns what all units of a section have in common. Each unit has the nodes of all devices,
// because the QAT library decides by the name of the section which of them a process uses.
func (s *snapshot) unit(g group, usable []*device) *devtree.Device {
	d := &devtree.Device{Health: devtree.Healthy}
	if len(s.missing) > 0 {
		d.Health, d.Reason = devtree.Unhealthy, "missing: /dev/"+strings.Join(s.missing, ", /dev/")
	}
	for _, m := range g {
		if m.NUMANode >= 0 {
			d.NUMANodes = append(d.NUMANodes, m.NUMANode)
		}
	}
	slices.Sort(d.NUMANodes)
	d.NUMANodes = slices.Compact(d.NUMANodes)
	d.Env = map[string]string{sectionVariable: g[0].Name}
	nodes := slices.Clone(controlNodes)
	for _, device := range usable {
		nodes = append(nodes, device.UIO...)
	}
	for _, name := range nodes {
		path := "/dev/" + name
		n := devtree.DeviceNode{HostPath: path, ContainerPath: path, Permissions: "rw"}
		if !slices.Contains(d.DeviceNodes, n) {
			d.DeviceNodes = append(d.DeviceNodes, n)
		}
	}
	return d
}
