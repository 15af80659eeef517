// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/provision/config"
)

// inBubbles checks a property often, each time in a bubble of its own. The plugin has ended after
// each check.
func inBubbles(t *testing.T, property func(*rapid.T, *rig)) {
	dir := t.TempDir()
	var logFirst sync.Once // rapid may not be able to repeat a failure, because goroutines are involved
	check := func(check *rapid.T) {
		var failure any // a failed check panics, in the goroutine of the bubble
		synctest.Test(t, func(*testing.T) {
			r := newRig(check, dir)
			defer func() { failure = recover() }()
			defer r.stop()
			property(check, r)
		})
		if failure != nil {
			logFirst.Do(func() { t.Log(failure) })
			panic(failure)
		}
	}
	for range 5 { // of 100 checks by default
		rapid.Check(t, check)
	}
}

// hostPFs are the addresses and device IDs of PFs of a random host.
var hostPFs = map[string]uint16{"0000:6b:00.0": 0x4940, "0000:70:00.0": 0x4948, "0000:3d:00.0": 0x37c8}

// drawPF draws a PF in any state.
func drawPF(t *rapid.T, a string) *facts {
	f := newPF(a, hostPFs[a])
	if rapid.IntRange(0, 9).Draw(t, "bare") == 0 {
		f.driver = rapid.SampledFrom([]string{"", dpdkDriver}).Draw(t, "driver")
		f.state, f.services, f.autoReset, f.pmIdle = "", "", "", ""
		return f
	}
	f.autoprobe = rapid.SampledFrom([]string{"0", "1", ""}).Draw(t, "autoprobe")
	if f.family.Services {
		f.services = rapid.SampledFrom([]string{"sym;asym", "asym;sym", "dc", "sym"}).Draw(t, "services")
		f.autoReset = rapid.SampledFrom([]string{"on", "off", ""}).Draw(t, "autoReset")
		f.pmIdle = rapid.SampledFrom([]string{"0", "1", ""}).Draw(t, "pmIdle")
		f.state = rapid.SampledFrom([]string{"up", "up", "down"}).Draw(t, "state")
	}
	if f.state != "down" {
		f.setVFs(rapid.SampledFrom([]int{0, f.totalVFs, 2}).Draw(t, "VFs"))
	}
	return f
}

// drawRules draws a configuration.
func drawRules(t *rapid.T) string {
	var rules strings.Builder
	draw := func(label string, values ...string) string { return rapid.SampledFrom(values).Draw(t, label) }
	for range rapid.IntRange(0, 2).Draw(t, "rules") {
		match := draw("match", "{}", `{pfs: ["0000:6b:00.0"]}`, "{families: [6xxx]}", "{families: [c6xx]}")
		lines := []string{"match: " + match}
		if match != "{families: [c6xx]}" {
			lines = append(lines,
				draw("services", "", "services: [dc]", "services: [sym, asym]", "services: [sym, asym, dc]"),
				draw("autoReset", "", "autoReset: true", "autoReset: false"),
				draw("pmIdle", "", "pmIdle: true", "pmIdle: false"))
			if match == `{pfs: ["0000:6b:00.0"]}` {
				lines[1] = strings.Replace(lines[1], ", dc", "", 1)
			}
		}
		lines = append(lines,
			draw("vfs", "", "vfs: all", "vfs: all", "vfs: 0"),
			draw("driver", "", "", "driver: kernel"))
		lines = slices.DeleteFunc(lines, func(s string) bool { return s == "" })
		if len(lines) == 1 {
			lines = append(lines, "vfs: all")
		}
		if slices.Contains(lines, "vfs: 0") {
			lines = slices.DeleteFunc(lines, func(s string) bool { return s == "driver: kernel" })
		}
		fmt.Fprintf(&rules, "- %s\n", strings.Join(lines, "\n  "))
	}
	return rules.String()
}

