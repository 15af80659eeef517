// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"qatplugin/internal/status"
	"qatplugin/internal/statusclient"
)

// maxEvents is how many events describe shows of a function at most.
const maxEvents = 10

func (a *app) newDescribe() *cobra.Command {
	var output string
	var check bool
	c := &cobra.Command{
		Use:   "describe ADDRESS...",
		Short: "Show every fact of a PF or VF, why it is listed or not, and what to do",
		Long: `Show every fact of PFs and VFs, why the kubelet may give them to pods or not, and what to do.

An address may be short: 6b:00.1 is 0000:6b:00.1, if there is no such address in another domain.`,
		Example: `  qatctl describe 6b:00.1
  qatctl describe --check 0000:6b:00.1 && echo usable`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("describe: name the address of a PF or VF, such as 0000:6b:00.1")
			}
			return nil
		},
		ValidArgsFunction: a.completeDevices,
		RunE: func(c *cobra.Command, args []string) error {
			return a.describe(c.Context(), args, output, check)
		},
	}
	a.hostFlags(c)
	outputFlag(c, &output, "json", "yaml")
	c.Flags().BoolVar(&check, "check", false, "exit with status 1 if a VF cannot be allocated, or not all VFs of a PF")
	return c
}

func (a *app) describe(ctx context.Context, names []string, output string, check bool) error {
	s, err := a.snapshot(ctx)
	if err != nil {
		return err
	}
	known := slices.Concat(addressesOfPFs(s), addressesOfVFs(s), unreadable(s))
	var list []*description
	for _, name := range names {
		address, err := findAddress(name, known)
		if err != nil {
			return err
		}
		list = append(list, describe(s, address))
	}
	if !s.Started.IsZero() { // a plugin runs
		a.addEvents(ctx, list)
		a.addTelemetry(ctx, list)
	}
	if output != "" {
		if err := a.print(output, list); err != nil {
			return err
		}
	} else {
		for i, d := range list {
			if i > 0 {
				a.printf("\n")
			}
			a.printDescription(s, d)
		}
	}
	if check && slices.ContainsFunc(list, func(d *description) bool { return !d.OK }) {
		return errWrong
	}
	return nil
}

// addEvents adds the last events of each function, if the plugin has them.
func (a *app) addEvents(ctx context.Context, list []*description) {
	var events []status.Event
	if a.ask(ctx, func(ctx context.Context, c *statusclient.Client) (err error) {
		events, err = c.Events(ctx, allEvents)
		return err
	}) != nil {
		return // the facts are there
	}
	sortByTime(events)
	for _, d := range list {
		address := d.address()
		for i := range events {
			if e := &events[i]; e.Device == address || slices.Contains(e.Devices, address) {
				d.Events = append(d.Events, *e)
			}
		}
		d.Events = d.Events[max(0, len(d.Events)-maxEvents):]
	}
}

// addTelemetry adds the counters of each PF, if the plugin can read them.
func (a *app) addTelemetry(ctx context.Context, list []*description) {
	if !slices.ContainsFunc(list, func(d *description) bool { return d.PF != nil }) {
		return
	}
	var telemetry []status.Telemetry
	if a.ask(ctx, func(ctx context.Context, c *statusclient.Client) (err error) {
		telemetry, err = c.Telemetry(ctx)
		return err
	}) != nil {
		return // the facts are there
	}
	for _, d := range list {
		if d.PF != nil {
			d.Telemetry = findTelemetry(telemetry, d.PF.Address)
		}
	}
}

func (d *description) address() string {
	if d.VF != nil {
		return d.VF.Address
	}
	return d.PF.Address
}

// nameWidth is the width of the names of facts.
const nameWidth = 14

// fact prints a name and a value, which may need several lines.
func (a *app) fact(name, value string, c color) {
	for i, line := range wrap(value, max(a.width(), 40)-nameWidth-2) {
		if i > 0 {
			name = ""
		}
		a.printf("  %-*s%s\n", nameWidth, name, a.paint(c, line))
	}
}

// facts prints names and values, those that have a value.
func (a *app) facts(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			a.fact(pairs[i], pairs[i+1], plain)
		}
	}
}

