// SPDX-License-Identifier: Apache-2.0

package status

import "time"

// DRA is the state of a driver that offers the VFs through Dynamic Resource Allocation.
type DRA struct {
	Driver  string   `json:"driver"`            // its name, such as "qat.intel.com"
	Pool    string   `json:"pool"`              // the name of the node
	Devices int      `json:"devices"`           // of the pool
	Healthy int      `json:"healthy"`           // of these
	Gone    int      `json:"gone"`              // of these: claims hold them, and the host has lost them
	Skipped []string `json:"skipped,omitempty"` // devices that the pool leaves out, and why

	Registered      bool       `json:"registered"`                // with the kubelet
	RegistrationErr string     `json:"registrationErr,omitempty"` // why not
	Since           *time.Time `json:"since,omitempty"`           // of the kubelet's last answer
	Connections     int        `json:"connections"`               // of the kubelet to the driver
	HealthStreams   int        `json:"healthStreams"`             // on which the kubelet follows the health of devices
	HealthSent      *time.Time `json:"healthSent,omitempty"`      // when it was last sent

	PublishErr string          `json:"publishErr,omitempty"` // why the slices are not up to date; "" if they are
	Slices     []ResourceSlice `json:"slices"`               // sorted by name
	Claims     []Claim         `json:"claims"`               // that are prepared, sorted by name

	Runtime    string `json:"runtime,omitempty"`    // container runtime of the Node; "" if it is unknown
	RuntimeErr string `json:"runtimeErr,omitempty"` // why it gives no devices to containers
}

// A ResourceSlice is a part of the pool at the API server.
type ResourceSlice struct {
	Name       string     `json:"name"`
	Devices    int        `json:"devices"`
	Tainted    int        `json:"tainted"`           // of these
	Generation int64      `json:"generation"`        // of the pool
	Written    *time.Time `json:"written,omitempty"` // nil: not since the start of the process
}

// A Claim is a prepared ResourceClaim.
type Claim struct {
	Name     string        `json:"name"` // "namespace/name"
	UID      string        `json:"uid"`
	Prepared time.Time     `json:"prepared"`
	Devices  []ClaimDevice `json:"devices"` // in the order of the allocation
}

// A ClaimDevice is a device of a Claim.
type ClaimDevice struct {
	Address     string `json:"address"`
	Resource    string `json:"resource"` // when the claim was prepared, without the namespace
	Request     string `json:"request"`  // of the claim
	AdminAccess bool   `json:"adminAccess,omitempty"`
}

// Addresses returns the addresses of the devices, with a mark at those that the claim only has
// admin access to.
func (c *Claim) Addresses() (list []string) {
	for _, d := range c.Devices {
		address := d.Address
		if d.AdminAccess {
			address += " (admin)"
		}
		list = append(list, address)
	}
	return list
}
