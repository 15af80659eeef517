// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"
	"sync"

	"qatplugin/internal/status"
)

// Status adds what the Plugin knows to s: Mode, Loops, PFs, VFs, Processes, Provisioning and
// Counters. It waits until the event loops have copied their state, which takes microseconds unless
// the kernel blocks them. If a loop does not answer before ctx ends, s has its last known state,
// and its Loop has an Err. It asks both loops at the same time, so one that does not answer leaves
// the other one its time. Holders of VFs are not known to the Plugin.
func (p *Plugin) Status(ctx context.Context, s *status.Snapshot) {
	s.Mode = p.config.Mode
	s.PFs, s.VFs, s.Processes = []status.PF{}, []status.VF{}, []status.Process{}
	s.Counters.Binds = map[string]uint64{}
	var provisioning status.Snapshot
	var asking sync.WaitGroup
	if p.provisioning != nil {
		asking.Go(func() { p.provisioning.AddStatus(ctx, &provisioning) })
	}
	p.loop.AddStatus(ctx, s)
	asking.Wait()
	s.Loops = append(s.Loops, provisioning.Loops...)
	s.Provisioning = provisioning.Provisioning
	p.loop.AddCounters(&s.Counters)
	if p.provisioning != nil {
		p.provisioning.AddCounters(&s.Counters)
	}
}
