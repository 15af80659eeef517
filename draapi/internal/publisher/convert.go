// SPDX-License-Identifier: Apache-2.0

package publisher

import (
	resourcev1 "k8s.io/api/resource/v1"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/inventory"
)

// The taints' keys, below the name of the driver.
const (
	unhealthyTaint = "unhealthy"
	goneTaint      = "gone"
)

// A converter describes devices as the DRA API does.
type converter struct {
	driver string
	evict  func(*devtree.Device) bool // which devices evict the pods that use them; nil: none
}

// device returns the description of d. TimeAdded of its taints is not set.
func (c *converter) device(d *inventory.Device) resourcev1.Device {
	return resourcev1.Device{Name: d.Name, Taints: c.taints(d), Attributes: Attributes(d.Device)}
}

// Attributes returns the attributes of d as the API has them.
func Attributes(d *devtree.Device) map[resourcev1.QualifiedName]resourcev1.DeviceAttribute {
	if len(d.Attributes) == 0 {
		return nil
	}
	attributes := make(map[resourcev1.QualifiedName]resourcev1.DeviceAttribute, len(d.Attributes))
	for name, value := range d.Attributes {
		if a, ok := attribute(value); ok {
			attributes[resourcev1.QualifiedName(name)] = a
		}
	}
	return attributes
}

// attribute returns the value as the API has it, and false if it has none of the types that
// [devtree.Device] allows.
func attribute(value any) (a resourcev1.DeviceAttribute, ok bool) {
	switch v := value.(type) {
	case string:
		a.StringValue = &v
	case bool:
		a.BoolValue = &v
	case int64:
		a.IntValue = &v
	case devtree.Version:
		text := string(v)
		a.VersionValue = &text
	default:
		return a, false
	}
	return a, true
}

func (c *converter) taints(d *inventory.Device) []resourcev1.DeviceTaint {
	taint := resourcev1.DeviceTaint{Effect: resourcev1.DeviceTaintEffectNoSchedule}
	switch {
	case d.Gone:
		taint.Key = c.driver + "/" + goneTaint
	case d.Device.Health == devtree.Unhealthy:
		taint.Key, taint.Value = c.driver+"/"+unhealthyTaint, d.Device.Cause
	default:
		return nil
	}
	if c.evict != nil && c.evict(d.Device) {
		taint.Effect = resourcev1.DeviceTaintEffectNoExecute
	}
	return []resourcev1.DeviceTaint{taint}
}

// isTainted reports whether the description of d has a taint.
func isTainted(d *inventory.Device) bool { return d.Gone || d.Device.Health == devtree.Unhealthy }
