package qat

import (
	"bytes"
	"fmt"

	"qatplugin/events"
)

// A subject is what an event tells to look at. It is comparable: the key under which events of the same subject become one look.
type subject struct {
	kind    subjectKind
	address Address // of a subjectFunction
	group   int     // of a subjectGroup
}

type subjectKind uint8

const (
	subjectFunction subjectKind = iota // one PCI function
	subjectGroup                       // the VFs of one IOMMU group: the VFIO group's own events name no function
	subjectDriver                      // the VFs that are not usable yet: the DPDK driver came or went, and what failed may go now
	subjectHearing                     // nothing: the kernel answered that it is heard
	subjectNodes                       // the VFs that are not usable yet: a node came or went that names no function
)

func (s subject) String() string {
	switch s.kind {
	case subjectGroup:
		return fmt.Sprintf("IOMMU group %d", s.group)
	case subjectDriver, subjectNodes:
		return "unbound VFs"
	case subjectHearing:
		return "hearing"
	}
	return s.address.String()
}

// A classifier finds the subject of an event. It runs in the readers of sockets: it does not allocate, read a file or wait.
type classifier struct {
	sysfs, dev string // roots, for the paths of inotify
	driver     string // the DPDK driver
}

// subject says what to look at for the event; false: the event is none of ours. resync: the event is about everything.
func (c *classifier) subject(e *events.Event) (s subject, resync, relevant bool) {
	if e.Origin == events.Uevent {
		s, relevant = c.ofUevent(e)
		return s, false, relevant
	}
	return c.ofPath(e.Path)
}

// ofUevent knows the events by which a QAT function comes, changes or goes: those of the PCI function itself and of its vfio-dev or uio child, which have its
// address in their DEVPATH; those of VFIO groups (DEVPATH /devices/virtual/vfio/<group>); and the DPDK driver's own.
func (c *classifier) ofUevent(e *events.Event) (subject, bool) {
	switch string(e.Get("SUBSYSTEM")) {
	case "pci":
		if id := e.Get("PCI_ID"); id != nil && !isQATID(id) {
			return subject{}, false
		}
		return ofFunction(e.Path)
	case "vfio-dev", "uio":
		return ofFunction(e.Path)
	case "vfio":
		if group, ok := groupOf(lastComponent(e.Path)); ok {
			return subject{kind: subjectGroup, group: group}, true
		}
	case "drivers":
		if string(lastComponent(e.Path)) == c.driver {
			return subject{kind: subjectDriver}, true
		}
	}
	return subject{}, false
}

// ofPath knows the directories that are watched (watches.go).
func (c *classifier) ofPath(path []byte) (s subject, resync, relevant bool) {
	if rest, ok := below(path, c.sysfs); ok {
		switch {
		case string(rest) == "bus/pci/devices":
			return subject{}, true, true
		case bytes.HasPrefix(rest, []byte("bus/pci/drivers")):
			name := rest[len("bus/pci/drivers"):]
			return subject{kind: subjectDriver}, false, len(name) == 0 || string(name[1:]) == c.driver
		case bytes.HasPrefix(rest, []byte("kernel/debug")):
			s, relevant = ofDebugfs(rest)
			return s, false, relevant
		}
		s, relevant = ofFunction(rest)
		return s, false, relevant
	}
	if rest, ok := below(path, c.dev); ok {
		if group, ok := groupOf(lastComponent(rest)); ok && bytes.HasPrefix(rest, []byte("vfio/")) {
			return subject{kind: subjectGroup, group: group}, false, true
		}
		relevant = string(rest) == "vfio" || bytes.HasPrefix(rest, []byte("vfio/devices")) || bytes.HasPrefix(rest, []byte("uio"))
		return subject{kind: subjectNodes}, false, relevant
	}
	return subject{}, false, false
}

func ofFunction(path []byte) (subject, bool) {
	a, ok := lastAddress(path)
	return subject{address: a}, ok
}

// ofDebugfs finds the PF in kernel/debug/qat_<driver>_<address>/….
func ofDebugfs(path []byte) (subject, bool) {
	i := bytes.Index(path, []byte("/qat_"))
	if i < 0 {
		return subject{}, false
	}
	name := path[i+len("/qat_"):]
	if end := bytes.IndexByte(name, '/'); end >= 0 {
		name = name[:end]
	}
	a, ok := ParseAddress(name[bytes.LastIndexByte(name, '_')+1:])
	return subject{address: a}, ok
}

// groupOf reads the name of a VFIO group's node: "12", or "noiommu-12" (drivers/vfio/group.c).
func groupOf(name []byte) (int, bool) {
	digits := bytes.TrimPrefix(name, []byte("noiommu-"))
	n := 0
	for _, c := range digits {
		if c < '0' || c > '9' || n > 1<<24 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, len(digits) > 0
}

// isQATID reads PCI_ID=8086:4941 (drivers/pci/pci-driver.c, pci_uevent: upper-case hexadecimal digits).
func isQATID(id []byte) bool {
	if len(id) != len("8086:4941") || string(id[:5]) != "8086:" {
		return false
	}
	var device uint16
	for _, c := range id[5:] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return false
		}
		device = device<<4 | uint16(c)
	}
	family, _ := familyOf(vendorIntel, device)
	return family != nil
}

// below cuts the root off a path; the rest has no leading slash.
func below(path []byte, root string) ([]byte, bool) {
	if len(path) <= len(root) || string(path[:len(root)]) != root || path[len(root)] != '/' {
		return nil, false
	}
	return path[len(root)+1:], true
}

func lastComponent(path []byte) []byte {
	return path[bytes.LastIndexByte(path, '/')+1:]
}
