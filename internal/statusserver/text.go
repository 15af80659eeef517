// SPDX-License-Identifier: Apache-2.0

package statusserver

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"qatplugin/internal/status"
)

// maxFailures is the number of past failures that the text names.
const maxFailures = 10

// writeText writes a snapshot for people, and what has failed among the events. What is wrong comes
// first.
func writeText(w io.Writer, s *status.Snapshot, events []status.Event) {
	t := &text{w: w, snapshot: s}
	t.header()
	t.problems()
	t.skipped()
	t.failures(events)
	t.resources()
	t.dra()
	t.pfs()
	t.vfs()
	t.processes()
	t.provisioning()
	t.loops()
	t.counters()
}

// text writes one snapshot.
type text struct {
	w        io.Writer
	snapshot *status.Snapshot
}

func (t *text) printf(format string, args ...any) { fmt.Fprintf(t.w, format, args...) }

// section begins a section with a table, whose first row holds the headings.
func (t *text) section(title string, headings ...any) *table {
	t.printf("\n%s\n", title)
	tab := newTable(t.w)
	if len(headings) > 0 {
		tab.row(headings...)
	}
	return tab
}

// ago returns how long before the snapshot something was.
func (t *text) ago(at *time.Time) string {
	if at == nil {
		return ""
	}
	return duration(t.snapshot.Time.Sub(*at)) + " ago"
}

// duration returns d with its two largest units at most.
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Hour:
		return d.Truncate(time.Second).String()
	case d < 24*time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	default:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

func (t *text) header() {
	s := t.snapshot
	if s.DRA != nil {
		t.printf("QAT DRA driver %s", s.Version)
	} else {
		t.printf("QAT device plugin %s, mode %s", s.Version, s.Mode)
	}
	if s.Node != "" {
		t.printf(", node %s", s.Node)
	}
	t.printf("\n%s, up for %s\n", s.Time.UTC().Format(time.RFC3339), duration(s.Time.Sub(s.Started)))
}

func (t *text) problems() {
	s := t.snapshot
	var list [][]string
	add := func(what, problem string) {
		if problem != "" {
			list = append(list, []string{what, problem})
		}
	}
	for _, c := range s.Checks {
		add("check "+c.Name, c.Err)
	}
	for _, l := range s.Loops {
		add("loop "+l.Name, l.Err)
		add("kernel uevents", l.Uevents)
	}
	for _, r := range s.Resources {
		add("resource "+r.Name, r.Err)
	}
	for _, f := range s.PFs {
		if f.Health != status.Healthy {
			add("PF "+f.Address, cmp.Or(f.Reason, f.Health))
		}
		add("PF "+f.Address, f.ReadErr)
		add("PF "+f.Address, f.Withdrawn)
	}
	if d := s.DRA; d != nil {
		for _, reason := range d.Skipped {
			add("pool "+d.Pool, reason)
		}
		if d.Gone > 0 {
			add("pool "+d.Pool, fmt.Sprintf("devices that claims hold and the host has lost: %d", d.Gone))
		}
	}
	unhealthy := map[string][]string{}
	for _, f := range s.VFs {
		if f.State == status.StateUnhealthy {
			unhealthy[f.Reason] = append(unhealthy[f.Reason], f.Address)
		}
	}
	list = append(list, byReason(unhealthy, "VF", "VFs")...)
	for _, p := range s.Processes {
		if p.Health != status.Healthy {
			add("process "+p.ID, cmp.Or(p.Reason, p.Health))
		}
	}
	if p := s.Provisioning; p != nil {
		add("provisioning", p.Err)
		for _, f := range p.PFs {
			if f.State != status.ProvisioningDone {
				add("PF "+f.Address, "provisioning is "+f.State+": "+f.Reason)
			}
		}
	}
	if len(list) == 0 {
		t.printf("\nNo problems.\n")
		return
	}
	tab := t.section("PROBLEMS")
	for _, row := range list {
		tab.row(row[0], row[1])
	}
	tab.end()
}

// byReason returns a row for each reason, with the number of addresses that share it and the first
// two of them.
func byReason(reasons map[string][]string, one, many string) (rows [][]string) {
	for reason, addresses := range reasons {
		slices.Sort(addresses)
		what := fmt.Sprintf("%s %s", one, addresses[0])
		if n := len(addresses); n > 1 {
			what = fmt.Sprintf("%d %s: %s", n, many, strings.Join(addresses[:2], ", "))
			if n > 2 {
				what += fmt.Sprintf(" and %d more", n-2)
			}
		}
		rows = append(rows, []string{what, reason})
	}
	slices.SortFunc(rows, slices.Compare)
	return rows
}

