// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"
	"errors"
)

// A Driver offers the devices of a Plugin through DRA. Any goroutine may call its methods.
type Driver struct {
	name   string
	plugin Plugin
	config config
}

// NewDriver returns a Driver with that name, such as "color.example.com". It does nothing until
// [Driver.Run] is called, which also reports invalid arguments. A nil Option is ignored.
func NewDriver(name string, plugin Plugin, opts ...Option) *Driver {
	d := &Driver{name: name, plugin: plugin, config: defaultConfig()}
	for _, o := range opts {
		if o != nil {
			o(&d.config)
		}
	}
	return d
}

// Run offers the plugin's devices until ctx ends or Watch fails. It may be called once.
func (d *Driver) Run(ctx context.Context) error {
	if d.plugin == nil {
		return errors.New("the Plugin is nil")
	}
	if err := checkName(d.name); err != nil {
		return err
	}
	if err := d.config.resolve(); err != nil {
		return err
	}
	return errors.ErrUnsupported
}

// CheckRegistered returns nil if the kubelet has registered the Driver and is connected to it.
// Otherwise the error states how far the registration has come. It ignores its context.
func (d *Driver) CheckRegistered(context.Context) error { return errors.ErrUnsupported }

// CheckPublished returns nil if the API server has stored the ResourceSlices of the newest Tree.
// Otherwise the error states what is missing. It ignores its context.
func (d *Driver) CheckPublished(context.Context) error { return errors.ErrUnsupported }

// CheckRuntime returns nil unless the Node reports a container runtime that ignores CDI devices.
// The error states what to do. It ignores its context.
func (d *Driver) CheckRuntime(context.Context) error { return errors.ErrUnsupported }

// Status returns the state of the Driver. It takes time in proportion to the number of devices, and
// delays nothing.
func (d *Driver) Status() Status { return Status{Driver: d.name, Pool: d.config.nodeName} }

// Claims returns the prepared claims, sorted by namespace, name and UID.
func (d *Driver) Claims() []ClaimStatus { return nil }

// Holders returns the devices that claims hold: device ID → "namespace/name" of the claim. It omits
// devices that claims use with admin access, because these claims do not hold them. The error is
// not nil before the Driver has read the claims that earlier processes have prepared.
func (d *Driver) Holders(context.Context) (map[string]string, error) {
	return nil, errors.ErrUnsupported
}
