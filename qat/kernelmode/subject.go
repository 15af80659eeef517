package kernelmode

import (
	"bytes"

	"qatplugin/events"
	"qatplugin/qat"
)

// A subject is what an event tells to look at: the key under which events of the same subject become one look.
type subject struct {
	kind    subjectKind
	address qat.Address // of a subjectFunction
	removed bool        // a subjectFunction of which, or of whose UIO device, a remove event came
}

type subjectKind uint8

const (
	subjectFunction subjectKind = iota // a PCI function: ask adf_ctl, if it can be a QAT device
	subjectStack                       // configuration, the driver's nodes, a function of one of our drivers: ask adf_ctl
	subjectHearing                     // nothing: the kernel answered that it is heard
	subjectPlace                       // a place that may say something else now: look there, and ask adf_ctl only if that contradicts it
)

// String is the subject for people.
func (s subject) String() string {
	switch s.kind {
	case subjectStack:
		return "QAT driver stack"
	case subjectPlace:
		return "drivers and nodes"
	case subjectHearing:
		return "hearing"
	}
	return s.address.String()
}

// A classifier finds the subject of an event. It runs in the readers of sockets: it does not read a file or wait.
type classifier struct {
	sysfs, dev, etc string // roots, for the paths of inotify
}

// subject says what to look at for the event; false: the event is none of ours.
func (c *classifier) subject(e *events.Event) (subject, bool) {
	if e.Origin == events.Uevent {
		s, relevant := ofUevent(e)
		s.removed = relevant && s.kind == subjectFunction && e.Action == events.Remove
		return s, relevant
	}
	return c.ofPath(e.Path)
}

// ofUevent knows the events of PCI functions and their UIO devices, which have the function's address in their DEVPATH, and those of the
// nodes that every process needs.
func ofUevent(e *events.Event) (subject, bool) {
	switch string(e.Get("SUBSYSTEM")) {
	case "pci":
		if class := e.Get("PCI_CLASS"); class != nil && !isCoprocessorClass(class) {
			return subject{}, false
		}
		return ofFunction(e.Path)
	case "uio":
		return ofFunction(e.Path)
	case "iommu":
		return subject{kind: subjectPlace}, true
	}
	return subject{kind: subjectStack}, isControlNode(e.Get("DEVNAME"))
}

// ofPath knows the directories that are watched (look.go).
func (c *classifier) ofPath(path []byte) (subject, bool) {
	stack, place, none := subject{kind: subjectStack}, subject{kind: subjectPlace}, subject{}
	if name, ok := below(path, c.etc); ok {
		// ..data is the link by which a mounted ConfigMap exchanges all its files at once.
		return stack, len(name) == 0 || string(name) == "..data" || configName.Match(name)
	}
	if name, ok := below(path, c.dev); ok {
		if bytes.HasPrefix(name, []byte("uio")) {
			return place, true
		}
		return stack, len(name) == 0 || isControlNode(name)
	}
	rest, ok := below(path, c.sysfs)
	if !ok {
		return none, false
	}
	if name, ok := bytes.CutPrefix(rest, []byte("bus/pci/drivers/")); ok && bytes.IndexByte(name, '/') >= 0 {
		_, ok := qat.ParseAddress(lastComponent(name)) // and not bind, unbind, new_id
		return stack, ok
	}
	if bytes.HasPrefix(rest, []byte("bus/pci/drivers")) || bytes.HasPrefix(rest, []byte("class/iommu")) {
		return place, true
	}
	_, ok = ofFunction(rest)
	return stack, ok // of a function that one of our drivers holds: no other is watched
}

// ofFunction finds the last component of a path that is an address: also behind bridges.
func ofFunction(path []byte) (subject, bool) {
	for len(path) > 0 {
		last := lastComponent(path)
		if a, ok := qat.ParseAddress(last); ok {
			return subject{address: a}, true
		}
		path = path[:max(0, len(path)-len(last)-1)]
	}
	return subject{}, false
}

// isCoprocessorClass reads PCI_CLASS=B4000 (drivers/pci/pci-driver.c, pci_uevent: hexadecimal without leading zeros).
func isCoprocessorClass(class []byte) bool {
	return len(class) == len("B4000") && (string(class[:3]) == "B40" || string(class[:3]) == "b40")
}

func isControlNode(name []byte) bool {
	switch string(name) { // compiled to comparisons, without a copy: on /dev each write to /dev/null comes by here
	case "qat_adf_ctl", "qat_dev_processes", "usdm_drv":
		return true
	}
	return false
}

// below cuts the root off a path; the rest has no leading slash, and is empty for the root itself.
func below(path []byte, root string) ([]byte, bool) {
	if len(path) < len(root) || string(path[:len(root)]) != root {
		return nil, false
	}
	if len(path) == len(root) {
		return nil, true
	}
	return path[len(root)+1:], path[len(root)] == '/'
}

func lastComponent(path []byte) []byte { return path[bytes.LastIndexByte(path, '/')+1:] }
