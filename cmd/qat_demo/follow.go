package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// calm is how long nothing must have happened before what did is told, as one change.
const calm = 150 * time.Millisecond

// follow tells of the user's own changes until ctx ends.
func follow(ctx context.Context, s *stage, t *timeline) {
	t.say(bold, "Now it is your turn. In another shell:")
	t.printf("\n  cd %s/bus/pci/devices\n", s.host.Sysfs())
	for _, c := range [][2]string{
		{"echo 0 > " + cyPF + "/sriov_numvfs", "its VFs go"},
		{"echo 16 > " + cyPF + "/sriov_numvfs", "and come back"},
		{"echo down > " + dcPF + "/qat/state", "down; then write cfg_services, up, sriov_numvfs"},
		{"echo 'asym;dc' > " + dcPF + "/qat/cfg_services", "what a PF serves names the resource"},
		{"echo " + aVF + " > ../drivers/vfio-pci/unbind", "the plugin binds it again"},
		{"echo 1 > " + cyPF + "/remove; echo 1 > ../rescan", "a PF goes, and is back without VFs"},
		{"tail -f " + s.pluginLog(), "what the plugin says"},
	} {
		t.printf("  %s%s\n", pad(c[0], 60), t.paint(dim, "# "+c[1]))
	}
	t.printf("\nEvery change is told here. Ctrl-C ends the demo and removes the directory.\n\n")

	from, bound, lists := s.record.len(), len(s.host.Bound("vfio-pci")), s.kubelet.Lists()
	for {
		_, _, changed := s.record.counts()
		select {
		case <-ctx.Done():
			t.printf("\n")
			return
		case <-s.plugin.ended:
			t.say(red, "The plugin has ended.")
			t.log()
			return
		case <-changed:
		}
		settle(ctx, s)
		ops := s.record.since(from)
		from += len(ops)
		nowBound, now := len(s.host.Bound("vfio-pci")), s.kubelet.Lists()
		t.change(ops, nowBound-bound, lists, now)
		bound, lists = nowBound, now
	}
}

// settle returns when nothing has happened for a while, or when things have gone on for a second.
func settle(ctx context.Context, s *stage) {
	enough := time.After(time.Second)
	for {
		_, _, changed := s.record.counts()
		select {
		case <-changed:
		case <-time.After(calm):
			return
		case <-enough:
			return
		case <-ctx.Done():
			return
		}
	}
}

// change prints what the host did and what the kubelet came to hold since.
func (t *timeline) change(ops []lookalike.Operation, bound int, before, after map[string]kubelettest.List) {
	what, refused := describe(ops, bound)
	var arrived time.Time
	for name, l := range after {
		if l.Time != before[name].Time && l.Time.After(arrived) {
			arrived = l.Time
		}
	}
	decided := lastBefore(ops, arrived)
	if len(what) == 0 && !arrived.IsZero() {
		what = []string{"nothing that is told here"} // a file of the host was changed by hand
	}
	for i, w := range what {
		t.printf("%s  %s", t.at(time.Now()), pad(w, whatWidth))
		switch {
		case i < len(what)-1:
			t.printf("\n")
		case decided.IsZero():
			t.rest("-", "", listText(healthy(after)))
		default:
			t.rest(micros(arrived.Sub(decided)), bold, listText(healthy(after)))
		}
	}
	for _, r := range refused {
		t.printf("%s  %s\n", t.at(time.Now()), t.paint(red, "refused, as a kernel would:"))
		t.note(r)
	}
}

// lastBefore is the last step of the host that decided something before the list arrived; zero when there is none.
func lastBefore(ops []lookalike.Operation, arrived time.Time) time.Time {
	var last time.Time
	for _, o := range ops {
		if o.Err == nil && o.Visible.After(last) && o.Visible.Before(arrived) {
			last = o.Visible
		}
	}
	return last
}

// describe puts operations into words: all binds together, the others one by one. bound is how many more VFs the driver holds than before.
func describe(ops []lookalike.Operation, bound int) (what, refused []string) {
	binds := 0
	for _, o := range ops {
		switch {
		case o.Err != nil:
			refused = append(refused, o.Err.Error())
		case o.Name == "bind":
			binds++
		default:
			what = append(what, words(o))
		}
	}
	if n := max(binds, bound); n > 0 { // some may be bound within the operation that made them
		what = append(what, plural(n, "VF")+" bound to vfio-pci")
	}
	return what, refused
}

func words(o lookalike.Operation) string {
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
		return fmt.Sprintf("PF %s is there", o.Target)
	case "unbind":
		return fmt.Sprintf("%s is unbound from %s", o.Target, o.Value)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", o.Name, o.Target, o.Value))
}