// differs returns what of a rule a PF does not meet.
func differs(f *facts, d config.Desired) (list []string) {
	check := func(what string, ok bool) {
		if !ok {
			list = append(list, what)
		}
	}
	sorted := func(list []string) string {
		list = slices.Clone(list)
		slices.Sort(list)
		return strings.Join(list, ";")
	}
	check("services", d.Services == nil || sorted(strings.Split(f.services, ";")) == sorted(d.Services))
	onOff := map[bool]string{false: "off", true: "on"}
	check("autoReset", d.AutoReset == nil || f.autoReset == onOff[*d.AutoReset])
	zeroOne := map[bool]string{false: "0", true: "1"}
	check("pmIdle", d.PMIdle == nil || f.pmIdle == zeroOne[*d.PMIdle])
	check("state", !f.family.Services || f.state == "up" || d.Services == nil && d.PMIdle == nil && d.VFs != config.All)
	switch d.VFs {
	case config.All:
		check("VFs", f.numVFs == f.totalVFs)
	case config.None:
		check("VFs", f.numVFs == 0)
	}
	if d.Driver == config.DriverKernel {
		check("driver", !slices.ContainsFunc(f.vfs, func(v vf) bool {
			return v.driver == dpdkDriver || v.driver == "" && f.autoprobe == "0"
		}))
	}
	return list
}

// impossible reports whether the kernel cannot make something of a PF what its rule wants.
func (r *rig) impossible(f *facts, d config.Desired) func(what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	refused := maps.Clone(r.refused[f.address])
	return func(what string) bool {
		if f.driver != f.family.PFDriver() {
			return true
		}
		for w, err := range refused {
			if isRefusal(err) && (w.attribute == attrState || w.attribute == attrNumVFs) {
				return true // nearly everything needs these
			}
		}
		switch what {
		case "services":
			return f.services == "" || f.family.CheckServices(d.Services) != nil ||
				refused[write{attrServices, strings.Join(d.Services, ";")}] != nil
		case "autoReset":
			return f.autoReset == ""
		case "pmIdle":
			return f.pmIdle == ""
		}
		return false
	}
}

// checkGoal fails unless each PF is as its rule wants, or cannot be and is reported.
func (r *rig) checkGoal() {
	r.t.Helper()
	c := r.loaded()
	for _, a := range slices.SortedFunc(maps.Keys(r.pfs), pci.Address.Compare) {
		f := r.get(a)
		d, rule, ok := c.Desired(config.PF{Address: a, NUMANode: f.numaNode, Family: f.family})
		if !ok {
			if reason := r.reason(a); reason != "" {
				r.t.Fatalf("%s has no rule and is reported: %s", a, reason)
			}
			continue
		}
		unmet, impossible := differs(f, d), r.impossible(f, d)
		reported := r.reason(a)
		for _, what := range unmet {
			if !impossible(what) {
				r.t.Fatalf("%s of %s is not as rule %s wants: %+v\nrule: %+v\nreason: %s\nwrites: %q",
					what, a, rule, f, d, reported, r.written())
			}
		}
		if len(unmet) > 0 && reported == "" {
			r.t.Fatalf("%s cannot be what its rule wants (%q), and is not reported: %+v", a, unmet, f)
		}
		if len(unmet) == 0 && reported != "" && f.driver == f.family.PFDriver() {
			r.t.Fatalf("%s is what its rule wants, and is reported: %s\n%+v", a, reported, f)
		}
	}
}

// checkNothingIsWritten fails if the plugin writes although nothing changed: after an event of each
// PF, and after a restart.
func (r *rig) checkNothingIsWritten() {
	r.t.Helper()
	r.written()
	for a := range hostPFs {
		r.event(address(a))
	}
	r.after(time.Hour)
	r.crash()
	r.start()
	r.after(time.Hour)
	for _, w := range r.written() {
		a := address(w[:len("0000:00:00.0")])
		if f := r.get(a); len(r.refused[a]) == 0 {
			r.t.Fatalf("nothing differs, and the plugin writes %s: %+v", w, f)
		}
	}
}

