// SPDX-License-Identifier: Apache-2.0

package publisher

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"qatplugin/draapi/internal/inventory"
)

// maxName is the length of a DNS subdomain, in bytes
// (k8s.io/apimachinery/pkg/util/validation, DNS1123SubdomainMaxLength).
const maxName = 253

// sliceNames returns the prefix of the names of slices, to which their numbers are appended.
func sliceNames(node, driver string) string {
	const digits = 6
	prefix := node + "-" + driver + "-"
	if len(prefix)+digits <= maxName {
		return prefix
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(node + "/" + driver)) // never fails
	end := fmt.Sprintf("-%016x-", hash.Sum64())
	return strings.TrimRight(prefix[:maxName-digits-len(end)], "-.") + end
}

// A pool is what the publisher wants the API server to have. It does not change.
type pool struct {
	generation int64
	slices     [][]*inventory.Device // by number, each sorted by name
	surplus    []string              // names of slices of the pool that must go, sorted
}

// A planner decides what the pool should be. It belongs to the goroutine that writes.
type planner struct {
	prefix   string // of the names of slices
	driver   string
	node     string // and the name of the pool
	groupBy  string // attribute; empty: devices are not grouped
	separate int    // groups do not share a slice before there are so many slices

	started    bool
	generation int64
	layout     layout

	// What the layout is for.
	placed  *inventory.Inventory
	healthy bool
}

// plan returns the pool for the inventory, as far as it depends on what the API server has. With
// healthyOnly, devices that would have a taint are left out.
//
// The scheduler uses the slices with the highest generation of a pool, ignores the others, and
// allocates no device of the pool while it knows fewer of these than resourceSliceCount says, or
// while two have a device of the same name
// (k8s.io/dynamic-resource-allocation/structured/internal/stable/pools_stable.go, GatherPools). So
// the generation only rises if the number of slices changes or a device moves to another slice. All
// slices must then be written, and until the last one is, no device can be allocated.
func (p *planner) plan(inv *inventory.Inventory, observed map[string]*resourcev1.ResourceSlice, healthyOnly bool) pool {
	first := !p.started
	if first {
		p.started = true
		p.adopt(observed)
	}
	before := p.layout
	if first || p.placed != inv || p.healthy != healthyOnly {
		p.layout = before.place(p.members(inv, healthyOnly))
		if first {
			p.layout = p.layout.trim()
		}
		p.placed, p.healthy = inv, healthyOnly
	}

	want := pool{slices: make([][]*inventory.Device, p.layout.count)}
	for _, d := range inv.Devices {
		if s, ok := p.layout.number[d.Name]; ok {
			want.slices[s] = append(want.slices[s], d)
		}
	}
	rises := p.layout.count != before.count
	others := int64(-1) // the highest generation of the surplus
	for name, slice := range observed {
		number, ok := p.number(name)
		if !ok || number >= p.layout.count {
			if slice.Spec.Pool.Name == p.node {
				want.surplus = append(want.surplus, name)
				others = max(others, slice.Spec.Pool.Generation)
			}
			continue
		}
		rises = rises || slice.Spec.Pool.Generation == p.generation && p.moves(slice, number)
	}
	// With the same generation, the scheduler would count the surplus as slices of the pool.
	if (rises || others >= p.generation) && others < math.MaxInt64 {
		p.generation = max(p.generation, others) + 1
	}
	slices.Sort(want.surplus)
	want.generation = p.generation
	return want
}

// adopt takes over the layout and the generation of the slices that exist when the driver starts.
func (p *planner) adopt(observed map[string]*resourcev1.ResourceSlice) {
	p.layout = layout{separate: p.separate, number: map[string]int{}}
	type place struct {
		number     int
		generation int64
	}
	places := map[string]place{} // by device
	for number := 0; ; number++ {
		slice := observed[p.name(number)]
		if slice == nil || slice.Spec.Pool.Name != p.node {
			break
		}
		p.layout.count++
		p.generation = max(p.generation, slice.Spec.Pool.Generation)
		for i, d := range slice.Spec.Devices {
			// A driver that was killed while devices moved may have left one in two slices.
			if old, known := places[d.Name]; i < maxDevices && (!known || slice.Spec.Pool.Generation > old.generation) {
				places[d.Name] = place{number, slice.Spec.Pool.Generation}
			}
		}
	}
	for name, place := range places {
		p.layout.number[name] = place.number
	}
}

