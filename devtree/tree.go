// SPDX-License-Identifier: Apache-2.0

package devtree

import (
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
)

// Tree is an immutable snapshot of all resources and their devices. The zero value is an
// empty Tree of generation 0, and a nil Tree is empty too. All methods may be called from
// any goroutine.
type Tree struct {
	generation uint64
	resources  []*Resource // ascending by name
}

// Resource is a resource of a Tree: a name and any number of devices. A nil Resource has
// no name and no devices.
type Resource struct {
	name    string
	devices []*Device // ascending by ID
}

// Generation counts the Trees in the line of successors that ends with t.
func (t *Tree) Generation() uint64 {
	if t == nil {
		return 0
	}
	return t.generation
}

// Resource returns the named resource, or nil if t does not have it. If two Trees return
// the same pointer, the resource did not change between them.
func (t *Tree) Resource(name string) *Resource {
	resources := t.list()
	if i, found := findResource(resources, name); found {
		return resources[i]
	}
	return nil
}

// Resources returns an iterator over the resources, ascending by name.
func (t *Tree) Resources() iter.Seq[*Resource] { return slices.Values(t.list()) }

func (t *Tree) list() []*Resource {
	if t == nil {
		return nil
	}
	return t.resources
}

func findResource(resources []*Resource, name string) (int, bool) {
	return slices.BinarySearchFunc(resources, name, func(r *Resource, name string) int {
		return strings.Compare(r.name, name)
	})
}

// Equal reports whether both Trees hold equal devices in the same resources. Empty
// resources and generations are ignored.
func (t *Tree) Equal(other *Tree) bool { return len(Diff(t, other)) == 0 }

// String formats t for humans, with one line for each resource and each device.
func (t *Tree) String() string {
	var b strings.Builder
	for r := range t.Resources() {
		fmt.Fprintf(&b, "%s: %d\n", r.name, len(r.devices))
		for _, d := range r.devices {
			fmt.Fprintf(&b, "  %s %s", d.ID, d.Health)
			if d.Reason != "" {
				fmt.Fprintf(&b, " (%s)", d.Reason)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// Name returns the name of the resource without its namespace: "cy" of "qat.intel.com/cy".
func (r *Resource) Name() string {
	if r == nil {
		return ""
	}
	return r.name
}

// Len returns the number of devices, healthy or not.
func (r *Resource) Len() int { return len(r.list()) }

// Device returns the device with that ID, or nil if r does not have it.
func (r *Resource) Device(id string) *Device {
	devices := r.list()
	if i, found := findDevice(devices, id); found {
		return devices[i]
	}
	return nil
}

// Devices returns an iterator over the devices, ascending by ID.
func (r *Resource) Devices() iter.Seq[*Device] { return slices.Values(r.list()) }

func (r *Resource) list() []*Device {
	if r == nil {
		return nil
	}
	return r.devices
}

func findDevice(devices []*Device, id string) (int, bool) {
	return slices.BinarySearchFunc(devices, id, func(d *Device, id string) int {
		return strings.Compare(d.ID, id)
	})
}

// labelText matches the part of an extended resource's name after the slash, and a label value that
// is not empty (k8s.io/apimachinery/pkg/api/validate/content, IsLabelKey and IsLabelValue).
var labelText = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)

const (
	labelTextSyntax = "must consist of letters, digits, '-', '_' and '.', and begin and end with a letter or digit"
	maxResourceName = 63 // bytes
)

// checkResourceName returns an error if Kubernetes rejects the name of a resource, which
// is given without its namespace. The error states what is allowed.
func checkResourceName(name string) error {
	if len(name) > maxResourceName {
		return fmt.Errorf("resource name %q has %d bytes: at most %d are allowed", name, len(name), maxResourceName)
	}
	if !labelText.MatchString(name) {
		return fmt.Errorf("invalid resource name %q: %s", name, labelTextSyntax)
	}
	return nil
}
