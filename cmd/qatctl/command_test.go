// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/status"
)

func TestExitStatusOfUsageErrors(t *testing.T) {
	f := startPlugin(t)
	for args, want := range map[string]string{
		"lst":                     `unknown command "lst": did you mean list?`,
		"--nope":                  "unknown flag: --nope",
		"list --nope":             "unknown flag: --nope",
		"list x":                  "list x: must be vfs, pfs, resources, processes, slices or claims",
		"list --state x":          "must be listed, unhealthy, binding or skipped",
		"list -o xml":             "must be wide, json, yaml or name",
		"list --timeout 0s":       "--timeout: invalid value 0s: must be more than 0",
		"list --server ftp://x":   "--server: invalid value",
		"describe":                "name the address of a PF or VF",
		"events x":                `events: unexpected argument "x"`,
		"events --kind x":         `--kind: invalid value "x": must be uevent, inotify`,
		"events --since x":        `--since: invalid value "x": must be a duration such as 10m`,
		"events --last -1":        "--last: invalid value -1",
		"top --interval 1ms":      "--interval: invalid value 1ms: must be at least 100ms",
		"doctor --server x":       "doctor checks the host that it runs on: run it there, without --server",
		"status -o wide":          "must be json or yaml",
		"version x":               `version: unexpected argument "x"`,
		"list --color sometimes":  "must be auto, always or never",
		"watch --output yaml":     "must be json",
		"completion nope":         "nope",
		"describe 0 --check=what": "what",
	} {
		r := f.qatctl(t, strings.Fields(args)...)
		ok := r.status == exitUsage && strings.Contains(r.stderr, want) && strings.Count(r.stderr, "\n") == 1
		if !ok || r.stdout != "" {
			t.Errorf("qatctl %s: exit status %d, %q; want status 2 and a line with %q", args, r.status, r.stderr, want)
		}
	}
}

func TestWithoutPluginAndHost(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "status.sock")
	for _, args := range []string{"watch", "events", "top", "status", "record", "events --follow"} {
		r := qatctl(t, append([]string{"--socket", missing}, strings.Fields(args)...)...)
		r.wantExit(t, exitNobody, "no plugin listens at "+missing+": no such file or directory: start it")
	}
	for _, args := range []string{"list", "describe 6b:00.0"} {
		r := qatctl(t, append([]string{"--socket", missing, "--sysfs-root", t.TempDir()}, strings.Fields(args)...)...)
		r.wantExit(t, exitNobody, "and the host cannot be read: no sysfs is mounted at --sysfs-root")
	}
	r := qatctl(t, "list", "--server", "localhost:1") // where the host is another machine
	r.wantExit(t, exitNobody, "no plugin listens at http://localhost:1: connection refused: check --server")
}

func TestSocketOfTheEnvironment(t *testing.T) {
	f := startPlugin(t)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"list", "-o", "name"}, &environment{
		stdout: &stdout,
		stderr: &stderr,
		getenv: func(name string) string { return map[string]string{"QATCTL_SOCKET": f.socket}[name] },
		now:    time.Now,
	})
	if code != 0 || !strings.Contains(stdout.String(), "0000:6b:00.1\n") {
		t.Errorf("exit status %d: %s%s", code, &stdout, &stderr)
	}
}

