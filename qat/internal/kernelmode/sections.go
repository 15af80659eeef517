// SPDX-License-Identifier: Apache-2.0

package kernelmode

import "fmt"

// A member is a device with one section of its configuration file.
type member struct {
	device  *device
	section section
}

// A group is what the devices' files together say about one section.
type group struct {
	name    string
	members []member // in the order of the devices; at least one
}

// groupSections collects the sections of all devices, in the order in which they occur first.
func groupSections(devices []*device) []*group {
	var groups []*group
	byName := map[string]*group{}
	for _, d := range devices {
		for _, s := range d.Sections {
			g := byName[s.Name]
			if g == nil {
				g = &group{name: s.Name}
				byName[s.Name] = g
				groups = append(groups, g)
			}
			g.members = append(g.members, member{device: d, section: s})
		}
	}
	return groups
}

// conflict returns why the section cannot be used, or "" if it can. A process
// finds its instances by the section's name on every device, so the files must
// promise it the same everywhere.
func (g *group) conflict(devices []*device) string {
	for _, m := range g.members {
		if m.section.Invalid != "" {
			return fmt.Sprintf("in %s.conf, %s", m.device.name(), m.section.Invalid)
		}
	}
	first := g.members[0]
	for _, m := range g.members[1:] {
		a, b := first.section, m.section
		differ := func(key string, x, y any) string {
			return fmt.Sprintf("%s is %v in %s.conf and %v in %s.conf",
				key, x, first.device.name(), y, m.device.name())
		}
		switch {
		case a.Pinned != b.Pinned:
			return differ("LimitDevAccess", bit(a.Pinned), bit(b.Pinned))
		case a.Cy != b.Cy:
			return differ("NumberCyInstances", a.Cy, b.Cy)
		case a.Dc != b.Dc:
			return differ("NumberDcInstances", a.Dc, b.Dc)
		case !a.Pinned && a.Processes != b.Processes:
			return differ("NumProcesses", a.Processes, b.Processes)
		}
	}
	if d := g.firstWithout(devices); d != nil && first.section.Pinned {
		return "LimitDevAccess is 1, so it must be in every device's file; it is missing in " + d.name() + ".conf"
	}
	return ""
}

// firstWithout returns the first device whose file lacks the section, or nil.
func (g *group) firstWithout(devices []*device) *device {
	for i, d := range devices {
		if i >= len(g.members) || g.members[i].device != d {
			return d
		}
	}
	return nil
}

// resource is the name of the resource of the section's units.
func (g *group) resource() string {
	return fmt.Sprintf("cy%d_dc%d", g.members[0].section.Cy, g.members[0].section.Dc)
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
