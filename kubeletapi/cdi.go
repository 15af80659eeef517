// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"slices"
	"sync"

	"qatplugin/cdi"
	"qatplugin/devtree"
)

// WithCDI makes the Manager keep specs of the Container Device Interface in dir,
// usually /var/run/cdi; see package cdi. A device is then also the CDI device
// "<namespace>/<class>=<ID>". If class is empty, each resource is a class of its own.
// Several plugins may share a directory, a namespace and a class.
//
// Allocate returns the CDI name in addition to the device's nodes, mounts and
// environment, so that a runtime without CDI support lacks nothing. It does not write files. If an
// [Allocator] or a [PostAllocator] removes or changes edits of a device, Allocate does not return
// the CDI name of the device, because the spec would undo the change.
//
// The spec is on disk before the kubelet learns of the device. It is removed, without
// waiting for the kubelet, once Allocate no longer returns its name.
//
// Run waits for a spec that is being written. The files stay, for containers that restart.
func WithCDI(dir, class string) Option {
	return func(c *config) { c.cdiEnabled, c.cdiDir, c.cdiClass = true, dir, class }
}

// startCDI starts the writer of CDI specs if WithCDI was given. The plugin must call
// the returned publish. wait returns when ctx has ended and no spec is being written.
func (m *Manager) startCDI(ctx context.Context) (publish func(*devtree.Tree), wait func(), err error) {
	config := m.cdiConfig()
	if config == nil {
		return m.publish, func() {}, nil
	}
	writer, err := cdi.NewWriter(*config, m.publish)
	if err != nil {
		return nil, nil, err
	}
	var running sync.WaitGroup
	running.Go(func() { writer.Run(ctx) })
	return writer.Update, running.Wait, nil
}

// cdiConfig returns the settings of the writer of CDI specs, or nil if WithCDI was not given.
func (m *Manager) cdiConfig() *cdi.Config {
	if !m.config.cdiEnabled {
		return nil
	}
	return &cdi.Config{Dir: m.config.cdiDir, Vendor: m.namespace, Class: m.config.cdiClass}
}

// dropOverriddenNames removes from edits the CDI name of each device whose spec contains something
// that edits does not. A runtime may apply specs after the edits, and so undo changes of the
// plugin. Without the name, the container gets only the edits.
func (s *service) dropOverriddenNames(edits *devtree.ContainerEdits, devices []*devtree.Device) {
	if s.cdi == nil {
		return
	}
	for _, d := range devices {
		if !contains(edits, &d.ContainerEdits) {
			name := s.cdi.QualifiedName(s.resource, d.ID)
			isName := func(n string) bool { return n == name }
			edits.CDINames = slices.DeleteFunc(edits.CDINames, isName)
		}
	}
}

// contains reports whether edits contains all device nodes, mounts and variables of part.
func contains(edits, part *devtree.ContainerEdits) bool {
	for _, n := range part.DeviceNodes {
		if !slices.Contains(edits.DeviceNodes, n) {
			return false
		}
	}
	for _, m := range part.Mounts {
		if !slices.Contains(edits.Mounts, m) {
			return false
		}
	}
	for name, value := range part.Env {
		if got, set := edits.Env[name]; !set || got != value {
			return false
		}
	}
	return true
}