func TestDescribe(t *testing.T) {
	f := startPlugin(t)
	for address, want := range map[string][]string{
		"6b:00.1": {
			"VF 0000:6b:00.1", "State         listed", "It is listed in qat.intel.com/cy. Pod default/app-1 has it.",
			"Family        4xxx (device ID 4941)", "Driver        vfio-pci", "Device node   /dev/vfio/12",
			"IOMMU group   12", "NUMA node     0", "Held by       default/app-1",
			"PF            0000:6b:00.0 (4xxx, up",
			"add 0000:6b:00.1: in cy", "its device node is gone", // events
		},
		"0000:6b:00.2": {"The kubelet may give it to a pod.", "the driver changed"},
		"6b:00.3": {
			"as unhealthy, so the kubelet gives it to no pod: it had a PCI error", "Wait for the kernel's recovery.",
		},
		"6b:00.4": {
			"It is not listed yet: waiting for vfio-pci to bind.", "What to do    Wait: the plugin binds the VF.",
		},
		"6b:00.5": {"It is not listed: vfio-pci refuses C62x", "Read the warning of vfio-pci in the kernel log"},
		"e8:00.1": {"The kubelet cannot give it to a pod: the kubelet refuses the registration: invalid name."},
		"0000:6b:00.0": {
			"PF 0000:6b:00.0", "Health        healthy", "2 of its 5 VFs can be allocated.",
			"qatctl list --pf 0000:6b:00.0", "Services      sym;asym", "VFs           5 of 16",
			"Heartbeat     good; 77 good, 1 failed; last 2026-05-06 12:29:58 (2s ago)",
			"RAS errors    2 correctable", "Firmware      1534567 requests, 1534560 responses",
			"Bandwidth     1.2Gb/s in, 46Mb/s out", "Latency       12.3µs", "Utilization   ucs 96%, pke 12%",
		},
		"e8:00.0": {
			"Health        unhealthy", "it failed its heartbeat", "down, then up > /sys/bus/pci/devices/0000:e8:00.0/",
		},
		"0001:6b:00.0": {"It has no VFs.", "echo 16 > /sys/bus/pci/devices/0001:6b:00.0/sriov_numvfs"},
	} {
		text := strings.Join(strings.Fields(f.qatctl(t, "describe", address).ok(t).stdout), " ")
		for _, part := range want {
			if part = strings.Join(strings.Fields(part), " "); !strings.Contains(text, part) {
				t.Errorf("describe %s lacks %q:\n%s", address, part, text)
			}
		}
	}
	f.qatctl(t, "describe", "6b:1f.0").wantExit(t, 1, "no QAT device 6b:1f.0 is known: qatctl list shows those that")
	f.qatctl(t, "describe", "6b:00.0").wantExit(t, 1, "6b:00.0 can be 0000:6b:00.0 or 0001:6b:00.0")
	f.qatctl(t, "describe", "6B:00.2", "6b:00.1").ok(t)
}

func TestDescribeCheck(t *testing.T) {
	f := startPlugin(t)
	for address, want := range map[string]int{
		"6b:00.1": 0, "6b:00.3": 1, "6b:00.4": 1, "6b:00.5": 1, "e8:00.1": 1, "e8:00.0": 1,
	} {
		if r := f.qatctl(t, "describe", "--check", "6b:00.2", address); r.status != want || r.stderr != "" {
			t.Errorf("describe --check %s: exit status %d %s, want %d", address, r.status, r.stderr, want)
		}
	}
}

func TestDescribeJSON(t *testing.T) {
	f := startPlugin(t)
	var got []description
	must(t, json.Unmarshal([]byte(f.qatctl(t, "describe", "-o", "json", "6b:00.1", "e8:00.0").ok(t).stdout), &got))
	if diff := cmp.Diff(&f.snapshot.VFs[0], got[0].VF); diff != "" || !got[0].OK {
		t.Errorf("VF (-want +got), ok %v:\n%s", got[0].OK, diff)
	}
	if diff := cmp.Diff(&f.snapshot.PFs[1], got[1].PF); diff != "" || got[1].OK {
		t.Errorf("PF (-want +got), ok %v:\n%s", got[1].OK, diff)
	}
	if len(got[0].Events) != 3 || got[0].Events[0].Kind != status.KindUevent {
		t.Errorf("the VF has the events %v, want those that name it", got[0].Events)
	}
}

// TestEachKindOfEventIsKnown compares the kinds with the constants of package status.
func TestEachKindOfEventIsKnown(t *testing.T) {
	text, err := os.ReadFile("../../internal/status/journal.go")
	must(t, err)
	var want []string
	for _, found := range regexp.MustCompile(`(?m)^\tKind\w+ += "(\w+)"`).FindAllSubmatch(text, -1) {
		want = append(want, string(found[1]))
	}
	if diff := cmp.Diff(want, eventKinds()); diff != "" || len(want) < 5 {
		t.Errorf("kinds (-package status +qatctl):\n%s", diff)
	}
}

