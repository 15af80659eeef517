// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// Changes are printed as one once nothing has happened for quietPeriod, or after maxPeriod.
const (
	quietPeriod = 150 * time.Millisecond
	maxPeriod   = time.Second
)

// printChanges prints the user's own changes of the host until ctx ends.
func printChanges(ctx context.Context, f *fixture, t *timeline) {
	t.text(bold, "Now change the host yourself. In another shell:")
	t.printf("\n  cd %s/bus/pci/devices\n", f.host.Sysfs())
	for _, c := range [][2]string{
		{"echo 0 > " + cyPF + "/sriov_numvfs", "remove the VFs of a PF"},
		{"echo 16 > " + cyPF + "/sriov_numvfs", "create them again"},
		{"echo down > " + dcPF + "/qat/state", "required to change the services"},
		{"echo 'asym;dc' > " + dcPF + "/qat/cfg_services", "another resource, once it is up and has VFs"},
		{"echo " + cyVF + " > ../drivers/vfio-pci/unbind", "the plugin binds it again"},
		{"echo 1 > " + cyPF + "/remove; echo 1 > ../rescan", "remove a PF; it comes back without VFs"},
		{"tail -f " + f.pluginLog(), "the plugin's log"},
		{"qatctl --socket " + f.statusSocket() + " list", "what the plugin knows; make demo builds bin/qatctl"},
	} {
		command := pad(c[0], 50)
		if len(command)+len(c[1])+4 > t.width { // a command must stay on one line, to be copied
			command = c[0] + "\n    "
		}
		t.printf("  %s%s\n", command, t.paint(dim, "# "+c[1]))
	}
	t.printf("\n")
	t.text("", "The demo prints every change. Ctrl-C ends it and removes the directory.")
	t.printf("\n")

	rec, bound, lists := f.recorder.get(), f.bound(), f.kubelet.Lists()
	for {
		select {
		case <-ctx.Done():
			t.printf("\n")
			return
		case <-f.plugin.ended:
			t.println(red, "The plugin has ended.")
			t.log()
			return
		case <-rec.changed:
		}
		f.waitQuiet(ctx)
		now, nowBound, nowLists := f.recorder.get(), f.bound(), f.kubelet.Lists()
		t.change(now.ops[len(rec.ops):], nowBound-bound, lists, nowLists)
		rec, bound, lists = now, nowBound, nowLists
	}
}

// waitQuiet waits for quietPeriod without a change, at most for maxPeriod.
func (f *fixture) waitQuiet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, maxPeriod)
	defer cancel()
	for {
		select {
		case <-f.recorder.get().changed:
		case <-time.After(quietPeriod):
			return
		case <-ctx.Done():
			return
		}
	}
}

// change prints what happened on the host and how the kubelet's lists changed.
func (t *timeline) change(ops []lookalike.Operation, bound int, before, after map[string]kubelettest.List) {
	what, refused := describe(ops, bound)
	var arrived time.Time
	for name, l := range after {
		if l.Time != before[name].Time && l.Time.After(arrived) {
			arrived = l.Time
		}
	}
	if len(what) == 0 && !arrived.IsZero() {
		what = []string{"change of a file"}
	}
	visible := lastVisible(ops, arrived)
	for i, w := range what {
		t.row(w)
		switch {
		case i < len(what)-1 && t.isWide():
			t.printf("\n")
		case i < len(what)-1:
		case visible.IsZero():
			t.list("-", "", healthy(after))
		default:
			t.list(micros(arrived.Sub(visible)), bold, healthy(after))
		}
	}
	for _, r := range refused {
		t.stamp()
		t.println(red, "refused, as a kernel would:")
		t.note(r)
	}
}

// describe describes operations: binds together, the others one by one. bound is by how many the
// number of bound VFs grew.
func describe(ops []lookalike.Operation, bound int) (what, refused []string) {
	binds := 0
	for _, o := range ops {
		switch {
		case o.Err != nil:
			refused = append(refused, o.Err.Error())
		case o.Name == "bind":
			binds++
		default:
			what = append(what, sentence(o))
		}
	}
	if n := max(binds, bound); n > 0 { // VFs may have been bound by the operation that created them
		what = append(what, plural(n, "VF")+" bound to vfio-pci")
	}
	return what, refused
}

func sentence(o lookalike.Operation) string {
	switch o.Name {
	case "set VFs of":
		return fmt.Sprintf("PF %s has %s VFs", o.Target, o.Value)
	case "set state of":
		return fmt.Sprintf("PF %s is %s", o.Target, o.Value)
	case "set services of":
		return fmt.Sprintf("PF %s serves %s", o.Target, o.Value)
	case "remove PF":
		return fmt.Sprintf("PF %s is gone", o.Target)
	case "add PF":
		return fmt.Sprintf("PF %s is back", o.Target)
	case "unbind":
		return fmt.Sprintf("%s is unbound from %s", o.Target, o.Value)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", o.Name, o.Target, o.Value))
}
