// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"sync"

	"qatplugin/cdi"
	"qatplugin/devtree"
)

// WithCDI makes the Manager keep specs of the Container Device Interface in dir,
// usually /var/run/cdi; see package cdi. A device is then also the CDI device
// "<namespace>/<class>=<ID>". If class is empty, each resource is a class of its own.
//
// Allocate returns the CDI name in addition to the device's nodes, mounts and
// environment, so that a runtime without CDI support lacks nothing. It writes nothing.
// The spec is on disk before the kubelet learns of the device. It is removed, without
// waiting for the kubelet, once Allocate no longer returns its name.
//
// Run waits for a spec that is being written. The files stay, for containers that restart.
func WithCDI(dir, class string) Option {
	return func(c *config) { c.cdiDir, c.cdiClass = dir, class }
}

// startCDI starts the writer of CDI specs if WithCDI was given. The plugin must call
// the returned publish. wait returns when ctx has ended and no spec is being written.
func (m *Manager) startCDI(ctx context.Context) (publish func(*devtree.Tree), wait func(), err error) {
	if m.config.cdiDir == "" {
		return m.publish, func() {}, nil
	}
	config := cdi.Config{Dir: m.config.cdiDir, Vendor: m.namespace, Class: m.config.cdiClass}
	writer, err := cdi.NewWriter(config, m.publish)
	if err != nil {
		return nil, nil, err
	}
	var running sync.WaitGroup
	running.Go(func() { writer.Run(ctx) })
	return writer.Update, running.Wait, nil
}
