// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
	"qatplugin/internal/statusclient"
)

// update makes TestDocumentShowsRealOutput write the outputs into the document.
var update = flag.Bool("update", false,
	"write the outputs of the commands into docs/qatctl.md, and docs/images/qatctl.svg")

const document = "../../docs/qatctl.md"

// c62xPF is a PF whose VFs vfio-pci refuses.
const c62xPF = "0000:3d:00.0"

// startDocumented starts a plugin on a host on which some things are wrong.
func startDocumented(t *testing.T) *program {
	t.Helper()
	host := lookalike.Start(t)
	must(t, host.LoadDriver("vfio-pci"))
	must(t, host.LoadDriver("uio_pci_generic"))
	must(t, host.AddPF(lookalike.PF{Address: c62xPF, DeviceID: "37c8"}))
	must(t, host.AddVF(lookalike.VF{Address: "0000:3d:01.0", PF: c62xPF}))
	must(t, host.AddPF(lookalike.PF{Address: cyPF, Services: "sym;asym"}))
	for _, vf := range []string{"0000:6b:00.1", "0000:6b:00.2", "0000:6b:00.3"} {
		must(t, host.AddVF(lookalike.VF{Address: vf, PF: cyPF}))
	}
	must(t, host.Bind("0000:6b:00.2", "uio_pci_generic"))
	must(t, host.AddPF(lookalike.PF{Address: dcPF, DeviceID: "4944", Services: "dc", NUMANode: 1}))
	must(t, host.SetVFs(dcPF, 2))
	p := startProgramOn(t, host, "-telemetry", "-health-interval=1s")
	p.awaitDevices("cy", "0000:6b:00.1", "0000:6b:00.3")
	p.awaitDevices("dc", host.VFs(dcPF)...)
	p.work()
	// The errors count from the first heartbeat on.
	p.awaitPF(dcPF, func(pf *status.PF) bool { return pf.Heartbeat.Good > 0 })
	must(t, host.SetAttr(dcPF, "qat_ras/errors_fatal", "1"))
	p.awaitPF(dcPF, func(pf *status.PF) bool { return pf.Health == status.Unhealthy })
	return p
}

// awaitPF waits until the plugin describes a PF as wanted.
func (p *program) awaitPF(address string, wanted func(*status.PF) bool) {
	p.t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(20 * time.Millisecond) {
		s, err := statusclient.NewSocket(p.socket).Snapshot(p.t.Context())
		must(p.t, err)
		i := slices.IndexFunc(s.PFs, func(pf status.PF) bool { return pf.Address == address })
		if i >= 0 && wanted(&s.PFs[i]) {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("PF %s is not as wanted: %+v", address, s.PFs)
		}
	}
}

// work makes the PFs with telemetry measure something, and waits until the plugin shows it.
func (p *program) work() {
	p.t.Helper()
	measured := map[string]map[string]uint64{
		cyPF: {"bw_in": 12_400, "bw_out": 9_800, "gp_lat_acc_avg": 8_200, "util_ucs0": 71, "util_pke0": 34},
		dcPF: {"bw_in": 1_900, "bw_out": 640, "gp_lat_acc_avg": 21_000, "util_cpr0": 97, "util_xlt0": 41},
	}
	for deadline := time.Now().Add(timeout); ; time.Sleep(20 * time.Millisecond) {
		must(p.t, p.host.SetEngines(cyPF, lookalike.Engine{Requests: 48_210_377, Responses: 48_210_377}))
		must(p.t, p.host.SetEngines(dcPF, lookalike.Engine{Requests: 911_204, Responses: 911_204, CompressErrors: 1}))
		for pf, values := range measured {
			must(p.t, p.host.SetTelemetry(pf, values))
		}
		list, err := statusclient.NewSocket(p.socket).Telemetry(p.t.Context())
		must(p.t, err)
		shown := 0
		for _, t := range list {
			if t.Device != nil && t.Device.BandwidthIn > 0 {
				shown++
			}
		}
		if shown == len(measured) {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("the plugin does not show the telemetry of %d PFs: %+v", len(measured), list)
		}
	}
}

// TestDocumentShowsRealOutput runs the commands in the document, and compares what they print with
// what the document says, apart from numbers that differ between two runs.
func TestDocumentShowsRealOutput(t *testing.T) {
	text, err := os.ReadFile(document)
	must(t, err)
	path, err := filepath.Abs(document)
	must(t, err)
	p := startDocumented(t)
	t.Chdir(t.TempDir()) // for the file of qatctl record
	var got strings.Builder
	inBlock, commands := false, 0
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "```"):
			inBlock = line == "```console\n"
		case inBlock && strings.HasPrefix(line, "$ "):
			commands++
			got.WriteString(line)
			got.WriteString(p.documented(t, strings.Fields(line)[1:]))
			continue
		case inBlock:
			continue // of the output
		}
		got.WriteString(line)
	}
	if commands < 10 {
		t.Errorf("the document has only %d commands", commands)
	}
	if *update {
		must(t, os.WriteFile(path, []byte(got.String()), 0o644))
		must(t, os.WriteFile(filepath.Join(filepath.Dir(path), "images/qatctl.svg"), []byte(p.picture(t)), 0o644))
		return
	}
	lines := func(text string) []string { return strings.Split(normalize(text), "\n") }
	if diff := cmp.Diff(lines(string(text)), lines(got.String())); diff != "" {
		t.Errorf("run make screenshots (-document +printed):\n%s", diff)
	}
}

