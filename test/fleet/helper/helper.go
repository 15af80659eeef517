// SPDX-License-Identifier: Apache-2.0

// Package helper converts Trees for drivers on upstream's helper
// (k8s.io/dynamic-resource-allocation/kubeletplugin), which this project's driver is compared with.
// The helper leaves to a driver how to describe devices, and how to split them into slices.
package helper

import (
	"slices"
	"strings"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceslice"

	"qatplugin/devtree"
)

// Resources returns the devices of a Tree as one pool with slices of at most 64 devices.
func Resources(driver, pool string, tree *devtree.Tree) *resourceslice.DriverResources {
	var devices []resourceapi.Device
	for r := range tree.Resources() {
		for d := range r.Devices() {
			devices = append(devices, Device(driver, d))
		}
	}
	var list []resourceslice.Slice
	for part := range slices.Chunk(devices, resourceapi.ResourceSliceMaxDevicesWithAdvancedFeatures) {
		list = append(list, resourceslice.Slice{Devices: part})
	}
	return &resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{pool: {Slices: list}}}
}

// Device returns a device as it is in a slice.
func Device(driver string, d *devtree.Device) resourceapi.Device {
	device := resourceapi.Device{
		Name:       DeviceName(d.ID),
		Attributes: map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{},
	}
	for name, value := range d.Attributes {
		var a resourceapi.DeviceAttribute
		switch v := value.(type) {
		case string:
			a.StringValue = &v
		case bool:
			a.BoolValue = &v
		case int64:
			a.IntValue = &v
		case devtree.Version:
			a.VersionValue = (*string)(&v)
		}
		device.Attributes[resourceapi.QualifiedName(name)] = a
	}
	if d.Health == devtree.Unhealthy {
		device.Taints = []resourceapi.DeviceTaint{{
			Key: driver + "/unhealthy", Value: d.Cause, Effect: resourceapi.DeviceTaintEffectNoSchedule,
		}}
	}
	return device
}

// DeviceName is the name in a slice of the device with this PCI address.
func DeviceName(address string) string {
	return strings.NewReplacer(":", "-", ".", "-").Replace(address)
}
