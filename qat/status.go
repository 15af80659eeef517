// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"

	"qatplugin/internal/status"
)

// Status adds what the Plugin knows to s: Mode, Loops, PFs, VFs, Processes, Provisioning and
// Counters. It waits until the event loops have copied their state, which takes microseconds unless
// the kernel blocks them. If a loop does not answer before ctx ends, s has its last known state,
// and its Loop has an Err. Holders of VFs are not known to the Plugin.
func (p *Plugin) Status(ctx context.Context, s *status.Snapshot) {
	s.Mode = p.config.Mode
	s.PFs, s.VFs, s.Processes = []status.PF{}, []status.VF{}, []status.Process{}
	s.Counters.Binds = map[string]uint64{}
	p.loop.AddStatus(ctx, s)
	p.loop.AddCounters(&s.Counters)
	if p.provisioning != nil {
		p.provisioning.AddStatus(ctx, s)
		p.provisioning.AddCounters(&s.Counters)
	}
}