// picture returns a picture of a terminal in which commands of the document run.
func (p *program) picture(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, command := range []string{"list", "describe 6b:00.2", "top"} {
		words := append(strings.Fields(command), "--color", "always")
		fmt.Fprintf(&text, "%s$ qatctl %s%s\n%s\n", bold, command, reset, p.qatctl(t, words...).ok(t).stdout)
	}
	return picture(text.String())
}

// documented runs a command of the document and returns what it prints, with the paths of a real
// host.
func (p *program) documented(t *testing.T, words []string) string {
	t.Helper()
	if words[0] != "qatctl" {
		t.Fatalf("the document runs %q, want qatctl", words[0])
	}
	paths := strings.NewReplacer(p.host.Sysfs(), "/sys", p.host.Dev(), "/dev",
		p.kubeletDir, "/var/lib/kubelet/device-plugins")
	switch args := append(words[1:], p.hostFlags(words[1])...); words[1] {
	case "watch":
		return p.documentedWatch(t)
	case "doctor": // the paths of a real host break lines elsewhere
		var findings []status.Finding
		r := p.qatctl(t, append(args, "-o", "json")...)
		must(t, json.Unmarshal([]byte(paths.Replace(r.stdout)), &findings))
		var out bytes.Buffer
		a := &app{environment: &environment{stdout: &out}}
		a.printFindings(findings)
		must(t, json.Unmarshal([]byte(p.qatctl(t, "doctor", "-o", "json").stdout), &findings))
		a.printSummary(findings)
		return out.String()
	default:
		r := p.qatctl(t, args...)
		return paths.Replace(r.stderr + r.stdout)
	}
}

// hostFlags returns the flags of a command that reads the host.
func (p *program) hostFlags(command string) []string {
	if slices.Contains([]string{"list", "describe"}, command) {
		return []string{"--sysfs-root", p.host.Sysfs(), "--dev-root", p.host.Dev()}
	}
	return nil
}

// documentedWatch returns what watch prints while a VF is removed and added again.
func (p *program) documentedWatch(t *testing.T) string {
	t.Helper()
	const vf = "0000:6b:00.1"
	r := p.start(t, "watch")
	r.awaitMessage("Watching")
	var out strings.Builder
	until := func(text string) {
		for {
			line := r.next()
			fmt.Fprintln(&out, line)
			if strings.Contains(line, text) {
				return
			}
		}
	}
	must(t, p.host.RemoveVF(vf))
	until("resource qat.intel.com/cy")
	must(t, p.host.AddVF(lookalike.VF{Address: vf, PF: cyPF}))
	until("resource qat.intel.com/cy")
	r.interrupt()
	return r.end().stderr + out.String() + "^C\n"
}

// timed matches a line of an event, of a step and of what follows a step, and of watch.
var timed = regexp.MustCompile(`(?m)^( *\d\d:\d\d:\d\d\.\d+  .*|      [0-9a-f]{4}:.*|    → .*)\n`)

// measured matches what differs between two runs.
var measured = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{timed, "TIMED\n"},
	{regexp.MustCompile(`(TIMED\n)+`), "TIMED\n"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?\S*( \(\w+ ago\))?`), "TIME"},
	{regexp.MustCompile(`up \w+, \d\d:\d\d:\d\d`), "up TIME"},
	{regexp.MustCompile(`\d+ good, \d+ failed`), "N good, N failed"},
	{regexp.MustCompile(`(lists|bytes): \d+`), "$1: N"},
	{regexp.MustCompile(`(watching +)\d+( +)`), "$1 N "},
	{regexp.MustCompile(`in all \d+ steps?`), "in all N steps"},
	// What doctor finds of this machine, not of the look-alike host.
	{regexp.MustCompile(`(?m)^(problem|warning)  (memlock|hugepages|inotify|uevents) .*\n( {10}.*\n)*`), ""},
	{regexp.MustCompile(`\d+ findings: .*`), "N findings"},
	{regexp.MustCompile(` +`), " "},
}

// normalize replaces what differs between two runs.
func normalize(text string) string {
	for _, m := range measured {
		text = m.pattern.ReplaceAllString(text, m.instead)
	}
	return text
}
