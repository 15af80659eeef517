// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"qatplugin/internal/status"
)

// What list can list.
const (
	listVFs       = "vfs"
	listPFs       = "pfs"
	listResources = "resources"
	listProcesses = "processes"
	listSlices    = "slices"
	listClaims    = "claims"
)

// listOptions are the values of the flags of list.
type listOptions struct {
	output   string
	groupBy  string
	resource string
	state    string
	pf       string
}

func (a *app) newList() *cobra.Command {
	o := &listOptions{groupBy: "pf"}
	kinds := []string{listVFs, listPFs, listResources, listProcesses, listSlices, listClaims}
	c := &cobra.Command{
		Use:     "list [vfs|pfs|resources|processes|slices|claims]",
		Aliases: []string{"ls", "get"},
		Short:   "List VFs with their states, or PFs, resources, processes, slices or claims",
		Long: `List the VFs of the host, each with its state, its resource and the reason if it is not listed at
the kubelet; or the PFs, the resources, or the processes of mode kernel. Of a DRA driver, list its
ResourceSlices or the claims that are prepared.

The states of a VF:
  listed     the kubelet may give it to a pod
  unhealthy  it is listed, and the kubelet gives it to no pod
  binding    it is being bound, or its device node has not appeared yet
  skipped    it is not listed

JSON and YAML are lists of the objects of the plugin's status.`,
		Example: `  qatctl list
  qatctl list --state skipped --pf 6b:00.0
  qatctl list pfs -o wide
  qatctl list -o json | jq -r '.[] | select(.state == "unhealthy") | .address'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && !slices.Contains(kinds, args[0]) {
				return fmt.Errorf("list %s: must be %s", strings.Join(args, " "), alternatives(kinds))
			}
			return nil
		},
		ValidArgs: kinds,
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.snapshot(c.Context())
			if err != nil {
				return err
			}
			what := listVFs
			if s.Mode == "kernel" {
				what = listProcesses
			}
			if len(args) > 0 {
				what = args[0]
			}
			return a.list(s, what, o)
		},
	}
	a.hostFlags(c)
	outputFlag(c, &o.output, "wide", "json", "yaml", "name")
	flags := c.Flags()
	groups := []string{"pf", "resource"}
	flags.Var(&choice{&o.groupBy, groups}, "group-by", "`what` the table of VFs is grouped by: "+alternatives(groups))
	flags.StringVar(&o.resource, "resource", "", "only those of the `resource`, with or without the namespace")
	flags.StringVar(&o.pf, "pf", "", "only those of the PF at the `address`")
	states := []string{status.StateListed, status.StateUnhealthy, status.StateBinding, status.StateSkipped}
	flags.Var(&choice{&o.state, states}, "state", "only VFs in the `state`: "+alternatives(states))
	complete(c, "group-by", cobra.FixedCompletions(groups, cobra.ShellCompDirectiveNoFileComp))
	complete(c, "state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	complete(c, "resource", a.completeResources)
	complete(c, "pf", a.completePFs)
	return c
}

// list prints one kind of objects.
func (a *app) list(s *status.Snapshot, what string, o *listOptions) error {
	if o.pf != "" {
		var err error
		if o.pf, err = findPF(s, o.pf); err != nil {
			return fmt.Errorf("--pf: %w", err)
		}
	}
	if o.resource != "" && !slices.Contains(resourcesOf(s), baseName(o.resource)) {
		return fmt.Errorf("--resource: no resource %q: there are %s", o.resource,
			cmp.Or(strings.Join(resourcesOf(s), ", "), "none"))
	}
	switch what {
	case listPFs:
		list := filter(s.PFs, func(p *status.PF) bool {
			return (o.pf == "" || p.Address == o.pf) && (o.resource == "" || p.Resource == baseName(o.resource))
		})
		return printList(a, list, o, func(p *status.PF) string { return p.Address },
			func(list []status.PF, wide bool) *table { return pfTable(s, list, wide) })
	case listResources:
		list := filter(s.Resources, func(r *status.Resource) bool {
			return o.resource == "" || baseName(r.Name) == baseName(o.resource)
		})
		return printList(a, list, o, func(r *status.Resource) string { return r.Name }, a.resourceTable)
	case listProcesses:
		list := filter(s.Processes, func(p *status.Process) bool {
			return o.resource == "" || baseName(p.Resource) == baseName(o.resource)
		})
		return printList(a, list, o, func(p *status.Process) string { return p.ID }, processTable)
	case listSlices, listClaims:
		return a.listDRA(s.DRA, what, o)
	}
	list := filter(s.VFs, func(v *status.VF) bool {
		return (o.pf == "" || v.PF == o.pf) && (o.state == "" || v.State == o.state) &&
			(o.resource == "" || v.Resource == baseName(o.resource))
	})
	return printList(a, list, o, func(v *status.VF) string { return v.Address },
		func(list []status.VF, wide bool) *table {
			if o.state != "" || o.resource != "" || o.groupBy == "resource" {
				return vfTable(s, list, nil, o.groupBy, wide)
			}
			without := filter(s.PFs, func(p *status.PF) bool {
				return (o.pf == "" || p.Address == o.pf) &&
					!slices.ContainsFunc(list, func(v status.VF) bool { return v.PF == p.Address })
			})
			t := vfTable(s, list, without, o.groupBy, wide)
			if o.pf == "" {
				t.addUnreadable(s)
			}
			return t
		})
}

// printList prints a list in the format of o.
func printList[T any](a *app, list []T, o *listOptions, name func(*T) string, build func([]T, bool) *table) error {
	switch o.output {
	case "json", "yaml":
		return a.print(o.output, list)
	case "name":
		for i := range list {
			a.printf("%s\n", name(&list[i]))
		}
		return nil
	}
	wide, limit := o.output == "wide", a.width()
	if wide {
		limit = 0
	}
	switch t := build(list, wide); {
	case len(t.rows) > 0:
		a.printTable(t, limit)
	case o.pf == "" && o.state == "" && o.resource == "":
		fmt.Fprintln(a.stderr, "Nothing found. To check how the host is set up, run: qatctl doctor")
	default:
		fmt.Fprintln(a.stderr, "Nothing found.")
	}
	return nil
}

// filter returns the elements that keep accepts. The list is never nil, so its JSON is [].
func filter[T any](list []T, keep func(*T) bool) []T {
	kept := []T{}
	for i := range list {
		if keep(&list[i]) {
			kept = append(kept, list[i])
		}
	}
	return kept
}

// vfTable returns the table of VFs, in groups. The PFs without VFs, which must be sorted, have a
// line each.
func vfTable(s *status.Snapshot, list []status.VF, without []status.PF, groupBy string, wide bool) *table {
	t := &table{header: []string{"VF", "STATE", "RESOURCE", "DRIVER", "NUMA", "NOTE"}}
	if groupBy == "resource" {
		t.header[2] = "PF"
	}
	if wide {
		t.header = slices.Insert(t.header, 5, "FAMILY", "ID", "GROUP", "NODE", "HELD BY")
	}
	key := func(v *status.VF) string { return v.PF }
	title := func(v *status.VF) string { return pfTitle(s, v.PF) }
	if groupBy == "resource" {
		key = func(v *status.VF) string { return cmp.Or(v.Resource, "~") } // those without one are last
		title = func(v *status.VF) string { return resourceTitle(s, v.Resource) }
	}
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(x, y status.VF) int { return cmp.Compare(key(&x), key(&y)) })
	addWithout := func(before string) {
		for len(without) > 0 && without[0].Address < before {
			t.add(cell{pfTitle(s, without[0].Address), bold})
			without = without[1:]
		}
	}
	for i := range sorted {
		v := &sorted[i]
		if i == 0 || key(v) != key(&sorted[i-1]) {
			addWithout(v.PF)
			t.add(cell{title(v), bold})
		}
		middle, note := orDash(v.Resource), v.Reason
		if groupBy == "resource" {
			middle = orDash(v.PF)
		}
		if !wide && note == "" && v.Holder != "" {
			note = "held by " + v.Holder
		}
		row := []cell{
			{"  " + v.Address, plain}, {v.State, stateColor(v.State)}, {middle, plain}, {orDash(v.Driver), plain},
			{numaNode(v.NUMANode), plain},
		}
		if wide {
			row = append(row, cell{v.Family, plain}, cell{v.DeviceID, plain}, cell{iommuGroup(v), plain},
				cell{orDash(v.Node), plain}, cell{orDash(v.Holder), plain})
		}
		t.add(append(row, cell{note, plain})...)
	}
	addWithout("~") // after each address
	return t
}

// addUnreadable adds the functions that could not be read.
func (t *table) addUnreadable(s *status.Snapshot) {
	for i, address := range unreadable(s) {
		if i == 0 {
			t.add(cell{"Functions that cannot be read", bold})
		}
		row := []cell{{"  " + address, plain}, {status.StateSkipped, stateColor(status.StateSkipped)}}
		for range len(t.header) - len(row) - 1 {
			row = append(row, cell{"-", plain})
		}
		t.add(append(row, cell{skipReason(s, address), plain})...)
	}
}

// pfTitle describes a PF and its VFs in one line.
func pfTitle(s *status.Snapshot, address string) string {
	if address == "" {
		return "VFs without a PF"
	}
	i := slices.IndexFunc(s.PFs, func(p status.PF) bool { return p.Address == address })
	if i < 0 {
		return "PF " + address + " (unknown)"
	}
	p := &s.PFs[i]
	usable := 0
	for j := range s.VFs {
		if s.VFs[j].PF == address && s.VFs[j].State == status.StateListed {
			usable++
		}
	}
	facts := []string{p.Family}
	for _, fact := range []string{p.State, p.Services} {
		if fact != "" {
			facts = append(facts, fact)
		}
	}
	title := fmt.Sprintf("PF %s (%s): ", address, strings.Join(facts, ", "))
	if p.VFs == 0 {
		return title + "no VFs"
	}
	return title + fmt.Sprintf("%d of %s can be allocated", usable, count(p.VFs, "VF"))
}

// resourceTitle describes a resource in one line.
func resourceTitle(s *status.Snapshot, name string) string {
	if name == "" {
		return "In no resource"
	}
	r := findResource(s, name)
	if r == nil {
		return name
	}
	return fmt.Sprintf("%s: %s, %d healthy, %s", r.Name, count(r.Devices, "device"), r.Healthy, phaseText(r))
}

// phaseText describes what the kubelet does with a resource.
func phaseText(r *status.Resource) string {
	switch r.Phase {
	case status.PhaseWatching:
		return "the kubelet follows the list"
	case status.PhaseRegistered:
		return "the kubelet has not asked for the list yet"
	case status.PhaseLost:
		return "the kubelet does not follow the list"
	case status.PhaseFailed:
		return "the kubelet refused the registration"
	case status.PhaseRegistering:
		return "the kubelet has not answered the registration"
	}
	return "not registered with a kubelet"
}

func pfTable(s *status.Snapshot, list []status.PF, wide bool) *table {
	t := &table{header: []string{"PF", "FAMILY", "NUMA", "STATE", "SERVICES", "RESOURCE", "VFS", "HEALTH", "NOTE"}}
	if wide {
		t.header = slices.Insert(t.header, 8, "DRIVER", "ID", "HEARTBEAT", "GOOD", "FAILED")
	}
	for i := range list {
		p := &list[i]
		vfs := strconv.Itoa(p.VFs)
		if p.TotalVFs > 0 {
			vfs += "/" + strconv.Itoa(p.TotalVFs)
		}
		row := []cell{
			{p.Address, plain}, {p.Family, plain}, {numaNode(p.NUMANode), plain}, {orDash(p.State), plain},
			{orDash(p.Services), plain}, {orDash(p.Resource), plain}, {vfs, plain}, {p.Health, stateColor(p.Health)},
		}
		if wide {
			h := &p.Heartbeat
			row = append(row, cell{orDash(p.Driver), plain}, cell{p.DeviceID, plain}, cell{orDash(h.Last), plain},
				cell{strconv.FormatUint(h.Good, 10), plain}, cell{strconv.FormatUint(h.Failed, 10), plain})
		}
		note := cmp.Or(p.Reason, p.ReadErr, p.Withdrawn)
		if r := provisionedPF(s, p.Address); note == "" && r != nil && r.State != status.ProvisioningDone {
			note = explained("provisioning "+r.State, r.Reason)
		}
		t.add(append(row, cell{note, plain})...)
	}
	return t
}

func (a *app) resourceTable(list []status.Resource, wide bool) *table {
	t := &table{header: []string{"RESOURCE", "DEVICES", "HEALTHY", "KUBELET", "LISTS", "ALLOCATED", "FAILED", "NOTE"}}
	if wide {
		t.header = slices.Insert(t.header, 7, "STREAMS", "BYTES", "LAST LIST")
	}
	for i := range list {
		r := &list[i]
		phase := plain
		if r.Phase != status.PhaseWatching {
			phase = yellow
		}
		row := []cell{
			{r.Name, plain}, {strconv.Itoa(r.Devices), plain}, {strconv.Itoa(r.Healthy), plain}, {r.Phase, phase},
			{strconv.FormatUint(r.Lists, 10), plain}, {strconv.FormatUint(r.Allocated, 10), plain},
			{strconv.FormatUint(r.Failed, 10), plain},
		}
		if wide {
			last := "-"
			if r.LastList != nil {
				last = age(a.now().Sub(*r.LastList)) + " ago"
			}
			row = append(row, cell{strconv.Itoa(r.Streams), plain}, cell{strconv.FormatUint(r.Bytes, 10), plain},
				cell{last, plain})
		}
		t.add(append(row, cell{r.Err, plain})...)
	}
	return t
}

func processTable(list []status.Process, _ bool) *table {
	t := &table{header: []string{"PROCESS", "RESOURCE", "HEALTH", "NOTE"}}
	for i := range list {
		p := &list[i]
		t.add(cell{p.ID, plain}, cell{p.Resource, plain}, cell{p.Health, stateColor(p.Health)}, cell{p.Reason, plain})
	}
	return t
}

func stateColor(state string) color {
	switch state {
	case status.StateListed, status.Healthy:
		return green
	case status.StateUnhealthy:
		return red
	}
	return yellow
}

func orDash(text string) string { return cmp.Or(text, "-") }

func numaNode(n int) string {
	if n < 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func iommuGroup(v *status.VF) string {
	if v.IOMMUGroup == nil {
		return "-"
	}
	return strconv.Itoa(*v.IOMMUGroup)
}

// baseName returns the name of a resource without the namespace.
func baseName(resource string) string { return resource[strings.LastIndex(resource, "/")+1:] }

// findResource returns the resource with a name, with or without the namespace, or nil.
func findResource(s *status.Snapshot, name string) *status.Resource {
	for i := range s.Resources {
		if baseName(s.Resources[i].Name) == baseName(name) {
			return &s.Resources[i]
		}
	}
	return nil
}

// resourcesOf returns the names of all resources, without the namespace.
func resourcesOf(s *status.Snapshot) (names []string) {
	for i := range s.Resources {
		names = append(names, baseName(s.Resources[i].Name))
	}
	for i := range s.PFs {
		names = append(names, s.PFs[i].Resource)
	}
	for i := range s.VFs {
		names = append(names, s.VFs[i].Resource)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return slices.DeleteFunc(names, func(n string) bool { return n == "" })
}