func TestEvents(t *testing.T) {
	f := startPlugin(t)
	for args, want := range map[string][]string{ // by the first words of the kinds
		"":                            {"resync", "uevent", "change", "list", "allocation", "drift"},
		"-n 2":                        {"allocation", "drift"},
		"--kind list,change":          {"change", "list"},
		"--kind change --kind resync": {"resync", "change"},
		"--since 3m":                  {"list", "allocation", "drift"},
		"--since 12:28":               {"allocation", "drift"},
		"--since 12:27 --until 12:28": {"list", "allocation"},
		"--until 12:24":               {"resync"},
		"--device 6b:00.1":            {"uevent", "change", "allocation"},
		"--device 6B:00.1":            {"uevent", "change", "allocation"},
		"--device 0000:6b:00.1 -n 1":  {"allocation"},
	} {
		var got []string
		for _, line := range f.qatctl(t, append([]string{"events"}, strings.Fields(args)...)...).ok(t).lines() {
			got = append(got, strings.Fields(line)[1])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("events %s (-want +got):\n%s", args, diff)
		}
	}
	r := f.qatctl(t, "events").ok(t)
	if line := r.line(t, "list "); line != "12:27:00.000  list        qat.intel.com/cy: 3 devices (412µs)" {
		t.Errorf("an event has the line %q", line)
	}
	var got []status.Event
	for _, line := range f.qatctl(t, "events", "-o", "json").ok(t).lines() {
		var e status.Event
		must(t, json.Unmarshal([]byte(line), &e))
		got = append(got, e)
	}
	if diff := cmp.Diff(f.events, got); diff != "" {
		t.Errorf("events -o json (-journal +printed):\n%s", diff)
	}
}

// TestEventsSaysWhatItCannotShow asks for events before the first one, and for those of a device
// that has none.
func TestEventsSaysWhatItCannotShow(t *testing.T) {
	f := startPlugin(t)
	oldest := "The oldest event that the plugin has is from " + clock(f.events[0].Time, now) + ".\n"
	f.qatctl(t, "events", "--since", "03:12").wantExit(t, 0, oldest)
	f.qatctl(t, "events", "--device", "6b:1f.7").wantExit(t, 0, "No events found.\n")
	// At 12:30, the last 23:50 was yesterday.
	f.qatctl(t, "events", "--since", "23:50").wantExit(t, 0, oldest)
	f.qatctl(t, "events", "--follow", "--until", "1m").wantExit(t, exitUsage, "--until: not with --follow")
}

func TestEventsAreInTheOrderOfTheirTimes(t *testing.T) {
	f := startPlugin(t)
	f.events[1].Time, f.events[2].Time = f.events[2].Time, f.events[1].Time
	for _, args := range []string{"events", "describe 6b:00.1"} {
		out := f.qatctl(t, strings.Fields(args)...).ok(t).stdout
		change, uevent := strings.Index(out, "  change "), strings.Index(out, "  uevent ")
		if change < 0 || change > uevent {
			t.Errorf("%s does not show the earlier change before the uevent:\n%s", args, out)
		}
	}
}

func TestEventsSinceATimeAreNotLimited(t *testing.T) {
	f := startPlugin(t)
	for i := range 100 {
		f.events = append(f.events, status.Event{Seq: uint64(100 + i), Time: now, Kind: status.KindList})
	}
	for args, want := range map[string]int{"events": 50, "events --since 1m": 101, "events --since 1m -n 7": 7} {
		if got := len(f.qatctl(t, strings.Fields(args)...).ok(t).lines()); got != want {
			t.Errorf("%s shows %d events, want %d", args, got, want)
		}
	}
}

func TestEventsFollowsOnlyNewEvents(t *testing.T) {
	f := startPlugin(t)
	r := f.start(t, "events", "--follow", "-n", "0")
	<-f.opened
	f.messages <- message(status.MessageEvent, status.Event{Seq: 8, Kind: status.KindUevent, Device: "new"})
	if line := r.next(); !strings.HasSuffix(line, "new") {
		t.Errorf("the first line is %q, want the event 8", line)
	}
	r.interrupt()
	r.end()
	<-f.closed
}

func TestEventsFollowsFromWhereItPrinted(t *testing.T) {
	f := startPlugin(t)
	r := f.start(t, "events", "--follow", "-n", "1", "--kind", "drift,uevent")
	if line := r.next(); !strings.Contains(line, "drift") {
		t.Errorf("the first line is %q", line)
	}
	<-f.opened
	// The stream repeats the journal. Only what is new is printed.
	f.messages <- message(status.MessageEvent, f.events[1])
	f.messages <- message(status.MessageEvent, status.Event{Seq: 7, Kind: status.KindList})
	f.messages <- message(status.MessageEvent, status.Event{Seq: 8, Kind: status.KindUevent, Device: "new"})
	if line := r.next(); !strings.HasSuffix(line, "new") {
		t.Errorf("the next line is %q, want the event 8", line)
	}
	r.interrupt()
	if got := r.end(); got.status != 0 || got.stderr != "" {
		t.Errorf("after SIGINT: exit status %d, %s", got.status, got.stderr)
	}
	<-f.closed
}

