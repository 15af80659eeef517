// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"qatplugin/internal/status"
)

func TestListShowsEachVFBelowItsPF(t *testing.T) {
	f := startPlugin(t)
	r := f.qatctl(t, "list").ok(t)
	pf, seen := "", 0
	for _, line := range r.lines()[1:] {
		if rest, ok := strings.CutPrefix(line, "PF "); ok {
			pf, _, _ = strings.Cut(rest, " ")
			continue
		}
		fields := strings.Fields(line)
		i := slices.IndexFunc(f.snapshot.VFs, func(v status.VF) bool { return v.Address == fields[0] })
		if i < 0 {
			t.Errorf("unknown VF in %q", line)
			continue
		}
		seen++
		v := f.snapshot.VFs[i]
		want := []string{v.Address, v.State, orDash(v.Resource), orDash(v.Driver), "0"}
		if pf != v.PF || !slices.Equal(fields[:5], want) {
			t.Errorf("below PF %s: %q, want %q below %s", pf, fields[:5], want, v.PF)
		}
	}
	if seen != len(f.snapshot.VFs) {
		t.Errorf("the table has %d VFs, want %d:\n%s", seen, len(f.snapshot.VFs), r.stdout)
	}
	for part, line := range map[string]string{
		"(4xxx, up, sym;asym): 2 of 5 VFs can be allocated": "PF 0000:6b:00.0",
		"held by default/app-1":                             "0000:6b:00.1",
		"it had a PCI error and is being recovered":         "0000:6b:00.3",
		"…": "0000:6b:00.5", // the reason is longer than the table
	} {
		if line := r.line(t, line); !strings.Contains(line, part) {
			t.Errorf("%q lacks %q", line, part)
		}
	}
}

func TestListShowsPFsWithoutVFs(t *testing.T) {
	f := startPlugin(t)
	const want = "PF 0001:6b:00.0 (4xxx, down): no VFs"
	for args, shown := range map[string]bool{
		"":                    true,
		"--group-by resource": false,
		"--pf 0001:6b:00.0":   true,
		"--pf e8:00.0":        false,
		"--state listed":      false,
		"--resource cy":       false,
	} {
		lines := f.qatctl(t, append([]string{"list"}, strings.Fields(args)...)...).ok(t).lines()
		if slices.Contains(lines, want) != shown {
			t.Errorf("list %s: %q is shown: %v, want %v:\n%s", args, want, !shown, shown, strings.Join(lines, "\n"))
		}
	}
	f.change(func() { f.snapshot.PFs[2].Address = "0000:70:00.0" })
	var pfs []string
	for _, line := range f.qatctl(t, "list").ok(t).lines() {
		if fields := strings.Fields(line); fields[0] == "PF" {
			pfs = append(pfs, fields[1])
		}
	}
	if !slices.IsSorted(pfs) || len(pfs) != 3 {
		t.Errorf("the PFs are in the order %q", pfs)
	}
}

func TestTablesFit100Columns(t *testing.T) {
	f := startPlugin(t)
	for _, args := range []string{
		"list", "list pfs", "list resources", "list --group-by resource", "top --once", "events",
		"describe 6b:00.5 0000:6b:00.0 e8:00.0",
	} {
		for _, line := range f.qatctl(t, strings.Fields(args)...).ok(t).lines() {
			if n := utf8.RuneCountInString(line); n > 100 {
				t.Errorf("qatctl %s: %d columns: %s", args, n, line)
			}
		}
	}
	wide := f.qatctl(t, "list", "-o", "wide").ok(t)
	if reason := f.snapshot.VFs[4].Reason; !strings.Contains(wide.stdout, reason) {
		t.Errorf("the wide table lacks the whole reason %q:\n%s", reason, wide.stdout)
	}
	if fields := strings.Fields(wide.line(t, "0000:6b:00.1")); !slices.Equal(fields, []string{
		"0000:6b:00.1", "listed", "cy", "vfio-pci", "0", "4xxx", "4941", "12", "/dev/vfio/12", "default/app-1",
	}) {
		t.Errorf("the wide row has %q", fields)
	}
}

