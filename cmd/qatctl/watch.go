// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"qatplugin/internal/status"
	"qatplugin/internal/statusclient"
)

func (a *app) newWatch() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "watch",
		Short: "Show changes of PFs, VFs, resources and checks, one line each, until Ctrl-C",
		Long: `Show each change of a PF, a VF, a resource or a health check in a line, until Ctrl-C.

Changes within a tenth of a second are shown as one. qatctl events --follow shows each event.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.watch(c.Context(), output) },
	}
	outputFlag(c, &output, "json")
	return c
}

func (a *app) watch(ctx context.Context, output string) error {
	var state *watchState
	return a.follow(ctx, []string{status.MessageSnapshot, status.MessageUpdate}, func(m *statusclient.Message) error {
		var u status.Update
		if m.Type == status.MessageSnapshot {
			var s status.Snapshot
			if err := m.Decode(&s); err != nil {
				return err
			}
			if state == nil {
				state = newWatchState(&s)
				if output == "" {
					fmt.Fprintf(a.stderr, "Watching %s, %s and %s. Ctrl-C ends it.\n", count(len(s.PFs), "PF"),
						count(len(s.VFs), "VF"), count(len(s.Resources), "resource"))
				}
				return nil
			}
			u = state.missed(&s)
		} else if err := m.Decode(&u); err != nil {
			return err
		}
		if state == nil {
			return nil // an update without a snapshot before it says nothing
		}
		lines := state.apply(&u)
		if output == "json" {
			return a.printLine(&u)
		}
		for _, l := range lines {
			a.printf("%s  %s  %s\n", clock(u.Time, a.now()), l.subject, a.paint(l.color, l.text))
		}
		return nil
	})
}

// A change is one line of watch.
type change struct {
	subject string
	text    string
	color   color
}

// watchState is the state after the messages so far.
type watchState struct {
	pfs       map[string]status.PF
	vfs       map[string]status.VF
	resources map[string]status.Resource
	processes map[string]status.Process
	checks    map[string]string // check → why it failed
}

func newWatchState(s *status.Snapshot) *watchState {
	w := &watchState{
		pfs:       map[string]status.PF{},
		vfs:       map[string]status.VF{},
		resources: map[string]status.Resource{},
		processes: map[string]status.Process{},
		checks:    map[string]string{},
	}
	u := w.missed(s)
	w.apply(&u)
	return w
}

// missed returns the update that leads to a snapshot.
func (w *watchState) missed(s *status.Snapshot) status.Update {
	u := status.Update{
		Time:      s.Time,
		PFs:       s.PFs,
		VFs:       s.VFs,
		Resources: s.Resources,
		Checks:    s.Checks,
		Loops:     s.Loops,
		Processes: s.Processes,
	}
	exists := map[string]bool{}
	for _, address := range append(addressesOfPFs(s), addressesOfVFs(s)...) {
		exists[address] = true
	}
	for _, address := range slices.Sorted(maps.Keys(w.vfs)) {
		if !exists[address] {
			u.Removed = append(u.Removed, address)
		}
	}
	for _, address := range slices.Sorted(maps.Keys(w.pfs)) {
		if !exists[address] {
			u.Removed = append(u.Removed, address)
		}
	}
	return u
}

// apply applies an update and returns what it changes.
func (w *watchState) apply(u *status.Update) (lines []change) {
	add := func(kind, name, text string, c color) {
		lines = append(lines, change{subject: kind + " " + name, text: text, color: c})
	}
	for _, p := range u.PFs {
		old, known := w.pfs[p.Address]
		w.pfs[p.Address] = p
		if text := pfChange(&old, &p, known); text != "" {
			add("PF", p.Address, text, stateColor(p.Health))
		}
	}
	for _, v := range u.VFs {
		old, known := w.vfs[v.Address]
		w.vfs[v.Address] = v
		if text := vfChange(&old, &v, known); text != "" {
			add("VF", v.Address, text, stateColor(v.State))
		}
	}
	for _, address := range u.Removed {
		if _, isVF := w.vfs[address]; isVF {
			add("VF", address, "is gone", yellow)
		} else if _, isPF := w.pfs[address]; isPF {
			add("PF", address, "is gone", yellow)
		}
		delete(w.vfs, address)
		delete(w.pfs, address)
	}
	for _, p := range u.Processes {
		old, known := w.processes[p.ID]
		w.processes[p.ID] = p
		if !known || old.Health != p.Health {
			add("process", p.ID, explained(p.Health+" in "+p.Resource, p.Reason), stateColor(p.Health))
		}
	}
	for _, r := range u.Resources {
		old, known := w.resources[r.Name]
		w.resources[r.Name] = r
		if text := resourceChange(&old, &r, known); text != "" {
			add("resource", r.Name, text, plain)
		}
	}
	for _, c := range u.Checks {
		old, known := w.checks[c.Name]
		w.checks[c.Name] = c.Err
		switch {
		case known && old == c.Err:
		case c.Err != "":
			add("check", c.Name, "failed: "+c.Err, red)
		case known:
			add("check", c.Name, "passes again", green)
		}
	}
	return lines
}

// explained adds a reason to a text, if there is one.
func explained(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + ": " + reason
}

// arrow returns "a → b" if the two differ, else "".
func arrow(name, a, b string) string {
	if a == b {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s → %s", name, cmp.Or(a, "none"), cmp.Or(b, "none")))
}

// joined joins the texts that are not empty.
func joined(texts ...string) string {
	return strings.Join(slices.DeleteFunc(texts, func(text string) bool { return text == "" }), ", ")
}

func vfChange(old, v *status.VF, known bool) string {
	state := v.State
	if v.Resource != "" {
		state += " in " + v.Resource
	}
	if !known {
		return explained("appeared: "+state, v.Reason)
	}
	before := old.State
	if old.Resource != "" {
		before += " in " + old.Resource
	}
	text := joined(arrow("", before, state), arrow("driver", old.Driver, v.Driver), arrow("node", old.Node, v.Node),
		arrow("held by", old.Holder, v.Holder))
	if text == "" && old.Reason == v.Reason {
		return ""
	}
	return explained(cmp.Or(text, state), v.Reason)
}

func pfChange(old, p *status.PF, known bool) string {
	reason := cmp.Or(p.Reason, p.ReadErr, p.Withdrawn)
	if !known {
		return explained("appeared: "+joined(p.Family, p.State, p.Services, p.Health), reason)
	}
	text := joined(
		arrow("", old.Health, p.Health),
		arrow("state", old.State, p.State),
		arrow("services", old.Services, p.Services),
		arrow("resource", old.Resource, p.Resource),
		arrow("driver", old.Driver, p.Driver),
		arrow("VFs", fmt.Sprint(old.VFs), fmt.Sprint(p.VFs)),
	)
	if text == "" && cmp.Or(old.Reason, old.ReadErr, old.Withdrawn) == reason {
		return ""
	}
	return explained(cmp.Or(text, p.Health), reason)
}

func resourceChange(old, r *status.Resource, known bool) string {
	numbers := func(r *status.Resource) string {
		return fmt.Sprintf("%s, %d healthy", count(r.Devices, "device"), r.Healthy)
	}
	if !known {
		return explained(numbers(r)+", "+phaseText(r), r.Err)
	}
	text := arrow("", numbers(old), numbers(r))
	if old.Phase != r.Phase {
		text = joined(text, phaseText(r))
	}
	if old.Err == r.Err {
		return text
	}
	return explained(cmp.Or(text, phaseText(r)), r.Err)
}