func TestWatchShowsWhatChanges(t *testing.T) {
	f := startPlugin(t)
	r := f.start(t, "watch")
	if query := <-f.opened; !strings.Contains(query, "types=snapshot%2Cupdate") {
		t.Errorf("the query is %s", query)
	}
	send := func(u status.Update) {
		u.Time = now
		f.messages <- message(status.MessageUpdate, u)
	}
	want := func(lines ...string) {
		t.Helper()
		for _, line := range lines {
			if got := r.next(); got != "12:30:00.000  "+line {
				t.Errorf("got  %s\nwant               %s", got, line)
			}
		}
	}
	s := newSnapshot()
	vf := s.VFs[4]
	vf.State, vf.Resource, vf.Reason, vf.Driver = status.StateListed, "cy", "", "vfio-pci"
	pf := s.PFs[0]
	pf.State, pf.VFs = "down", 0
	resource := s.Resources[0]
	resource.Devices, resource.Healthy = 2, 1
	send(status.Update{
		PFs:       []status.PF{pf},
		VFs:       []status.VF{vf, s.VFs[0], {Address: "0000:6b:00.6", State: status.StateSkipped, Reason: "why"}},
		Removed:   []string{"0000:6b:00.1", "0000:e8:00.0", "unknown"},
		Resources: []status.Resource{resource, s.Resources[1]},
		Checks:    []status.Check{{Name: "event-loop"}, {Name: "registered", Err: "no kubelet"}},
	})
	want(
		"PF 0000:6b:00.0  state up → down, VFs 5 → 0",
		"VF 0000:6b:00.5  skipped → listed in cy, driver none → vfio-pci",
		"VF 0000:6b:00.6  appeared: skipped: why",
		"VF 0000:6b:00.1  is gone",
		"PF 0000:e8:00.0  is gone",
		"resource qat.intel.com/cy  3 devices, 2 healthy → 2 devices, 1 healthy",
		"check registered  failed: no kubelet",
	)
	resource.Phase, resource.Err = status.PhaseLost, "it restarts"
	send(status.Update{Resources: []status.Resource{resource}, Checks: []status.Check{{Name: "registered"}}})
	want(
		"resource qat.intel.com/cy  the kubelet does not follow the list: it restarts",
		"check registered  passes again",
	)

	// A client that fell behind gets a snapshot.
	s.VFs = s.VFs[1:5]
	s.VFs[1].State, s.VFs[1].Reason = status.StateListed, ""
	f.messages <- message(status.MessageSnapshot, s)
	want(
		"PF 0000:6b:00.0  state down → up, VFs 0 → 5",
		"PF 0000:e8:00.0  appeared: 402xx, up, dc, unhealthy: failed its heartbeat",
		"VF 0000:6b:00.3  unhealthy in cy → listed in cy",
		"VF 0000:6b:00.5  listed in cy → skipped, driver vfio-pci → none: "+s.VFs[3].Reason,
		"VF 0000:6b:00.6  is gone",
		"VF 0000:e8:00.1  is gone",
		"resource qat.intel.com/cy  2 devices, 1 healthy → 3 devices, 2 healthy, the kubelet follows the list",
	)
	r.interrupt()
	if got := r.end(); got.status != 0 || got.stderr != "Watching 3 PFs, 6 VFs and 2 resources. Ctrl-C ends it.\n" {
		t.Errorf("after SIGINT: exit status %d, %q", got.status, got.stderr)
	}
	<-f.closed
}

func TestWatchEndsWhenThePluginGoesAway(t *testing.T) {
	f := startPlugin(t)
	r := f.start(t, "watch")
	<-f.opened
	close(f.messages)
	got := r.end()
	got.wantExit(t, 1, "the plugin at "+f.socket+" ended the stream, because it ends or qatctl read too slowly")
}