// TestListPrintsTheObjectsOfTheSnapshot compares JSON and YAML with the snapshot of the plugin.
func TestListPrintsTheObjectsOfTheSnapshot(t *testing.T) {
	f := startPlugin(t)
	for what, want := range map[string]any{
		"vfs":       f.snapshot.VFs,
		"pfs":       f.snapshot.PFs,
		"resources": f.snapshot.Resources,
		"processes": f.snapshot.Processes,
	} {
		text, err := json.Marshal(want)
		must(t, err)
		var wantValue, fromJSON, fromYAML any
		must(t, json.Unmarshal(text, &wantValue))
		must(t, json.Unmarshal([]byte(f.qatctl(t, "list", what, "-o", "json").ok(t).stdout), &fromJSON))
		if diff := cmp.Diff(wantValue, fromJSON); diff != "" {
			t.Errorf("list %s -o json (-snapshot +printed):\n%s", what, diff)
		}
		printed := f.qatctl(t, "list", what, "-o", "yaml").ok(t).stdout
		must(t, yaml.Unmarshal([]byte(printed), &fromYAML))
		text, err = json.Marshal(fromYAML) // so that all numbers have one type
		must(t, err)
		must(t, json.Unmarshal(text, &fromYAML))
		if diff := cmp.Diff(wantValue, fromYAML); diff != "" {
			t.Errorf("list %s -o yaml (-snapshot +printed):\n%s\n%s", what, diff, printed)
		}
		if strings.ContainsAny(printed, "{") || what == "vfs" && !strings.HasPrefix(printed, "- address:") {
			t.Errorf("list %s -o yaml is not in block style, or not in the order of the JSON:\n%s", what, printed)
		}
	}
}

func TestListFilters(t *testing.T) {
	f := startPlugin(t)
	for args, keep := range map[string]func(v *status.VF) bool{
		"":                             func(*status.VF) bool { return true },
		"--state skipped":              func(v *status.VF) bool { return v.State == "skipped" },
		"--resource cy":                func(v *status.VF) bool { return v.Resource == "cy" },
		"--resource qat.intel.com/dc":  func(v *status.VF) bool { return v.Resource == "dc" },
		"--pf e8:00.0":                 func(v *status.VF) bool { return v.PF == "0000:e8:00.0" },
		"--pf 0000:6b:00.0":            func(v *status.VF) bool { return v.PF == "0000:6b:00.0" },
		"--state listed --resource cy": func(v *status.VF) bool { return v.State == "listed" && v.Resource == "cy" },
	} {
		var want string
		for i := range f.snapshot.VFs {
			if v := &f.snapshot.VFs[i]; keep(v) {
				want += v.Address + "\n"
			}
		}
		got := f.qatctl(t, append([]string{"list", "-o", "name"}, strings.Fields(args)...)...).ok(t).stdout
		if got != want {
			t.Errorf("list %s prints\n%s, want\n%s", args, got, want)
		}
	}
	f.qatctl(t, "list", "--resource", "nope").wantExit(t, 1, `--resource: no resource "nope": there are cy, dc`)
	f.qatctl(t, "list", "--pf", "6b:00.0").wantExit(t, 1,
		"--pf: 6b:00.0 can be 0000:6b:00.0 or 0001:6b:00.0: name one of them")
	f.qatctl(t, "list", "--pf", "6b:00.2").wantExit(t, 1, "--pf: 0000:6b:00.2 is a VF; its PF is 0000:6b:00.0")
	f.qatctl(t, "list", "processes").wantExit(t, 0, "Nothing found.")
	if got := f.qatctl(t, "list", "--pf", "0001:6b:00.0", "-o", "json").ok(t).stdout; got != "[]\n" {
		t.Errorf("an empty list is printed as %q", got)
	}
}

