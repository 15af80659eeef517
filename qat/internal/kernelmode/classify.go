// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"bytes"
	"slices"

	"qatplugin/events"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// A Key identifies what an event concerns.
type Key struct {
	kind    keyKind
	address pci.Address // of keyFunction
	removed bool        // of keyFunction: it, or its UIO device, is being removed
}

type keyKind uint8

const (
	keyFunction keyKind = iota // a PCI function: run adf_ctl if it may be a QAT device
	keyStack                   // a configuration file, a control node, a binding to a QAT driver: run adf_ctl
	keyFiles                   // a link or node: read the host; run adf_ctl only if that contradicts it
	keyAnswer                  // adf_ctl answered
)

// String returns the name of what the key identifies, for the log.
func (k Key) String() string {
	switch k.kind {
	case keyStack:
		return "QAT driver stack"
	case keyFiles:
		return "drivers and nodes"
	case keyAnswer:
		return "adf_ctl"
	}
	return k.address.String()
}

// Classify implements [hostwatch.Mode].
func (m *mode) Classify(e *events.Event) (Key, hostwatch.Verdict) {
	if e.Origin == events.Uevent {
		return classifyUevent(e)
	}
	return m.reader.classifyPath(e.Path)
}

// classifyUevent classifies the uevents of PCI functions, of their UIO devices and of the control
// nodes. The DEVPATH of the first two contains the address of the function.
func classifyUevent(e *events.Event) (Key, hostwatch.Verdict) {
	switch string(e.Get("SUBSYSTEM")) {
	case "pci", "uio":
		class := e.Get("PCI_CLASS") // not of a UIO device
		a, ok := pci.LastInPath(e.Path)
		if !ok || class != nil && !isCoprocessorClass(class) {
			return Key{}, hostwatch.Irrelevant
		}
		return Key{kind: keyFunction, address: a, removed: e.Action == events.Remove}, hostwatch.Relevant
	case "iommu":
		return Key{kind: keyFiles}, hostwatch.Relevant
	}
	return stackKey(isControlNode(e.Get("DEVNAME")))
}

// classifyPath classifies the inotify events of the directories that watchDirs returns.
func (r *reader) classifyPath(path []byte) (Key, hostwatch.Verdict) {
	if name, ok := sysfs.Below(path, r.etc); ok {
		// ..data is the link by which a mounted ConfigMap replaces all its files at once.
		return stackKey(len(name) == 0 || string(name) == "..data" || mayBeConfig(name))
	}
	if name, ok := sysfs.Below(path, r.dev); ok {
		if bytes.HasPrefix(name, []byte("uio")) {
			return Key{kind: keyFiles}, hostwatch.Relevant
		}
		return stackKey(len(name) == 0 || isControlNode(name))
	}
	rest, ok := sysfs.Below(path, r.sysfs)
	if !ok {
		return Key{}, hostwatch.Irrelevant
	}
	if name, ok := bytes.CutPrefix(rest, []byte("bus/pci/drivers/")); ok && bytes.IndexByte(name, '/') >= 0 {
		_, isFunction := pci.Parse(sysfs.Base(name)) // and not bind, unbind or new_id
		return stackKey(isFunction)
	}
	if bytes.HasPrefix(rest, []byte("bus/pci/drivers")) || bytes.HasPrefix(rest, []byte("class/iommu")) {
		return Key{kind: keyFiles}, hostwatch.Relevant
	}
	_, isFunction := pci.LastInPath(rest) // only functions with a QAT driver are watched
	return stackKey(isFunction)
}

// mayBeConfig reports whether a name could be that of a configuration file. Unlike a regular
// expression, it never allocates.
func mayBeConfig(name []byte) bool {
	return bytes.HasSuffix(name, []byte(".conf")) && bytes.Contains(name, []byte("_dev"))
}

func stackKey(relevant bool) (Key, hostwatch.Verdict) {
	if !relevant {
		return Key{}, hostwatch.Irrelevant
	}
	return Key{kind: keyStack}, hostwatch.Relevant
}

// isCoprocessorClass reports whether PCI_CLASS of a uevent, such as B4000, is that of a
// co-processor. The value is hexadecimal without leading zeros (drivers/pci/pci-driver.c,
// pci_uevent).
func isCoprocessorClass(class []byte) bool {
	return len(class) == len("B4000") && (string(class[:3]) == "B40" || string(class[:3]) == "b40")
}

// isControlNode reports whether a name below /dev is that of a control node. It does not copy the
// name, because each write to /dev/null leads to a call.
func isControlNode(name []byte) bool {
	return slices.ContainsFunc(controlNodes, func(node string) bool { return node == string(name) })
}