func TestWatchJSON(t *testing.T) {
	f := startPlugin(t)
	r := f.start(t, "watch", "-o", "json")
	<-f.opened
	want := status.Update{Time: now, Removed: []string{"0000:6b:00.1"}}
	f.messages <- message(status.MessageUpdate, want)
	var got status.Update
	must(t, json.Unmarshal([]byte(r.next()), &got))
	if diff := cmp.Diff(want.Removed, got.Removed); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.interrupt()
	r.end()
	<-f.closed
}

func TestTop(t *testing.T) {
	f := startPlugin(t)
	r := f.qatctl(t, "top").ok(t) // once, because the output is no terminal
	check := func(r result, lines map[string]string) {
		t.Helper()
		for pf, want := range lines {
			if got := strings.Join(strings.Fields(r.line(t, pf)), " "); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
	check(r, map[string]string{
		"PF ":          "PF RESOURCE STATE IN OUT LATENCY REQUESTS ERRORS BUSIEST",
		"0000:6b:00.0": "0000:6b:00.0 cy up 1.2Gb/s 46Mb/s 12.3µs 1.5M 2 ucs 96%, pke 12%",
		"0000:e8:00.0": "0000:e8:00.0 dc unhealthy - - - 7 0 -",
		"0001:6b:00.0": "0001:6b:00.0 cy down - - - - - -",
		"qat_plugin":   "qat_plugin v1.2.3, up 1d2h, 12:30:00",
	})
	check(f.qatctl(t, "top", "-o", "wide").ok(t), map[string]string{
		"PF ":          "PF RESOURCE STATE IN OUT LATENCY REQUESTS ERRORS FAMILY NUMA PKE UCS",
		"0000:6b:00.0": "0000:6b:00.0 cy up 1.2Gb/s 46Mb/s 12.3µs 1.5M 2 4xxx 0 12% 96%",
		"0000:e8:00.0": "0000:e8:00.0 dc unhealthy - - - 7 0 402xx - - -",
	})
	f.change(func() { f.telemetry[0].Device = nil })
	if r := f.qatctl(t, "top", "--once").ok(t); !strings.Contains(r.stdout, "start the plugin with -telemetry") {
		t.Errorf("without telemetry of a device:\n%s", r.stdout)
	}
	var got []status.Telemetry
	must(t, json.Unmarshal([]byte(f.qatctl(t, "top", "-o", "json").ok(t).stdout), &got))
	if diff := cmp.Diff(f.telemetry, got); diff != "" {
		t.Errorf("top -o json (-want +got):\n%s", diff)
	}
}

func TestRatesOfTop(t *testing.T) {
	before, after := newTelemetry(), newTelemetry()
	after[0].Time = before[0].Time.Add(2 * time.Second)
	after[0].Firmware[1].Requests += 5000
	if got := requestCells(&after[0], &before[0], true)[0].text; got != "2.5k" {
		t.Errorf("5000 requests in 2 s are shown as %s/s", got)
	}
	after[0].Firmware[0].Requests = 0 // the device was reset
	if got := requestCells(&after[0], &before[0], true)[0].text; got != "-" {
		t.Errorf("after a reset of the counters the rate is shown as %s", got)
	}
}

func TestStatus(t *testing.T) {
	f := startPlugin(t)
	if got := f.qatctl(t, "status", "--check").ok(t).stdout; got != "qat_plugin v1.2.3\n" {
		t.Errorf("status prints %q", got)
	}
	var got status.Snapshot
	must(t, json.Unmarshal([]byte(f.qatctl(t, "status", "-o", "json").ok(t).stdout), &got))
	if diff := cmp.Diff(f.snapshot, &got); diff != "" {
		t.Errorf("status -o json (-want +got):\n%s", diff)
	}
	f.change(func() { f.snapshot.Checks[1].Err = "no kubelet" })
	f.qatctl(t, "status").ok(t)
	f.qatctl(t, "status", "--check").wantExit(t, 1, "Check registered failed: no kubelet\n")
}

func TestVersion(t *testing.T) {
	f := startPlugin(t)
	if got := f.qatctl(t, "version").ok(t).stdout; !strings.HasPrefix(got, "qatctl devel go") ||
		!strings.HasSuffix(got, "\nqat_plugin v1.2.3\n") {
		t.Errorf("version prints %q", got)
	}
	got := qatctl(t, "version", "--socket", "/does/not/exist").ok(t).stdout
	if !strings.HasSuffix(got, "\nqat_plugin is not running\n") {
		t.Errorf("without a plugin, version prints %q", got)
	}
}

func TestRecord(t *testing.T) {
	f := startPlugin(t)
	if got := f.qatctl(t, "record").ok(t).stdout; got != f.recording {
		t.Errorf("record prints %q, want %q", got, f.recording)
	}
	file := filepath.Join(t.TempDir(), "qat.ndjson")
	f.qatctl(t, "record", "-o", file).wantExit(t, 0, "qatctl replay "+file)
	if text, err := os.ReadFile(file); err != nil || string(text) != f.recording {
		t.Errorf("record -o writes %q, %v", text, err)
	}
	f.change(func() { f.cutOff = true })
	f.qatctl(t, "record", "-o", file).wantExit(t, 1, "/debug/recording: unexpected EOF")
	if text, err := os.ReadFile(file); err != nil || string(text) != f.recording {
		t.Errorf("an earlier recording is gone: %q, %v", text, err)
	}
	other := filepath.Join(t.TempDir(), "other.ndjson")
	f.qatctl(t, "record", "-o", other).wantExit(t, 1, "/debug/recording: unexpected EOF")
	if list, err := os.ReadDir(filepath.Dir(other)); err != nil || len(list) > 0 {
		t.Errorf("a part of a recording is left: %v, %v", list, err)
	}
	must(t, os.Symlink(os.DevNull, other)) // like /dev/stdout
	f.qatctl(t, "record", "-o", other).wantExit(t, 1, "/debug/recording: unexpected EOF")
	if target, err := os.Readlink(other); err != nil || target != os.DevNull {
		t.Errorf("the link to a device leads to %q, %v", target, err)
	}
	f.qatctl(t, "record", "-o", "/does/not/exist").wantExit(t, 1, "/does/not/exist")
}

func TestCompletionOfValues(t *testing.T) {
	f := startPlugin(t)
	for args, want := range map[string][]string{
		"describe ":               {"0000:6b:00.0", "0000:e8:00.0", "0001:6b:00.0", "0000:6b:00.1", "0000:e8:00.1"},
		"describe 0000:6b:00.1 ":  {"0000:6b:00.2"},
		"list --resource ":        {"cy", "dc"},
		"list --pf ":              {"0000:6b:00.0"},
		"list --state ":           {"skipped"},
		"list -o ":                {"wide", "json", "yaml", "name"},
		"list ":                   {"pfs", "resources"},
		"events --kind ":          {"uevent", "drift"},
		"events --device ":        {"0000:6b:00.0"},
		"":                        {"list", "describe", "doctor"},
		"completion ":             {"bash", "zsh", "fish", "powershell"},
		"--color ":                {"always"},
		"events --output ":        {"json"},
		"list --group-by ":        {"resource"},
		"describe 0000:6b:00.1 -": {"--check"},
	} {
		words := append([]string{"__complete", "--socket", f.socket}, strings.Split(args, " ")...)
		r := qatctl(t, words...)
		var got []string
		for _, line := range r.lines() {
			name, _, _ := strings.Cut(line, "\t")
			got = append(got, name)
		}
		for _, name := range want {
			if !strings.Contains("\n"+strings.Join(got, "\n")+"\n", "\n"+name+"\n") {
				t.Errorf("qatctl %s<Tab>: %q, want %q", args, got, want)
			}
		}
	}
	r := qatctl(t, "__complete", "--socket", f.socket, "describe", "0000:6b:00.1", "")
	if strings.Contains(r.stdout, "0000:6b:00.1\n") {
		t.Errorf("an address is offered that is an argument already:\n%s", r.stdout)
	}
	r = qatctl(t, "__complete", "--socket", "/does/not/exist", "describe", "")
	if r.status != 0 || strings.Contains(r.stdout, "0000") {
		t.Errorf("without a plugin: %v", r)
	}
}

func TestCompletionScriptsParse(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		script := qatctl(t, "completion", shell).ok(t).stdout
		if !strings.Contains(script, "qatctl") {
			t.Errorf("the script for %s does not name qatctl", shell)
		}
		program, err := exec.LookPath(shell)
		if err != nil || shell == "powershell" {
			continue
		}
		cmd := exec.Command(program, "-n")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v\n%s", shell, err, out)
		}
	}
}
