// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
)

// findingsOf returns the findings that doctor printed as JSON, by check.
func findingsOf(t *testing.T, r result) map[string]status.Finding {
	t.Helper()
	var list []status.Finding
	must(t, json.Unmarshal([]byte(r.stdout), &list))
	byCheck := map[string]status.Finding{}
	for _, f := range list {
		byCheck[f.Check] = f
	}
	return byCheck
}

func TestDoctorChecksTheHostOfThePlugin(t *testing.T) {
	f, host := startPlugin(t), lookalike.Start(t)
	must(t, host.AddPF(lookalike.PF{Address: "0000:6b:00.0", Services: "sym;asym"}))
	f.change(func() {
		f.flags = map[string]string{
			"sysfs-root": host.Sysfs(), "dev-root": host.Dev(), "kubelet-dir": "/kubelet/of/the/plugin",
			"dpdk-driver": "igb_uio",
		}
		f.snapshot.Checks[1].Err = "the kubelet is away"
	})
	r := f.qatctl(t, "doctor", "-o", "json", "--dry-run")
	r.wantExit(t, 1, "")
	got := findingsOf(t, r)
	for check, part := range map[string]string{
		"sysfs":       host.Sysfs(),
		"kubelet":     "/kubelet/of/the/plugin",
		"dpdk-driver": "igb_uio",
		"plugin":      "the kubelet is away",
	} {
		if !strings.Contains(got[check].Found, part) {
			t.Errorf("check %s: %+v, want %q", check, got[check], part)
		}
	}
	// The command line has precedence over the flags of the plugin.
	other := lookalike.Start(t)
	got = findingsOf(t, f.qatctl(t, "doctor", "-o", "json", "--dry-run", "--sysfs-root", other.Sysfs()))
	if !strings.Contains(got["sysfs"].Found, other.Sysfs()) {
		t.Errorf("with --sysfs-root: %+v", got["sysfs"])
	}
}

func TestDoctorWithoutPlugin(t *testing.T) {
	host := lookalike.Start(t)
	must(t, host.LoadDriver("vfio-pci"))
	must(t, host.AddPF(lookalike.PF{Address: "0000:6b:00.0", Services: "sym;asym"}))
	socket := filepath.Join(t.TempDir(), "status.sock")
	args := []string{"doctor", "--socket", socket, "--dry-run", "--sysfs-root", host.Sysfs(), "--dev-root", host.Dev(),
		"--kubelet-dir", t.TempDir()}
	r := qatctl(t, args...)
	r.wantExit(t, 1, "No plugin listens at "+socket+": checking this host without it.")
	problems := 0
	for check, f := range findingsOf(t, qatctl(t, append(args, "-o", "json")...)) {
		if f.Result == status.FindingProblem {
			problems++
		}
		// The text has each finding, in one line or several.
		text := strings.Join(strings.Fields(r.stdout), " ")
		for _, part := range []string{f.Result + " " + check, firstWords(f.Found), firstWords(f.Remedy)} {
			if !strings.Contains(text, part) {
				t.Errorf("the text lacks %q:\n%s", part, r.stdout)
			}
		}
	}
	if want := count(problems, "problem"); problems == 0 || !strings.Contains(r.stdout, ": "+want+", ") {
		t.Errorf("the summary does not say %s:\n%s", want, r.stdout)
	}
}

// firstWords returns the beginning of a text, which numbers that change do not follow.
func firstWords(text string) string {
	words := strings.Fields(text)
	return strings.Join(words[:min(2, len(words))], " ")
}
