// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"cmp"
	"slices"

	"qatplugin/internal/status"
)

// Snapshot describes the configuration in force and the PFs that have a rule. Hosts have few PFs,
// so it does all of it at once.
func (m *mode) Snapshot() func(s *status.Snapshot, skipped map[string]string) {
	p := &status.Provisioning{Err: m.configErr, PFs: []status.ProvisionedPF{}}
	if m.config != nil {
		p.File = m.config.File()
	}
	for a, pf := range m.pfs {
		if pf.desired == nil {
			continue
		}
		described := status.ProvisionedPF{Address: a.String(), Rule: pf.rule, Reason: m.skipped[a.String()]}
		described.State = pf.state(described.Reason)
		if described.State == status.ProvisioningWaiting {
			described.Reason = cmp.Or(described.Reason, "the kubelet is asked which VFs pods hold")
		}
		if described.State == status.ProvisioningDone && m.cfg.Writer.DryRun() && pf.logged != "" {
			described.State, described.Reason = status.ProvisioningWaiting, "dry run: would write "+pf.logged
		}
		p.PFs = append(p.PFs, described)
	}
	slices.SortFunc(p.PFs, func(a, b status.ProvisionedPF) int { return cmp.Compare(a.Address, b.Address) })
	return func(s *status.Snapshot, _ map[string]string) { s.Provisioning = p }
}

// state returns the state of a PF that has a rule. reason is why it is not as its rule wants, or
// "".
func (p *pf) state(reason string) string {
	switch {
	case p.removal.waiting != "", p.waits, p.job != nil && p.job.onlyAsk:
		return status.ProvisioningWaiting
	case p.job != nil:
		return status.ProvisioningRunning
	case reason == "":
		return status.ProvisioningDone
	}
	return status.ProvisioningFailed
}
