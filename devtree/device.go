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
)

// Health is the state of a device, as the kubelet spells it.
type Health string

// The states that the device plugin API defines
// (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1, constants.go).
const (
	Healthy   Health = "Healthy"
	Unhealthy Health = "Unhealthy"
)

// A plugin may check its devices once more before a container gets them. It wraps one of
// these errors if a device is no longer what the Tree says, and the kubelet learns of it.
var (
	ErrGone  = errors.New("the device has gone")       // it no longer exists
	ErrUnfit = errors.New("the device cannot be used") // it exists, but not in a usable state
)

// Device is one allocatable unit of a resource. It must not be modified once it is part
// of a Tree.
type Device struct {
	ID        string // unique within the resource, like a PCI address; with CDI also a CDI device name
	Health    Health // new containers only get Healthy devices
	Reason    string // why the device is Unhealthy, for humans; empty if it is Healthy
	NUMANodes []int  // the closest NUMA nodes, ascending; empty if the platform does not say

	ContainerEdits // what a container with the device gets
}

// ContainerEdits lists what a container gets. Host paths are as the host sees them, not
// as the plugin sees them in its own container.
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

// Equal reports whether d and other are equal in all fields, or both nil.
func (d *Device) Equal(other *Device) bool {
	if d == other {
		return true
	}
	if d == nil || other == nil {
		return false
	}
	return d.ID == other.ID && d.Health == other.Health && d.Reason == other.Reason &&
		slices.Equal(d.NUMANodes, other.NUMANodes) &&
		slices.Equal(d.DeviceNodes, other.DeviceNodes) && slices.Equal(d.Mounts, other.Mounts) &&
		maps.Equal(d.Env, other.Env) && maps.Equal(d.Annotations, other.Annotations) &&
		slices.Equal(d.CDINames, other.CDINames)
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

// clone returns a deep copy of d.
func (d *Device) clone() *Device {
	c := *d
	c.NUMANodes = slices.Clone(d.NUMANodes)
	c.DeviceNodes = slices.Clone(d.DeviceNodes)
	c.Mounts = slices.Clone(d.Mounts)
	c.Env = maps.Clone(d.Env)
	c.Annotations = maps.Clone(d.Annotations)
	c.CDINames = slices.Clone(d.CDINames)
	return &c
}

// check returns an error that states the first rule that d breaks.
func (d *Device) check() error {
	if d == nil {
		return errors.New("device is nil")
	}
	if d.ID == "" {
		return errors.New("device without an ID")
	}
	if rule := d.brokenRule(); rule != "" {
		return fmt.Errorf("device %q: %s", d.ID, rule)
	}
	return nil
}

func (d *Device) brokenRule() string {
	switch {
	case !utf8.ValidString(d.ID): // gRPC rejects a list with such an ID as a whole
		return "ID is not valid UTF-8"
	case d.Health != Healthy && d.Health != Unhealthy:
		return fmt.Sprintf("invalid health %q: must be %q or %q", d.Health, Healthy, Unhealthy)
	case d.Health == Unhealthy && d.Reason == "":
		return fmt.Sprintf("%s without a reason", Unhealthy)
	case d.Health == Healthy && d.Reason != "":
		return fmt.Sprintf("%s with a reason", Healthy)
	case !slices.Equal(d.NUMANodes, slices.Compact(slices.Sorted(slices.Values(d.NUMANodes)))):
		return fmt.Sprintf("NUMA nodes %v are not strictly ascending", d.NUMANodes)
	case len(d.NUMANodes) > 0 && d.NUMANodes[0] < 0:
		return fmt.Sprintf("negative NUMA node %d: must be omitted if the platform does not say", d.NUMANodes[0])
	}
	for _, n := range d.DeviceNodes {
		if !path.IsAbs(n.HostPath) || !path.IsAbs(n.ContainerPath) {
			return fmt.Sprintf("device node %q to %q: both paths must be absolute", n.HostPath, n.ContainerPath)
		}
		if n.Permissions == "" || strings.Trim(n.Permissions, "rwm") != "" {
			return fmt.Sprintf("device node %q: invalid permissions %q: must be one or more of r, w and m",
				n.HostPath, n.Permissions)
		}
	}
	for _, m := range d.Mounts {
		if !path.IsAbs(m.HostPath) || !path.IsAbs(m.ContainerPath) {
			return fmt.Sprintf("mount %q to %q: both paths must be absolute", m.HostPath, m.ContainerPath)
		}
	}
	for name := range d.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Sprintf("invalid environment variable name %q", name)
		}
	}
	if _, exists := d.Annotations[""]; exists {
		return "annotation without a key"
	}
	for _, name := range d.CDINames {
		kind, device, _ := strings.Cut(name, "=")
		vendor, class, _ := strings.Cut(kind, "/")
		if vendor == "" || class == "" || device == "" {
			return fmt.Sprintf("invalid CDI device name %q: must have the form vendor/class=name", name)
		}
	}
	return ""
}
