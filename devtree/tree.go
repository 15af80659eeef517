package devtree

import (
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
)

// Tree is one immutable snapshot: resource name → device ID → [Device]. The zero value is an empty Tree of generation 0.
// All methods may be called from any goroutine.
type Tree struct {
	generation uint64
	resources  []*Resource // ascending by name
}

// Resource is one resource of a Tree: a name and its devices, which may be none.
type Resource struct {
	name    string
	devices []*Device // ascending by ID
}

// Generation grows by one with each Tree that differs from the one it was built from.
func (t *Tree) Generation() uint64 {
	if t == nil {
		return 0
	}
	return t.generation
}

// Resource is the resource of that name, nil when the Tree has none. Two Trees that return the same pointer hold the same devices.
func (t *Tree) Resource(name string) *Resource {
	if t == nil {
		return nil
	}
	if i, ok := t.find(name); ok {
		return t.resources[i]
	}
	return nil
}

// Resources yields the resources, ascending by name.
func (t *Tree) Resources() iter.Seq[*Resource] {
	return func(yield func(*Resource) bool) {
		if t == nil {
			return
		}
		for _, r := range t.resources {
			if !yield(r) {
				return
			}
		}
	}
}

func (t *Tree) find(name string) (int, bool) {
	return slices.BinarySearchFunc(t.resources, name, func(r *Resource, name string) int { return strings.Compare(r.name, name) })
}

// Equal tells whether both Trees hold the same devices in the same resources. An empty resource is as good as none, and
// generations are not compared.
func (t *Tree) Equal(other *Tree) bool {
	return len(Diff(t, other)) == 0
}

// String is the Tree for people and test failures: a line for each resource and device.
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

// Name is the resource's name without its namespace: "cy" of "qat.intel.com/cy".
func (r *Resource) Name() string { return r.name }

// Len is the number of devices, whatever their health. A nil Resource has none.
func (r *Resource) Len() int {
	if r == nil {
		return 0
	}
	return len(r.devices)
}

// Device is the device of that ID, nil when there is none.
func (r *Resource) Device(id string) *Device {
	if r == nil {
		return nil
	}
	if i, ok := r.find(id); ok {
		return r.devices[i]
	}
	return nil
}

// Devices yields the devices, ascending by ID.
func (r *Resource) Devices() iter.Seq[*Device] {
	return func(yield func(*Device) bool) {
		if r == nil {
			return
		}
		for _, d := range r.devices {
			if !yield(d) {
				return
			}
		}
	}
}

func (r *Resource) find(id string) (int, bool) {
	return slices.BinarySearchFunc(r.devices, id, func(d *Device, id string) int { return strings.Compare(d.ID, id) })
}

// resourceName is the part of an extended resource's name after the slash
// (k8s.io/apimachinery/pkg/api/validate/content, IsLabelKey; kubernetes.io/docs/concepts/overview/working-with-objects/names).
var resourceName = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)

const maxResourceName = 63 // bytes

// CheckResourceName says what is wrong with a resource's name (without its namespace), nil when Kubernetes takes it.
func CheckResourceName(name string) error {
	if len(name) > maxResourceName {
		return fmt.Errorf("resource name %q has %d bytes, at most %d are allowed", name, len(name), maxResourceName)
	}
	if !resourceName.MatchString(name) {
		return fmt.Errorf("resource name %q: letters, digits, '-', '_' and '.' are allowed, the first and the last a letter or digit", name)
	}
	return nil
}