func (p *planner) members(inv *inventory.Inventory, healthyOnly bool) (members []member) {
	for _, d := range inv.Devices {
		if healthyOnly && isTainted(d) {
			continue
		}
		// Of a device that went before a restart, no attributes are known. A selector that names
		// one would fail for it, and the scheduler would place the pod on no node
		// (pkg/scheduler/framework/plugins/dynamicresources, Allocate, of Kubernetes 1.36).
		if d.Gone && d.Resource == "" {
			continue
		}
		m := member{name: d.Name}
		if value, ok := d.Device.Attributes[p.groupBy]; ok && p.groupBy != "" {
			m.group = fmt.Sprint(value)
		}
		members = append(members, m)
	}
	return members
}

// moves reports whether the layout has a device of the slice in another one.
func (p *planner) moves(slice *resourcev1.ResourceSlice, number int) bool {
	return slices.ContainsFunc(slice.Spec.Devices, func(d resourcev1.Device) bool {
		s, ok := p.layout.number[d.Name]
		return ok && s != number
	})
}

func (p *planner) name(number int) string { return p.prefix + strconv.Itoa(number) }

// number returns the number of the slice with that name, and whether the publisher uses such names.
func (p *planner) number(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, p.prefix)
	number, err := strconv.Atoi(digits)
	return number, ok && err == nil && number >= 0 && p.name(number) == name
}

// spec returns the spec of a slice of the pool.
func (p *planner) spec(want *pool, number int, c *converter) resourcev1.ResourceSliceSpec {
	spec := resourcev1.ResourceSliceSpec{
		Driver: p.driver,
		Pool: resourcev1.ResourcePool{
			Name:               p.node,
			Generation:         want.generation,
			ResourceSliceCount: int64(len(want.slices)),
		},
		NodeName: &p.node,
	}
	for _, d := range want.slices[number] {
		spec.Devices = append(spec.Devices, c.device(d))
	}
	return spec
}

// keepTimes sets TimeAdded of the taints that a device already has. Without it, the API server sets
// the current time, and tolerations with tolerationSeconds would start again.
func keepTimes(spec *resourcev1.ResourceSliceSpec, observed map[string]*resourcev1.ResourceSlice) {
	times := map[string]*metav1.Time{}
	key := func(d *resourcev1.Device, t *resourcev1.DeviceTaint) string {
		return strings.Join([]string{d.Name, t.Key, t.Value, string(t.Effect)}, "\n")
	}
	for _, slice := range observed {
		for i := range slice.Spec.Devices {
			d := &slice.Spec.Devices[i]
			for k := range d.Taints {
				times[key(d, &d.Taints[k])] = d.Taints[k].TimeAdded
			}
		}
	}
	for i := range spec.Devices {
		d := &spec.Devices[i]
		for k := range d.Taints {
			d.Taints[k].TimeAdded = times[key(d, &d.Taints[k])].DeepCopy()
		}
	}
}

// sameSpec reports whether a stored spec is the wanted one. TimeAdded of taints is the API
// server's.
func sameSpec(want, stored *resourcev1.ResourceSliceSpec) bool {
	if len(want.Devices) != len(stored.Devices) {
		return false
	}
	stored = stored.DeepCopy()
	for i := range stored.Devices {
		for k := range stored.Devices[i].Taints {
			stored.Devices[i].Taints[k].TimeAdded = nil
		}
	}
	return equality.Semantic.DeepEqual(want, stored)
}

// ownerOf returns the reference that makes a slice go with its Node.
func ownerOf(node string, uid types.UID) metav1.OwnerReference {
	yes := true
	return metav1.OwnerReference{
		APIVersion: corev1.SchemeGroupVersion.String(),
		Kind:       "Node",
		Name:       node,
		UID:        uid,
		Controller: &yes,
	}
}

// isOwned reports whether the slice has the Node as its owner, and no other Node.
func isOwned(slice *resourcev1.ResourceSlice, uid types.UID) bool {
	owned := false
	for _, o := range slice.OwnerReferences {
		if o.Kind == "Node" {
			if o.UID != uid {
				return false
			}
			owned = true
		}
	}
	return owned
}

// own makes the Node the owner of the slice. Other owners remain, except Nodes.
func own(slice *resourcev1.ResourceSlice, node string, uid types.UID) {
	if isOwned(slice, uid) {
		return
	}
	others := slices.DeleteFunc(slices.Clone(slice.OwnerReferences), func(o metav1.OwnerReference) bool {
		return o.Kind == "Node" || o.Controller != nil && *o.Controller
	})
	slice.OwnerReferences = append(others, ownerOf(node, uid))
}