// TestReconcileReachesTheGoal lets things happen to a host, with errors, pods that hold VFs, and
// ends of the plugin between any two writes. When that is over, each PF becomes what its rule
// wants, or is reported. The plugin takes no VF from a pod at any time.
func TestReconcileReachesTheGoal(t *testing.T) {
	inBubbles(t, func(t *rapid.T, r *rig) {
		names := slices.Sorted(maps.Keys(hostPFs))
		drawAddress := func() string { return rapid.SampledFrom(names).Draw(t, "PF") }
		for _, a := range names {
			if f := drawPF(t, a); rapid.Bool().Draw(t, "exists") {
				r.add(f)
				r.bind(f.address)
			}
		}
		r.configure(drawRules(t))
		r.start()
		permanent := func(w write) error {
			return rapid.SampledFrom([]error{unix.EINVAL, unix.EPERM}).Draw(t, "refusal of "+w.String())
		}
		pods := 0
		for range rapid.IntRange(0, 15).Draw(t, "steps") {
			a := drawAddress()
			pf := address(a)
			switch rapid.IntRange(0, 10).Draw(t, "step") {
			case 0:
				r.configure(drawRules(t))
			case 1:
				r.add(drawPF(t, a))
			case 2:
				r.remove(pf)
			case 3: // an administrator, or a reset
				f := drawPF(t, a)
				r.change(pf, func(now *facts) {
					if slices.ContainsFunc(now.vfs, func(v vf) bool { return r.held[v.address] != "" }) {
						return // the kernel waits until pods release the VFs
					}
					f.incarnation = now.incarnation
					*now = *f
				})
			case 4, 5:
				vf := pf
				vf.Function = uint8(rapid.IntRange(1, 4).Draw(t, "VF"))
				pods++
				lag := rapid.SampledFrom([]time.Duration{0, 3 * time.Second}).Draw(t, "lag")
				r.allocate(vf, fmt.Sprint("default/pod", pods), lag)
			case 6:
				vf := pf
				vf.Function = uint8(rapid.IntRange(1, 4).Draw(t, "VF"))
				r.release(vf)
			case 7:
				w := rapid.SampledFrom([]write{
					{attrServices, "dc"}, {attrNumVFs, "4"}, {attrNumVFs, "0"}, {attrState, "down"}, {attrState, "up"},
					{attrServices, "sym;asym"}, {attrAutoprobe, "0"},
				}).Draw(t, "write")
				err := rapid.SampledFrom([]error{unix.EBUSY, unix.EIO, unix.EINVAL}).Draw(t, "error")
				if err == unix.EINVAL {
					err = permanent(w)
				}
				r.mu.Lock()
				if r.refused[pf] == nil {
					r.refused[pf] = map[write]error{}
				}
				if !isRefusal(r.refused[pf][w]) { // the plugin relies on it that a refusal stays
					r.refused[pf][w] = err
				}
				r.mu.Unlock()
			case 8:
				r.mu.Lock()
				r.down = !r.down
				r.mu.Unlock()
			case 9:
				r.crash()
				r.start()
			case 10:
				time.Sleep(time.Duration(rapid.IntRange(0, 30_000).Draw(t, "ms")) * time.Millisecond)
			}
			time.Sleep(time.Duration(rapid.IntRange(0, 20).Draw(t, "pause")) * time.Millisecond)
		}
		r.mu.Lock()
		r.down = false
		clear(r.held)
		clear(r.reported)
		for _, refused := range r.refused {
			maps.DeleteFunc(refused, func(_ write, err error) bool { return !isRefusal(err) })
		}
		r.mu.Unlock()
		r.after(time.Hour)
		if len(r.taken) > 0 {
			t.Fatalf("the plugin took VFs from pods: %q", r.taken)
		}
		r.checkGoal()
		r.checkNothingIsWritten()
		r.checkGoal()
	})
}