func (t *text) skipped() {
	reasons := map[string][]string{}
	for _, l := range t.snapshot.Loops {
		for what, reason := range l.Skipped {
			reasons[reason] = append(reasons[reason], what)
		}
	}
	if len(reasons) == 0 {
		return
	}
	tab := t.section("NOT LISTED")
	for _, row := range byReason(reasons, "", "devices") {
		tab.row(strings.TrimSpace(row[0]), row[1])
	}
	tab.end()
}

// failures writes the newest events that are failures, the newest first.
func (t *text) failures(events []status.Event) {
	var list []status.Event
	for _, e := range slices.Backward(events) {
		if e.Err != "" || e.Kind == status.KindDrift || e.Kind == status.KindResync {
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		return
	}
	tab := t.section("PAST FAILURES", "WHEN", "WHAT", "OF", "REASON")
	for _, e := range list[:min(len(list), maxFailures)] {
		of := cmp.Or(e.Resource, e.Device, e.Loop)
		reason := strings.TrimSuffix(e.Text+": "+e.Err, ": ")
		tab.row(t.ago(&e.Time), e.Kind, of, strings.TrimPrefix(reason, ": "))
	}
	tab.end()
}

func (t *text) resources() {
	if t.snapshot.DRA != nil {
		return // the pool has the devices of all resources
	}
	if len(t.snapshot.Resources) == 0 {
		t.printf("\nRESOURCES\n  none: no device can be listed\n")
		return
	}
	tab := t.section("RESOURCES",
		"NAME", "DEVICES", "HEALTHY", "KUBELET", "STREAMS", "LISTS", "LAST LIST", "ALLOCATED", "FAILED CALLS")
	for _, r := range t.snapshot.Resources {
		tab.row(r.Name, r.Devices, r.Healthy, r.Phase, r.Streams, r.Lists, t.ago(r.LastList), r.Allocated, r.Failed)
	}
	tab.end()
}

// dra writes the state of a DRA driver.
func (t *text) dra() {
	d := t.snapshot.DRA
	if d == nil {
		return
	}
	kubelet := "not registered"
	if d.Registered {
		kubelet = "registered"
	}
	tab := t.section("POOL", "NAME", "DRIVER", "DEVICES", "HEALTHY", "GONE", "KUBELET", "RUNTIME")
	tab.row(d.Pool, d.Driver, d.Devices, d.Healthy, d.Gone, kubelet, d.Runtime)
	tab.end()
	if len(d.Slices) > 0 {
		tab = t.section("RESOURCE SLICES", "NAME", "DEVICES", "TAINTED", "GENERATION", "LAST WRITE")
		for i := range d.Slices {
			s := &d.Slices[i]
			tab.row(s.Name, s.Devices, s.Tainted, s.Generation, t.ago(s.Written))
		}
		tab.end()
	}
	if len(d.Claims) > 0 {
		tab = t.section("CLAIMS", "NAME", "PREPARED", "VFS")
		for i := range d.Claims {
			c := &d.Claims[i]
			tab.row(c.Name, t.ago(&c.Prepared), strings.Join(c.Addresses(), " "))
		}
		tab.end()
	}
}

func (t *text) pfs() {
	if len(t.snapshot.PFs) == 0 {
		return
	}
	tab := t.section("PFS",
		"ADDRESS", "FAMILY", "DRIVER", "NUMA", "STATE", "SERVICES", "RESOURCE", "VFS", "HEALTH", "HEARTBEAT")
	for _, f := range t.snapshot.PFs {
		vfs := strconv.Itoa(f.VFs)
		if f.TotalVFs > 0 {
			vfs += " of " + strconv.Itoa(f.TotalVFs)
		}
		heartbeat := f.Heartbeat.Last
		if heartbeat != "" {
			heartbeat = fmt.Sprintf("%s %s, %d good, %d failed",
				heartbeat, t.ago(f.Heartbeat.LastAt), f.Heartbeat.Good, f.Heartbeat.Failed)
		}
		tab.row(f.Address, f.Family, f.Driver, numaNode(f.NUMANode), f.State, f.Services, f.Resource, vfs,
			f.Health, heartbeat)
	}
	tab.end()
}

func (t *text) vfs() {
	if len(t.snapshot.VFs) == 0 {
		return
	}
	tab := t.section("VFS",
		"ADDRESS", "PF", "DRIVER", "NUMA", "NODE", "STATE", "RESOURCE", "HOLDER", "REASON")
	for _, f := range t.snapshot.VFs {
		tab.row(f.Address, f.PF, f.Driver, numaNode(f.NUMANode), f.Node, f.State, f.Resource, f.Holder, f.Reason)
	}
	tab.end()
}

// numaNode returns a NUMA node, or "" if it is unknown.
func numaNode(n int) string {
	if n < 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func (t *text) processes() {
	if len(t.snapshot.Processes) == 0 {
		return
	}
	tab := t.section("PROCESSES", "ID", "RESOURCE", "HEALTH", "REASON")
	for _, p := range t.snapshot.Processes {
		tab.row(p.ID, p.Resource, p.Health, p.Reason)
	}
	tab.end()
}

func (t *text) provisioning() {
	p := t.snapshot.Provisioning
	if p == nil {
		return
	}
	t.printf("\nPROVISIONING\n  configuration: %s\n", cmp.Or(p.File, "none"))
	if len(p.PFs) == 0 {
		return
	}
	tab := newTable(t.w)
	tab.row("ADDRESS", "STATE", "RULE", "REASON")
	for _, f := range p.PFs {
		tab.row(f.Address, f.State, f.Rule, f.Reason)
	}
	tab.end()
}

func (t *text) loops() {
	s := t.snapshot
	tab := t.section("EVENT LOOPS",
		"NAME", "COMPLETE", "MISSES EVENTS", "NEXT AUDIT", "TURNS", "RESYNCS", "AUDITS", "DRIFT")
	for _, l := range s.Loops {
		c, next := s.Counters.Loops[l.Name], "never"
		if l.NextAudit != nil {
			next = "in " + duration(l.NextAudit.Sub(s.Time))
		}
		tab.row(l.Name, yes(l.Complete), yes(l.MayMissEvents), next, c.Turns, c.Resyncs, c.Audits, c.Drift)
	}
	tab.end()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (t *text) counters() {
	c := t.snapshot.Counters
	t.printf("\nSINCE THE START\n")
	var uevents uint64
	var kinds []string
	for _, action := range slices.Sorted(maps.Keys(c.Uevents)) {
		for _, subsystem := range slices.Sorted(maps.Keys(c.Uevents[action])) {
			n := c.Uevents[action][subsystem]
			uevents += n
			kinds = append(kinds, fmt.Sprintf("%d %s %s", n, subsystem, action))
		}
	}
	var binds []string
	for _, result := range slices.Sorted(maps.Keys(c.Binds)) {
		binds = append(binds, fmt.Sprintf("%d %s", c.Binds[result], result))
	}
	tab := newTable(t.w)
	tab.row("uevents", strings.TrimSuffix(fmt.Sprintf("%d: %s", uevents, strings.Join(kinds, ", ")), ": "))
	tab.row("uevents dropped", fmt.Sprintf("%d, in %d overflows of the buffer", c.Dropped, c.Overflows))
	tab.row("messages rejected", fmt.Sprintf("%d not of the kernel, %d malformed", c.Rejected, c.Malformed))
	tab.row("inotify events", c.Inotify)
	tab.row("attempts to bind", cmp.Or(strings.Join(binds, ", "), "none"))
	tab.end()
}

// A table aligns columns.
type table struct {
	w       io.Writer
	aligned bytes.Buffer
	columns *tabwriter.Writer
}

func newTable(w io.Writer) *table {
	t := &table{w: w}
	t.columns = tabwriter.NewWriter(&t.aligned, 0, 0, 2, ' ', 0)
	return t
}

// row writes a row. It shows "-" for an empty cell, except for those at the end.
func (t *table) row(cells ...any) {
	var words []string
	for _, cell := range cells {
		words = append(words, fmt.Sprint(cell))
	}
	for i := range words {
		if words[i] == "" && slices.ContainsFunc(words[i:], func(later string) bool { return later != "" }) {
			words[i] = "-"
		}
	}
	// A cell that no tab ends would end its column for the rows below it.
	fmt.Fprintf(t.columns, "  %s\t\n", strings.Join(words, "\t"))
}

// end writes the table.
func (t *table) end() {
	_ = t.columns.Flush()
	for line := range strings.Lines(t.aligned.String()) {
		fmt.Fprintln(t.w, strings.TrimRight(line, " \n"))
	}
}