func TestListByResource(t *testing.T) {
	f := startPlugin(t)
	r := f.qatctl(t, "list", "--group-by", "resource").ok(t)
	var got []string
	for _, line := range r.lines()[1:] {
		if !strings.HasPrefix(line, " ") {
			got = append(got, line)
			continue
		}
		got = append(got, strings.Fields(line)[0])
	}
	want := []string{
		"qat.intel.com/cy: 3 devices, 2 healthy, the kubelet follows the list",
		"0000:6b:00.1", "0000:6b:00.2", "0000:6b:00.3",
		"qat.intel.com/dc: 1 device, 1 healthy, the kubelet refused the registration",
		"0000:e8:00.1",
		"In no resource",
		"0000:6b:00.4", "0000:6b:00.5",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestListsOfPFsAndResources(t *testing.T) {
	f := startPlugin(t)
	pfs := f.qatctl(t, "list", "pfs", "-o", "wide").ok(t)
	fields := strings.Fields(pfs.line(t, "0000:e8:00.0"))
	want := strings.Fields("0000:e8:00.0 402xx - up dc dc 1 unhealthy 4xxx 4944 - 0 0 failed its heartbeat")
	if !slices.Equal(fields, want) {
		t.Errorf("a PF has the row %q, want %q", fields, want)
	}
	resources := f.qatctl(t, "list", "resources", "-o", "wide").ok(t)
	fields = strings.Fields(resources.line(t, "qat.intel.com/cy"))
	if want := strings.Fields("qat.intel.com/cy 3 2 watching 4 1 0 1 500 1m30s ago"); !slices.Equal(fields, want) {
		t.Errorf("a resource has the row %q, want %q", fields, want)
	}
}

func TestPFsShowTheirProvisioning(t *testing.T) {
	f := startPlugin(t)
	f.change(func() {
		f.snapshot.Provisioning = &status.Provisioning{PFs: []status.ProvisionedPF{
			{
				Address: "0000:6b:00.0", Rule: "qat.yaml:7", State: status.ProvisioningWaiting,
				Reason: "pod default/app-1 holds 0000:6b:00.1",
			},
			{Address: "0001:6b:00.0", Rule: "qat.yaml:9", State: status.ProvisioningDone},
		}}
	})
	r := f.qatctl(t, "list", "pfs", "-o", "wide").ok(t)
	const note = "provisioning waiting: pod default/app-1 holds 0000:6b:00.1"
	if line := r.line(t, "0000:6b:00.0"); !strings.HasSuffix(line, note) {
		t.Errorf("the row %q lacks %q", line, note)
	}
	if strings.Count(r.stdout, "provisioning") != 1 {
		t.Errorf("another row has such a note:\n%s", r.stdout)
	}
	text := strings.Join(strings.Fields(f.qatctl(t, "describe", "0000:6b:00.0").ok(t).stdout), " ")
	if want := "Rule qat.yaml:7 Provisioning waiting: pod default/app-1 holds"; !strings.Contains(text, want) {
		t.Errorf("describe lacks %q:\n%s", want, text)
	}
}

func TestFunctionsThatCannotBeReadAreShown(t *testing.T) {
	f := startPlugin(t)
	const reason = "read numa_node: it has not returned yet"
	f.change(func() {
		f.snapshot.Loops[0].Skipped = map[string]string{
			"0000:6b:00.5": f.snapshot.VFs[4].Reason,
			"0000:6b:00.7": reason,
			"qat.yaml":     "line 7",
		}
	})
	r := f.qatctl(t, "list").ok(t)
	r.line(t, "Functions that cannot be read")
	got := strings.Fields(r.line(t, "0000:6b:00.7"))
	if want := strings.Fields("0000:6b:00.7 skipped - - - " + reason); !slices.Equal(got, want) {
		t.Errorf("such a function has the row %q, want %q", got, want)
	}
	if strings.Contains(r.stdout, "qat.yaml") || strings.Count(r.stdout, "0000:6b:00.5") != 1 {
		t.Errorf("another problem is shown as a function, or a VF twice:\n%s", r.stdout)
	}
	text := strings.Join(strings.Fields(f.qatctl(t, "describe", "6b:00.7").ok(t).stdout), " ")
	want := "Function 0000:6b:00.7 Explanation It is not listed: " + reason + ". What to do The kernel blocks"
	if !strings.HasPrefix(text, want) {
		t.Errorf("describe prints %q, want %q", text, want)
	}
}

func TestStateThatIsNotNewIsNoted(t *testing.T) {
	f := startPlugin(t)
	f.change(func() { f.snapshot.Loops[0].Complete = false })
	f.qatctl(t, "list").wantExit(t, 0, "The plugin has not read the whole host yet.")
	f.change(func() { f.snapshot.Loops[0].Err = "it waits for the kernel" })
	r := f.qatctl(t, "describe", "6b:00.1")
	r.wantExit(t, 0, "This is the last known state, because")
	r.wantExit(t, 0, "it waits for the kernel")
}

func TestModeKernelListsProcesses(t *testing.T) {
	f := startPlugin(t)
	f.change(func() {
		f.snapshot = &status.Snapshot{Mode: "kernel", Processes: []status.Process{
			{ID: "SHIM_dev0_0", Resource: "cy1_dc0", Health: status.Healthy},
		}}
	})
	if line := f.qatctl(t, "list").ok(t).line(t, "SHIM_dev0_0"); !strings.Contains(line, "cy1_dc0   healthy") {
		t.Errorf("the process has the row %q", line)
	}
}

func TestColoursOnlyWhenWanted(t *testing.T) {
	f := startPlugin(t)
	for args, want := range map[string]bool{"list": false, "list --color never": false, "list --color always": true} {
		r := f.qatctl(t, strings.Fields(args)...).ok(t)
		if got := strings.Contains(r.stdout, "\x1b["); got != want {
			t.Errorf("qatctl %s prints colours: %v, want %v", args, got, want)
		}
	}
	// Colours do not move columns.
	colors := strings.NewReplacer(string(bold), "", string(red), "", string(green), "", string(yellow), "", reset, "")
	colored := f.qatctl(t, "list", "--color", "always").stdout
	if diff := cmp.Diff(f.qatctl(t, "list").stdout, colors.Replace(colored)); diff != "" {
		t.Errorf("(-without colours +with):\n%s", diff)
	}
}

func TestListOfManyVFs(t *testing.T) {
	f := startPlugin(t)
	f.change(func() {
		f.snapshot.VFs = nil
		for i := range 1024 {
			address := fmt.Sprintf("0000:%02x:%02x.%d", i/256, i/8%32, i%8)
			f.snapshot.VFs = append(f.snapshot.VFs, status.VF{Address: address})
		}
	})
	if n := len(f.qatctl(t, "list", "-o", "name").ok(t).lines()); n != 1024 {
		t.Errorf("%d names, want 1024", n)
	}
}
