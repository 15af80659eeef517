// SPDX-License-Identifier: Apache-2.0

package devtree

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"tags.cncf.io/container-device-interface/pkg/parser"
)

// ContainerEdits lists what a container gets. Host paths are paths on the host, not in the
// plugin's own container.
type ContainerEdits struct {
	DeviceNodes []DeviceNode
	Mounts      []Mount
	Env         map[string]string
	Annotations map[string]string
	CDINames    []string // qualified names of CDI devices: vendor.example.com/class=name
}

// DeviceNode makes a device file of the host available in a container.
type DeviceNode struct {
	HostPath      string
	ContainerPath string
	Permissions   string // for the device cgroup: one or more of r (read), w (write) and m (mknod)
}

// Mount makes a file or directory of the host available in a container.
type Mount struct {
	HostPath      string
	ContainerPath string
	ReadOnly      bool
}

// Merge adds the edits of other to e. Device nodes, mounts and CDI names that e already
// has are not repeated: all VFIO groups share /dev/vfio/vfio, for example. If both set
// the same variable or annotation, other wins. Start with a zero ContainerEdits. Never call
// Merge on a Device of a Tree. A copy shares its slices and maps.
func (e *ContainerEdits) Merge(other *ContainerEdits) {
	e.DeviceNodes = appendMissing(e.DeviceNodes, other.DeviceNodes)
	e.Mounts = appendMissing(e.Mounts, other.Mounts)
	e.CDINames = appendMissing(e.CDINames, other.CDINames)
	e.Env = mergeMap(e.Env, other.Env)
	e.Annotations = mergeMap(e.Annotations, other.Annotations)
}

func appendMissing[T comparable](list, more []T) []T {
	for _, x := range more {
		if !slices.Contains(list, x) {
			list = append(list, x)
		}
	}
	return list
}

func mergeMap(into, from map[string]string) map[string]string {
	if into == nil {
		return maps.Clone(from)
	}
	maps.Copy(into, from)
	return into
}

// Validate returns an error that states the first rule that e breaks. Valid edits can be sent to
// the kubelet and written to a CDI spec: all strings are valid UTF-8 without NUL, paths are
// absolute, permissions are known, and the kernel and CDI allow the names. [Builder.Put] makes the
// same check, so edits that are merged from Devices of a Tree are valid.
func (e *ContainerEdits) Validate() error {
	for _, n := range e.DeviceNodes {
		if rule := pathRule(n.HostPath, n.ContainerPath); rule != "" {
			return fmt.Errorf("device node %q to %q: %s", n.HostPath, n.ContainerPath, rule)
		}
		if n.Permissions == "" || strings.Trim(n.Permissions, "rwm") != "" {
			return fmt.Errorf("device node %q: invalid permissions %q: must be one or more of r, w and m",
				n.HostPath, n.Permissions)
		}
	}
	for _, m := range e.Mounts {
		if rule := pathRule(m.HostPath, m.ContainerPath); rule != "" {
			return fmt.Errorf("mount %q to %q: %s", m.HostPath, m.ContainerPath, rule)
		}
	}
	for name, value := range e.Env {
		if name == "" || strings.Contains(name, "=") || textFlaw(name) != "" {
			return fmt.Errorf("invalid environment variable name %q", name)
		}
		if flaw := textFlaw(value); flaw != "" {
			return fmt.Errorf("value %q of environment variable %q %s", value, name, flaw)
		}
	}
	for key, value := range e.Annotations {
		if key == "" {
			return errors.New("annotation without a key")
		}
		if flaw := textFlaw(key); flaw != "" {
			return fmt.Errorf("annotation key %q %s", key, flaw)
		}
		if flaw := textFlaw(value); flaw != "" {
			return fmt.Errorf("value %q of annotation %q %s", value, key, flaw)
		}
	}
	for _, name := range e.CDINames {
		if vendor, _, _ := parser.ParseDevice(name); vendor == "" {
			return fmt.Errorf("invalid CDI device name %q: must have the form vendor/class=name", name)
		}
		if _, _, _, err := parser.ParseQualifiedName(name); err != nil {
			return fmt.Errorf("invalid CDI device name %q: %w", name, errors.Unwrap(err))
		}
	}
	return nil
}

// pathRule returns the rule that the paths of a device node or mount break, or "".
func pathRule(host, container string) string {
	if !path.IsAbs(host) || !path.IsAbs(container) {
		return "both paths must be absolute"
	}
	if flaw := textFlaw(host); flaw != "" {
		return "host path " + flaw
	}
	if flaw := textFlaw(container); flaw != "" {
		return "container path " + flaw
	}
	return ""
}

// textFlaw returns what is wrong with a string, or "". Protocol buffers allow only UTF-8, and the
// kernel ends strings at a NUL.
func textFlaw(s string) string {
	switch {
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	case strings.Contains(s, "\x00"):
		return "contains a NUL byte"
	}
	return ""
}
