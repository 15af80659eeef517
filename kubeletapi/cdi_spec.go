package kubeletapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tags.cncf.io/container-device-interface/pkg/parser"
	"tags.cncf.io/container-device-interface/specs-go"

	"qatplugin/devtree"
)

var errOneName = errors.New("two devices that differ would have one CDI name, and another one has it already")

// cdiDevice is one device of a spec. It does not change once made.
type cdiDevice struct {
	name string
	text []byte // its JSON
}

// cdiEntry is one device of a Tree and what CDI makes of it.
type cdiEntry struct {
	device *devtree.Device // as the plugin published it
	spec   *cdiDevice      // nil: there can be none
	named  bool            // it was handed on with its CDI name
}

// cdiResource is one resource and its devices, ascending by ID.
type cdiResource struct {
	from    *devtree.Resource
	entries []*cdiEntry
}

// render makes the specs of the Tree's devices. What did not change since the Tree before is used again: by pointer where the plugin's
// Trees share, and where only something changed that CDI does not know, such as the health, the spec at least.
func (c *cdiSpecs) render(tree *devtree.Tree) map[string]*cdiResource {
	next := make(map[string]*cdiResource, len(c.resources))
	for r := range tree.Resources() {
		old := c.resources[r.Name()]
		if old != nil && old.from == r {
			next[r.Name()] = &cdiResource{from: r, entries: slices.Clone(old.entries)}
			continue
		}
		made := &cdiResource{from: r, entries: make([]*cdiEntry, 0, r.Len())}
		i := 0
		for d := range r.Devices() {
			for old != nil && i < len(old.entries) && old.entries[i].device.ID < d.ID {
				i++
			}
			var before *cdiEntry
			if old != nil && i < len(old.entries) && old.entries[i].device.ID == d.ID {
				before = old.entries[i]
			}
			made.entries = append(made.entries, c.renderDevice(r.Name(), d, before))
		}
		next[r.Name()] = made
	}
	return next
}

func (c *cdiSpecs) renderDevice(resource string, d *devtree.Device, before *cdiEntry) *cdiEntry {
	if before != nil && before.device == d {
		return before
	}
	spec, err := newCDIDevice(c.classOf(resource), d)
	if err != nil {
		c.log.Error(err, "The device is served without a CDI spec", "resource", fullName(c.vendor, resource), "device", d.ID)
	}
	if spec != nil && before != nil && before.spec != nil && bytes.Equal(before.spec.text, spec.text) {
		spec = before.spec
	}
	return &cdiEntry{device: d, spec: spec}
}

// newCDIDevice is the device for a spec; nil when a container gets nothing by it, which CDI has no devices for.
func newCDIDevice(class string, d *devtree.Device) (*cdiDevice, error) {
	if len(d.DeviceNodes)+len(d.Mounts)+len(d.Env) == 0 {
		return nil, nil
	}
	if err := parser.ValidateClassName(class); err != nil {
		return nil, err
	}
	if err := parser.ValidateDeviceName(d.ID); err != nil {
		return nil, err
	}
	text, err := json.Marshal(specs.Device{Name: d.ID, ContainerEdits: cdiEdits(&d.ContainerEdits)})
	if err != nil {
		return nil, err
	}
	return &cdiDevice{name: d.ID, text: text}, nil
}

// cdiEdits are the edits in CDI's words. Annotations are not among them: CDI knows none for containers.
func cdiEdits(e *devtree.ContainerEdits) (out specs.ContainerEdits) {
	for _, n := range e.DeviceNodes {
		node := &specs.DeviceNode{Path: n.ContainerPath, Permissions: n.Permissions}
		if n.HostPath != n.ContainerPath {
			node.HostPath = n.HostPath
		}
		out.DeviceNodes = append(out.DeviceNodes, node)
	}
	for _, m := range e.Mounts {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		// As the kubelet's own mounts become in the runtimes.
		out.Mounts = append(out.Mounts, &specs.Mount{HostPath: m.HostPath, ContainerPath: m.ContainerPath, Options: []string{"rbind", "rprivate", mode}})
	}
	for _, name := range slices.Sorted(maps.Keys(e.Env)) {
		out.Env = append(out.Env, name+"="+e.Env[name])
	}
	return out
}

// byClass sorts the devices into the files that they belong to, ascending by name, each name once. Of two devices of one name that differ, as
// two resources may have, the later loses its spec.
func (c *cdiSpecs) byClass(resources map[string]*cdiResource) map[string][]*cdiDevice {
	wanted := map[string][]*cdiDevice{}
	for _, name := range slices.Sorted(maps.Keys(resources)) {
		class := c.classOf(name)
		list := wanted[class]
		for _, e := range resources[name].entries {
			if e.spec != nil {
				list = append(list, e.spec)
			}
		}
		wanted[class] = list
	}
	for class, list := range wanted {
		if !slices.IsSortedFunc(list, compareNames) {
			slices.SortStableFunc(list, compareNames)
		}
		wanted[class] = slices.CompactFunc(list, func(a, b *cdiDevice) bool {
			if a.name != b.name {
				return false
			}
			if !a.same(b) {
				name := parser.QualifiedName(c.vendor, class, a.name)
				if c.troubles[name] == nil {
					c.troubles[name] = &throttledError{log: c.log, interval: c.repeat}
				}
				c.troubles[name].report(errOneName, "A device is served without a CDI spec", "name", name)
			}
			return true
		})
	}
	return wanted
}

func compareNames(a, b *cdiDevice) int { return strings.Compare(a.name, b.name) }

func (d *cdiDevice) same(other *cdiDevice) bool {
	return d == other || d.name == other.name && bytes.Equal(d.text, other.text)
}

// union is what is wanted, and what is there besides. Both are ascending by name, and so is the union.
func union(there, wanted []*cdiDevice) []*cdiDevice {
	var all []*cdiDevice
	for len(there) > 0 || len(wanted) > 0 {
		switch {
		case len(there) == 0 || len(wanted) > 0 && wanted[0].name < there[0].name:
			all, wanted = append(all, wanted[0]), wanted[1:]
		case len(wanted) == 0 || there[0].name < wanted[0].name:
			all, there = append(all, there[0]), there[1:]
		default:
			all, there, wanted = append(all, wanted[0]), there[1:], wanted[1:]
		}
	}
	return all
}

// specText is the text of a spec file: a line for each device.
func specText(vendor, class string, devices []*cdiDevice) []byte {
	// The lowest version that allows what is in the spec is read by the most runtimes: 0.5.0 lets a name begin with a digit and a node
	// have another path on the host, 0.6.0 a class have a dot (specs-go, version.go).
	version := "0.5.0"
	if strings.Contains(class, ".") {
		version = "0.6.0"
	}
	size := 128
	for _, d := range devices {
		size += len(d.text) + 2
	}
	out := bytes.NewBuffer(make([]byte, 0, size))
	fmt.Fprintf(out, `{"cdiVersion":%q,"kind":%q,"devices":[`, version, vendor+"/"+class)
	for i, d := range devices {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
		out.Write(d.text)
	}
	out.WriteString("\n],\"containerEdits\":{}}\n")
	return out.Bytes()
}