func (a *app) printDescription(s *status.Snapshot, d *description) {
	explain := func() { a.facts("Explanation", d.Explanation, "What to do", d.Advice) }
	switch {
	case d.VF != nil && d.VF.Family == "":
		a.printf("%s\n", a.paint(bold, "Function "+d.VF.Address))
		explain()
	case d.VF != nil:
		a.printf("%s\n", a.paint(bold, "VF "+d.VF.Address))
		a.fact("State", d.VF.State, stateColor(d.VF.State))
		explain()
		a.printf("\n")
		a.vfFacts(s, d.VF)
	default:
		a.printf("%s\n", a.paint(bold, "PF "+d.PF.Address))
		a.fact("Health", d.PF.Health, stateColor(d.PF.Health))
		explain()
		a.printf("\n")
		a.pfFacts(s, d.PF)
		a.telemetryFacts(d.Telemetry)
	}
	if len(d.Events) > 0 {
		a.printf("\n  Last events:\n")
		for i := range d.Events {
			a.printf("    %s\n", cut(a.eventLine(&d.Events[i], a.now()), max(a.width(), 40)-4))
		}
	}
}

func (a *app) vfFacts(s *status.Snapshot, v *status.VF) {
	a.facts(
		"Resource", v.Resource,
		"Family", fmt.Sprintf("%s (device ID %s)", v.Family, v.DeviceID),
		"Driver", cmp.Or(v.Driver, "none"),
		"Device node", cmp.Or(v.Node, "none"),
		"IOMMU group", cmp.Or(strings.TrimPrefix(iommuGroup(v), "-"), "none"),
		"NUMA node", cmp.Or(strings.TrimPrefix(numaNode(v.NUMANode), "-"), "unknown"),
		"Held by", cmp.Or(strings.Join(claimsOf(s.DRA, v.Address, a.now()), "; "), v.Holder),
	)
	if v.PF != "" {
		a.fact("PF", strings.TrimPrefix(pfTitle(s, v.PF), "PF "), plain)
	}
}

func (a *app) pfFacts(s *status.Snapshot, p *status.PF) {
	vfs := strconv.Itoa(p.VFs)
	if p.TotalVFs > 0 {
		vfs += " of " + strconv.Itoa(p.TotalVFs)
	}
	heartbeat := ""
	if h := &p.Heartbeat; h.Last != "" {
		heartbeat = fmt.Sprintf("%s; %d good, %d failed", h.Last, h.Good, h.Failed)
		if h.LastAt != nil {
			heartbeat += "; last " + a.ago(*h.LastAt)
		}
	}
	a.facts(
		"Family", fmt.Sprintf("%s (device ID %s)", p.Family, p.DeviceID),
		"Driver", cmp.Or(p.Driver, "none"),
		"State", p.State,
		"Services", p.Services,
		"Resource", p.Resource,
		"VFs", vfs,
		"NUMA node", cmp.Or(strings.TrimPrefix(numaNode(p.NUMANode), "-"), "unknown"),
		"Heartbeat", heartbeat,
	)
	if r := provisionedPF(s, p.Address); r != nil {
		a.facts("Rule", r.Rule, "Provisioning", strings.TrimSuffix(r.State+": "+r.Reason, ": "))
	}
}

// telemetryFacts prints the counters of a PF.
func (a *app) telemetryFacts(t *status.Telemetry) {
	if t == nil {
		return
	}
	a.facts(
		"RAS errors", counts(t.RAS, "correctable", "nonfatal", "fatal"),
		"PCIe errors", counts(t.AER, "correctable", "nonfatal", "fatal"),
	)
	if t.CompressErrors != nil {
		a.fact("CNV errors", strconv.FormatUint(sum(t.CompressErrors), 10), plain)
	}
	if len(t.Firmware) > 0 {
		requests, responses := uint64(0), uint64(0)
		for _, e := range t.Firmware {
			requests, responses = requests+e.Requests, responses+e.Responses
		}
		a.fact("Firmware", fmt.Sprintf("%d requests, %d responses", requests, responses), plain)
	}
	if d := t.Device; d != nil {
		cells := deviceCells(t)
		a.facts(
			"Bandwidth", cells[0].text+" in, "+cells[1].text+" out",
			"Latency", cells[2].text,
			"Utilization", utilizations(d.Utilization, len(d.Utilization)),
		)
	}
}

// counts returns the numbers with these names, or "" if there are none.
func counts(numbers map[string]uint64, names ...string) string {
	var texts []string
	for _, name := range names {
		if n, ok := numbers[name]; ok {
			texts = append(texts, fmt.Sprintf("%d %s", n, name))
		}
	}
	return strings.Join(texts, ", ")
}

func sum(numbers map[string]uint64) (n uint64) {
	for _, number := range numbers {
		n += number
	}
	return n
}
