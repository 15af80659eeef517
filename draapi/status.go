// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"
	"errors"
	"time"

	"qatplugin/devtree"
)

// A Status is the state of a [Driver].
type Status struct {
	Driver string // its name
	Pool   string // the name of the pool, which is the Node's

	Devices int     // of the pool, including those that have gone and that claims hold
	Healthy int     // of these, how many are healthy
	Gone    int     // of these, how many have left the newest Tree and are held by claims
	Skipped []error // devices of the newest Tree that are not offered, and why

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
	Name       string
	Devices    int
	Tainted    int       // of these, how many have a taint
	Generation int64     // of the pool
	Written    time.Time // when the Driver last wrote it; zero if not since it started
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

var (
	errNotRunning = errors.New("the driver is not running")
	errNoTree     = errors.New("the devices have not been read yet")
	errNoNode     = errors.New("the Node has not been read yet")
)

// Status returns the state of the Driver. It takes time in proportion to the number of devices,
// and delays nothing.
func (d *Driver) Status() Status {
	s := Status{Driver: d.name, Pool: d.config.nodeName}
	d.mu.Lock()
	p, devices := d.parts, d.inventory
	s.Runtime, s.RuntimeErr = d.runtime.version, d.runtime.err
	d.mu.Unlock()
	if devices != nil {
		s.Devices, s.Skipped = len(devices.Devices), devices.Skipped
		for _, device := range devices.Devices {
			switch {
			case device.Gone:
				s.Gone++
			case device.Device.Health == devtree.Healthy:
				s.Healthy++
			}
		}
	}
	if p == nil {
		s.Registration.Err, s.Publishing = errNotRunning, errNotRunning
		return s
	}
	k := p.kubelet.Status()
	s.Registration = RegistrationStatus{
		Registered:    k.Err == nil,
		Err:           k.Err,
		Since:         k.Answered,
		Connections:   k.Connections,
		HealthStreams: k.HealthStreams,
		HealthSent:    k.HealthSent,
	}
	published := p.slices.Status()
	s.Publishing = published.Err
	for _, slice := range published.Slices {
		s.Slices = append(s.Slices, SliceStatus{
			Name:       slice.Name,
			Devices:    slice.Devices,
			Tainted:    slice.Tainted,
			Generation: slice.Generation,
			Written:    slice.Written,
		})
	}
	return s
}

// CheckRegistered returns nil if the kubelet has registered the Driver and is connected to it.
// Otherwise the error states how far the registration has come. It ignores its context.
func (d *Driver) CheckRegistered(context.Context) error {
	d.mu.Lock()
	p, published := d.parts, d.published
	d.mu.Unlock()
	switch {
	case p == nil:
		return errNotRunning
	case !published:
		return errNoTree
	}
	return p.kubelet.Status().Err
}

// CheckPublished returns nil if the API server has stored the ResourceSlices of the newest Tree, or
// if that is only a few seconds old. Otherwise the error states what is missing. It ignores its
// context.
func (d *Driver) CheckPublished(ctx context.Context) error {
	d.mu.Lock()
	p, published, known := d.parts, d.published, d.runtime.known
	d.mu.Unlock()
	switch {
	case p == nil:
		return errNotRunning
	case !published:
		return errNoTree
	case !known:
		return errNoNode
	}
	return p.slices.Check(ctx)
}

// CheckRuntime returns nil unless the Node reports a container runtime that ignores CDI devices.
// The error states what to do. It ignores its context.
func (d *Driver) CheckRuntime(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.runtime.err
}

// Claims returns the prepared claims, sorted by namespace, name and UID.
func (d *Driver) Claims() []ClaimStatus {
	p := d.running()
	if p == nil {
		return nil
	}
	var list []ClaimStatus
	for _, c := range p.claims.List() {
		s := ClaimStatus{Namespace: c.Namespace, Name: c.Name, UID: c.UID, Prepared: c.Prepared}
		for i := range c.Devices {
			s.Devices = append(s.Devices, ClaimDeviceStatus{
				ID:          c.Devices[i].ID,
				Name:        c.Devices[i].Name,
				Resource:    c.Devices[i].Resource,
				Request:     c.Devices[i].Request,
				AdminAccess: c.Devices[i].AdminAccess,
			})
		}
		list = append(list, s)
	}
	return list
}

// Holders returns the devices that claims hold: device ID → "namespace/name" of the claim. It
// omits devices that claims use with admin access, because these claims do not hold them. It
// returns an error if the Driver has not read the claims that earlier processes have prepared.
func (d *Driver) Holders(context.Context) (map[string]string, error) {
	p := d.running()
	if p == nil {
		return nil, errNotRunning
	}
	return p.claims.Holders()
}
