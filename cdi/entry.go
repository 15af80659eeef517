// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"tags.cncf.io/container-device-interface/pkg/parser"
	"tags.cncf.io/container-device-interface/specs-go"

	"qatplugin/devtree"
)

// entry describes one device in a spec file. It is immutable.
type entry struct {
	name string // of the device, without vendor and class
	json []byte
}

// newEntry returns the entry of the device. It returns nil if the device has no edits
// that CDI supports, because CDI does not allow a device without edits.
func newEntry(class string, d *devtree.Device) (*entry, error) {
	if len(d.DeviceNodes)+len(d.Mounts)+len(d.Env) == 0 {
		return nil, nil
	}
	if err := parser.ValidateClassName(class); err != nil {
		return nil, fmt.Errorf("CDI class %q: %w", class, err)
	}
	if err := parser.ValidateDeviceName(d.ID); err != nil {
		return nil, fmt.Errorf("CDI device name %q: %w", d.ID, err)
	}
	text, err := json.Marshal(specs.Device{Name: d.ID, ContainerEdits: containerEdits(&d.ContainerEdits)})
	if err != nil {
		return nil, err
	}
	return &entry{name: d.ID, json: escapeForYAML(text)}, nil
}

// escapeForYAML escapes the characters that JSON allows in a string and YAML does not allow, or
// reads as something else. Runtimes read spec files as YAML, and one such character would make the
// whole file invalid.
func escapeForYAML(text []byte) []byte {
	special := func(r rune) bool {
		return r >= 0x7f && r <= 0x9f || r == '\ufeff' || r == '\ufffe' || r == '\uffff'
	}
	if !bytes.ContainsFunc(text, special) {
		return text
	}
	var out []byte
	for _, r := range string(text) {
		if special(r) {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return out
}

// containerEdits translates the edits of a device, except annotations, which CDI
// does not support.
func containerEdits(e *devtree.ContainerEdits) (out specs.ContainerEdits) {
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
		out.Mounts = append(out.Mounts, &specs.Mount{
			HostPath:      m.HostPath,
			ContainerPath: m.ContainerPath,
			Options:       []string{"rbind", "rprivate", mode}, // as runtimes mount what the kubelet asks for
		})
	}
	for _, name := range slices.Sorted(maps.Keys(e.Env)) {
		out.Env = append(out.Env, name+"="+e.Env[name])
	}
	return out
}

// equal reports whether both entries are the same. Either may be nil.
func (e *entry) equal(other *entry) bool {
	return e == other ||
		e != nil && other != nil && e.name == other.name && bytes.Equal(e.json, other.json)
}

func compareNames(a, b *entry) int { return strings.Compare(a.name, b.name) }

func compareName(e *entry, name string) int { return strings.Compare(e.name, name) }

// union returns the wanted entries, and the current ones whose names are not wanted.
// All three lists are ascending by name.
func union(current, wanted []*entry) []*entry {
	var all []*entry
	for _, w := range wanted {
		for len(current) > 0 && current[0].name < w.name {
			all, current = append(all, current[0]), current[1:]
		}
		if len(current) > 0 && current[0].name == w.name {
			current = current[1:]
		}
		all = append(all, w)
	}
	return append(all, current...)
}

// specText returns the text of a spec file, with one line per device.
func specText(kind string, list []*entry) []byte {
	// More runtimes read a lower version. 0.5.0 is the first that allows a name to
	// begin with a digit and a node to have another path on the host, 0.6.0 the first
	// that allows a dot in a class (specs-go, version.go).
	version := "0.5.0"
	if _, class, _ := strings.Cut(kind, "/"); strings.Contains(class, ".") {
		version = "0.6.0"
	}
	size := 128
	for _, e := range list {
		size += len(e.json) + 2
	}
	out := bytes.NewBuffer(make([]byte, 0, size))
	fmt.Fprintf(out, `{"cdiVersion":%q,"kind":%q,"devices":[`, version, kind)
	for i, e := range list {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
		out.Write(e.json)
	}
	out.WriteString("\n],\"containerEdits\":{}}\n")
	return out.Bytes()
}
