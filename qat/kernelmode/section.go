package kernelmode

import "fmt"

// A function is one device that can be used: it is up, and its file and its nodes are there.
type function struct {
	instance
	UIO      []string // names below bus/pci/drivers/<type>/<address>/uio, at least one; each is a node in /dev
	Sections []section
}

// A member is a device with one section of its file.
type member struct {
	device  *function
	section section
}

// A group is what the devices' files together say of one section.
type group struct {
	name    string
	members []member // in the order of the devices; at least one
}

// groupSections collects the sections of all devices, in the order in which they come first.
func groupSections(devices []*function) []*group {
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

// disagreement says why the section cannot be served, "" when it can. A process finds its instances by the section's name on every
// device, so the files must promise it the same on each.
func (g *group) disagreement(devices []*function) string {
	for _, m := range g.members {
		if m.section.Broken != "" {
			return fmt.Sprintf("in %s.conf, %s", m.device.name(), m.section.Broken)
		}
	}
	first := g.members[0]
	for _, m := range g.members[1:] {
		a, b := first.section, m.section
		differ := func(key string, x, y any) string {
			return fmt.Sprintf("%s is %v in %s.conf and %v in %s.conf", key, x, first.device.name(), y, m.device.name())
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
	if first.section.Pinned && len(g.members) < len(devices) {
		return fmt.Sprintf("with LimitDevAccess=1 it must be in every device's file, and is not in %s.conf", g.without(devices).name())
	}
	return ""
}

// without is the first device whose file does not have the section.
func (g *group) without(devices []*function) *function {
	for i, d := range devices {
		if i >= len(g.members) || g.members[i].device != d {
			return d
		}
	}
	return nil
}

// resource is the resource of the section's units.
func (g *group) resource() string {
	return fmt.Sprintf("cy%d_dc%d", g.members[0].section.Cy, g.members[0].section.Dc)
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
