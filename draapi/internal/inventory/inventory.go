// SPDX-License-Identifier: Apache-2.0

// Package inventory combines the newest Tree with the devices that claims hold. The result is the
// pool of devices that the driver offers.
package inventory

import "qatplugin/devtree"

// An Inventory is what the driver offers at one time. It does not change.
type Inventory struct {
	Devices []*Device // sorted by Name
	Skipped []error   // devices that DRA cannot describe, and why
}

// A Device is a device of the pool.
type Device struct {
	Name     string          // of the device in the pool: a DNS label
	Resource string          // of the Tree, without the namespace
	Device   *devtree.Device // unchanged devices are the same pointer; of a device that has gone, the last known state
	Gone     bool            // it has left the Tree, and a claim still holds it
}
