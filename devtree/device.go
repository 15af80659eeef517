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

// Health is the word that the kubelet uses for the state of a device.
type Health string

// The two states that the device plugin API knows (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1, constants.go).
const (
	Healthy   Health = "Healthy"
	Unhealthy Health = "Unhealthy"
)

// What a plugin can say of a device of its Tree that it finds otherwise when it is asked once more, as before it is given to a container.
// Its error wraps one of these, and the kubelet is told so.
var (
	ErrGone  = errors.New("the device has gone")
	ErrUnfit = errors.New("the device cannot be used")
)

// Device is one allocatable unit of a resource. It belongs to the Trees it is in and must not be changed once it was put into one.
type Device struct {
	ID        string // unique within its resource; for a PCI function its address
	Health    Health // only a Healthy device is given to a new container
	Reason    string // for people: why the device is Unhealthy; "" when it is Healthy
	NUMANodes []int  // nodes that the device is near to, ascending; empty when the platform does not say

	ContainerEdits // what a container that gets the device receives
}

// ContainerEdits is what a container receives. Paths are those of the host and of the container, never those of the plugin's own view.
type ContainerEdits struct {
	DeviceNodes []DeviceNode
	Mounts      []Mount
	Env         map[string]string
	Annotations map[string]string
	CDINames    []string // fully qualified CDI device names: vendor.example.com/class=name
}

// DeviceNode is a device file that appears in a container.
type DeviceNode struct {
	HostPath      string
	ContainerPath string
	Permissions   string // cgroup permissions: any of r (read), w (write), m (mknod)
}

// Mount is a file or directory of the host that appears in a container.
type Mount struct {
	HostPath      string
	ContainerPath string
	ReadOnly      bool
}

// Equal tells whether two devices say the same.
func (d *Device) Equal(other *Device) bool {
	if d == other {
		return true
	}
	if d == nil || other == nil {
		return false
	}
	return d.ID == other.ID && d.Health == other.Health && d.Reason == other.Reason &&
		slices.Equal(d.NUMANodes, other.NUMANodes) && d.ContainerEdits.equal(&other.ContainerEdits)
}

func (e *ContainerEdits) equal(other *ContainerEdits) bool {
	return slices.Equal(e.DeviceNodes, other.DeviceNodes) && slices.Equal(e.Mounts, other.Mounts) &&
		maps.Equal(e.Env, other.Env) && maps.Equal(e.Annotations, other.Annotations) && slices.Equal(e.CDINames, other.CDINames)
}

// Merge adds what other holds. A device node, mount or CDI name that is there already is not repeated: devices of one container
// may share one, as all VFIO groups share /dev/vfio/vfio. For a variable or annotation that both hold, other wins. Begin with
// the zero value: a copy of a Device's edits shares its maps with the Tree, and Merge writes into e's.
func (e *ContainerEdits) Merge(other *ContainerEdits) {
	e.DeviceNodes = appendNew(e.DeviceNodes, other.DeviceNodes)
	e.Mounts = appendNew(e.Mounts, other.Mounts)
	e.CDINames = appendNew(e.CDINames, other.CDINames)
	e.Env = mergeMap(e.Env, other.Env)
	e.Annotations = mergeMap(e.Annotations, other.Annotations)
}

func appendNew[T comparable](list, more []T) []T {
	for _, x := range more {
		if !slices.Contains(list, x) {
			list = append(list, x)
		}
	}
	return list
}

func mergeMap(into, from map[string]string) map[string]string {
	if len(from) == 0 {
		return into
	}
	if into == nil {
		into = make(map[string]string, len(from))
	}
	maps.Copy(into, from)
	return into
}

// clone is a copy that shares nothing with d, so that the caller's later changes do not reach a Tree.
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

// check names the first rule that the device breaks.
func (d *Device) check() error {
	switch {
	case d == nil:
		return fmt.Errorf("no device given")
	case d.ID == "":
		return fmt.Errorf("a device has an empty ID")
	case !utf8.ValidString(d.ID): // gRPC would refuse the whole list for it
		return fmt.Errorf("device %q: the ID is not UTF-8", d.ID)
	case d.Health != Healthy && d.Health != Unhealthy:
		return fmt.Errorf("device %q: health %q is neither %q nor %q", d.ID, d.Health, Healthy, Unhealthy)
	case d.Health == Unhealthy && d.Reason == "":
		return fmt.Errorf("device %q is %s without a reason", d.ID, Unhealthy)
	}
	for _, n := range d.NUMANodes {
		if n < 0 {
			return fmt.Errorf("device %q: NUMA node %d is negative; leave it out when the platform does not say", d.ID, n)
		}
	}
	if !slices.IsSorted(d.NUMANodes) {
		return fmt.Errorf("device %q: NUMA nodes %v are not ascending", d.ID, d.NUMANodes)
	}
	for _, n := range d.DeviceNodes {
		if !path.IsAbs(n.HostPath) || !path.IsAbs(n.ContainerPath) {
			return fmt.Errorf("device %q: device node %q to %q: both paths must be absolute", d.ID, n.HostPath, n.ContainerPath)
		}
		if n.Permissions == "" || strings.Trim(n.Permissions, "rwm") != "" {
			return fmt.Errorf("device %q: device node %q: permissions %q are not of r, w and m", d.ID, n.HostPath, n.Permissions)
		}
	}
	for _, m := range d.Mounts {
		if !path.IsAbs(m.HostPath) || !path.IsAbs(m.ContainerPath) {
			return fmt.Errorf("device %q: mount %q to %q: both paths must be absolute", d.ID, m.HostPath, m.ContainerPath)
		}
	}
	for name := range d.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf("device %q: %q is not the name of an environment variable", d.ID, name)
		}
	}
	for _, name := range d.CDINames {
		kind, device, ok := strings.Cut(name, "=")
		vendor, class, _ := strings.Cut(kind, "/")
		if !ok || vendor == "" || class == "" || device == "" {
			return fmt.Errorf("device %q: %q is not a CDI device name (vendor/class=name)", d.ID, name)
		}
	}
	return nil
}
