// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"
	"errors"
	"sync"
	"time"

	"qatplugin/devtree"
	"qatplugin/qat/internal/dpdk"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/provision"
)

var _ provision.Withdrawer = (*dpdk.Allocator)(nil)

// provisioningHeadStart is how long mode dpdk waits at most until provisioning has withdrawn the
// PFs that it is about to change, or leaves to their kernel driver. It takes milliseconds, unless
// the kernel blocks reads.
const provisioningHeadStart = time.Second

// newProvisioningLoop returns the loop that provisions PFs.
func (p *Plugin) newProvisioningLoop() *hostwatch.Loop {
	return hostwatch.New(hostwatch.Config{
		Sysfs:         p.config.SysfsRoot,
		Writer:        p.writer,
		Sources:       p.config.Sources,
		OpenWatcher:   p.config.OpenWatcher,
		AuditInterval: p.config.AuditInterval,
		Leader:        p.loop,
		Name:          "provisioning",
		Skipped:       "Not provisioned",
		Journal:       p.config.Journal,
	})
}

// startProvisioning starts the loop that provisions PFs until ctx ends. wait waits for its end.
// Mode dpdk does not depend on it: each has a loop of its own.
func (p *Plugin) startProvisioning(ctx context.Context) (wait func()) {
	looked := make(chan struct{})
	newMode := func(ctx context.Context, host hostwatch.Host[provision.Key]) hostwatch.Mode[provision.Key] {
		return provision.New(ctx, provision.Config{
			Dir:        p.config.ProvisioningDir,
			Node:       p.config.NodeName,
			Driver:     p.config.DPDKDriver,
			Sysfs:      p.config.SysfsRoot,
			Reader:     p.reader,
			Writer:     p.writer,
			Withdrawer: p.allocator,
			Served:     p.config.KernelVFDrivers,
			NoBind:     p.config.NoBind,
			Force:      p.config.ProvisioningForce,
			Holders:    p.holders,
			HeldBy:     p.config.HeldBy,
			FirstLook:  func() { close(looked) },
		}, host)
	}
	var running sync.WaitGroup
	running.Go(func() { hostwatch.Run(ctx, p.provisioning, newMode, func(*devtree.Tree) {}) })
	select {
	case <-looked:
	case <-ctx.Done():
	case <-time.After(provisioningHeadStart):
	}
	return running.Wait
}

// holders returns which VFs pods hold, each with its pod.
func (p *Plugin) holders(ctx context.Context) (map[pci.Address]string, error) {
	if p.config.Holders == nil {
		return nil, errors.New("the kubelet is not asked which pods hold VFs: set -pod-resources-socket")
	}
	holders, err := p.config.Holders(ctx)
	pods := make(map[pci.Address]string, len(holders))
	for id, pod := range holders {
		if a, ok := pci.Parse(id); ok {
			pods[a] = pod
		}
	}
	return pods, err
}
