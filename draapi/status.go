// SPDX-License-Identifier: Apache-2.0

package draapi

import "time"

// A Status is the state of a [Driver].
type Status struct {
	Driver string // its name
	Pool   string // the name of the pool, which is the Node's

	Devices    int     // of the pool, including those that have gone and that claims hold
	Healthy    int     // of these, how many are healthy
	Gone       int     // of these, how many have left the newest Tree and are held by claims
	Skipped    []error // devices of the newest Tree that are not offered, and why
	Generation uint64  // of the newest Tree; zero before the first one

	Registration RegistrationStatus
	Slices       []SliceStatus // sorted by name
	Publishing   error         // why the slices at the API server are not up to date; nil if they are
	Runtime      string        // container runtime, such as "containerd://2.1.4"; empty if not known yet
	RuntimeErr   error         // why the container runtime cannot inject devices; nil if it can
}

// A RegistrationStatus is the state of a [Driver] at the kubelet.
type RegistrationStatus struct {
	Registered    bool      // the kubelet has registered the Driver and is connected to it
	Err           error     // why not; nil if Registered
	Since         time.Time // of the kubelet's last answer; zero if there was none
	Connections   int       // of the kubelet to the Driver
	HealthStreams int       // that the kubelet has open
	HealthSent    time.Time // when health was last sent; zero if it was not
}

// A SliceStatus is a ResourceSlice of the [Driver] at the API server.
type SliceStatus struct {
	Name            string
	Devices         int
	Tainted         int   // of these, how many have a taint
	Generation      int64 // of the pool
	ResourceVersion string
	Written         time.Time // when the Driver last wrote it; zero if not since it started
}

// A ClaimStatus is a prepared claim.
type ClaimStatus struct {
	Namespace string
	Name      string
	UID       string
	Prepared  time.Time           // when its CDI spec was written
	Devices   []ClaimDeviceStatus // in the order of the allocation
}

// String returns "namespace/name".
func (c *ClaimStatus) String() string { return c.Namespace + "/" + c.Name }

// A ClaimDeviceStatus is a device of a prepared claim.
type ClaimDeviceStatus struct {
	ID          string // of the device in the plugin's Trees
	Name        string // of the device in the pool
	Resource    string // of the device when the claim was prepared, without the namespace
	Request     string // of the claim; "request/subrequest" of a prioritized list
	AdminAccess bool   // the claim does not hold the device
}
