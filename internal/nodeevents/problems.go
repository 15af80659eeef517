// SPDX-License-Identifier: Apache-2.0

package nodeevents

import (
	"fmt"
	"slices"
	"time"

	"qatplugin/internal/status"
)

// Times for which a problem must last before it is reported. A PF that is reset, or VFs that are
// just being bound, recover within seconds.
const (
	unhealthyTime = 5 * time.Second
	lastingTime   = 30 * time.Second
)

// A problem is a reason for a Warning Event.
type problem struct {
	key     string        // identifies the problem
	lasts   time.Duration // how long it must last before it is reported
	action  string        // field action of its Events: what the plugin tried
	reason  string        // field reason of the Warning Event
	note    string        // field note of it
	over    string        // field reason of the Normal Event when it is over
	overPF  string        // PF that it concerns; "" none
	overFor string        // what the Normal Event says, if there still is such a PF

	// expected says that the plugin causes it. It is not reported, but a reported problem with the
	// same key is not over either.
	expected bool
}

// notBound are the classes of reasons for which a VF cannot be bound, and which somebody can
// remedy. The others follow from the configuration, or end by themselves.
var notBound = []string{
	status.ClassUnreadable, status.ClassDriverNotLoaded, status.ClassNoIOMMUGroup, status.ClassDenylist,
	status.ClassGroupBlocked, status.ClassBindFailed,
}

// problemsOf returns the problems of a node, in the order of their importance.
func problemsOf(s *status.Snapshot) []problem {
	list := slices.Concat(runtimeProblems(s), ueventProblems(s), pfProblems(s), vfProblems(s))
	return list[:min(len(list), maxProblems)]
}

// programOf returns what the program calls itself.
func programOf(s *status.Snapshot) string {
	if s.DRA != nil {
		return "The QAT DRA driver"
	}
	return "The QAT device plugin"
}

// runtimeProblems returns a problem if pods would run without the devices of their claims.
func runtimeProblems(s *status.Snapshot) []problem {
	if s.DRA == nil || s.DRA.RuntimeErr == "" {
		return nil
	}
	return []problem{{
		key:     "runtime",
		lasts:   unhealthyTime,
		action:  "CheckingRuntime",
		reason:  "QATRuntimeIgnoresClaims",
		note:    "The QAT devices of this node are not offered: " + s.DRA.RuntimeErr,
		over:    "QATRuntimeSupportsClaims",
		overFor: "The container runtime gives containers the QAT devices of their claims",
	}}
}

func ueventProblems(s *status.Snapshot) (list []problem) {
	for _, loop := range s.Loops {
		if loop.Uevents == "" || len(list) > 0 { // all loops receive the same uevents
			continue
		}
		list = append(list, problem{
			key:    "uevents",
			lasts:  lastingTime,
			action: "Listening",
			reason: "QATUeventsNotReceived",
			note: programOf(s) + " does not receive kernel uevents, and reads the host at intervals instead: " +
				loop.Uevents,
			over:    "QATUeventsReceived",
			overFor: programOf(s) + " receives kernel uevents",
		})
	}
	return list
}

func pfProblems(s *status.Snapshot) (list []problem) {
	for _, pf := range s.PFs {
		if pf.Health != status.Unhealthy {
			continue
		}
		note := fmt.Sprintf("QAT device %s (%s) %s", pf.Address, pf.Family, pf.Reason)
		if pf.VFs > 0 {
			note += fmt.Sprintf("; its %d VFs are unhealthy", pf.VFs)
		}
		list = append(list, problem{
			key:     "pf " + pf.Address,
			lasts:   unhealthyTime,
			action:  "CheckingHealth",
			reason:  "QATDeviceUnhealthy",
			note:    note,
			over:    "QATDeviceHealthy",
			overPF:  pf.Address,
			overFor: fmt.Sprintf("QAT device %s (%s) is healthy again", pf.Address, pf.Family),

			// Provisioning takes a PF down on purpose, and withdraws its VFs before.
			expected: pf.Withdrawn != "" && pf.State == "down",
		})
	}
	return list
}

// vfProblems returns one problem for the VFs of each PF and class of reasons.
func vfProblems(s *status.Snapshot) (list []problem) {
	type group struct{ pf, class string }
	vfs := map[group][]status.VF{}
	var groups []group
	for _, vf := range s.VFs {
		if vf.State != status.StateSkipped || !slices.Contains(notBound, vf.Class) {
			continue
		}
		g := group{vf.PF, vf.Class}
		if vfs[g] == nil {
			groups = append(groups, g)
		}
		vfs[g] = append(vfs[g], vf)
	}
	for _, g := range groups {
		of := " of " + g.pf
		if g.pf == "" {
			of = "" // in a guest
		}
		first := vfs[g][0]
		list = append(list, problem{
			key:    "vfs " + g.pf + " " + g.class,
			lasts:  lastingTime,
			action: "Binding",
			reason: "QATDevicesNotBound",
			note: fmt.Sprintf("%d QAT VFs%s cannot be offered to pods, such as %s: %s",
				len(vfs[g]), of, first.Address, first.Reason),
			over:   "QATDevicesBound",
			overPF: g.pf,
			overFor: fmt.Sprintf("The QAT VFs%s that could not be offered to pods are offered, "+
				"or are skipped for another reason", of),
		})
	}
	return list
}

// overNote returns what a Normal Event says when the problem is over.
func (p *problem) overNote(s *status.Snapshot) string {
	if p.overPF != "" && !slices.ContainsFunc(s.PFs, func(pf status.PF) bool { return pf.Address == p.overPF }) {
		return fmt.Sprintf("QAT device %s is gone", p.overPF)
	}
	return p.overFor
}
