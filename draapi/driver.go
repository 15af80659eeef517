// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"
	"errors"
)

// A Driver offers the devices of a Plugin through DRA.
type Driver struct {
	name   string
	plugin Plugin
	config config
}

// NewDriver returns a Driver with that name, such as "color.example.com". It does nothing until
// [Driver.Run] is called.
func NewDriver(name string, plugin Plugin, opts ...Option) *Driver {
	d := &Driver{name: name, plugin: plugin}
	for _, o := range opts {
		if o != nil {
			o(&d.config)
		}
	}
	return d
}

// Run offers the plugin's devices until ctx ends or Watch fails. It may be called once.
func (d *Driver) Run(ctx context.Context) error {
	return errors.ErrUnsupported
}
