// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/status"
	"qatplugin/internal/statusclient"
)

// startDRA returns a DRA driver with two claims.
func startDRA(t *testing.T) *fakePlugin {
	t.Helper()
	f := startPlugin(t)
	f.change(func() {
		f.snapshot.Resources = nil
		f.snapshot.VFs[0].Holder = "default/app"
		f.snapshot.DRA = &status.DRA{
			Driver: "qat.intel.com", Pool: "worker-1", Devices: 4, Healthy: 3, Registered: true,
			Slices: []status.ResourceSlice{
				{Name: "worker-1-0", Devices: 3, Tainted: 1, Generation: 2, Written: ptr(now.Add(-3 * time.Second))},
				{Name: "worker-1-1", Devices: 1, Generation: 2},
			},
			Claims: []status.Claim{
				{
					Name: "default/app", UID: "1-2", Prepared: now.Add(-time.Minute),
					Devices: []status.ClaimDevice{{Address: "0000:6b:00.1", Resource: "cy", Request: "vf"}},
				},
				{
					Name: "monitoring/all", UID: "3-4", Prepared: now.Add(-time.Hour),
					Devices: []status.ClaimDevice{
						{Address: "0000:6b:00.1", Resource: "cy", Request: "all", AdminAccess: true},
						{Address: "0000:e8:00.1", Resource: "dc", Request: "all", AdminAccess: true},
					},
				},
			},
		}
	})
	return f
}

func TestListShowsTheSlicesAndClaimsOfADRADriver(t *testing.T) {
	f := startDRA(t)
	for args, want := range map[string]string{
		"list slices": "SLICE       DEVICES  TAINTED  GENERATION  NOTE\n" +
			"worker-1-0  3        1        2           written 3s ago\n" +
			"worker-1-1  1        0        2           not written since the driver started\n",
		"list claims": "CLAIM           PREPARED  VFS\n" +
			"default/app     1m ago    0000:6b:00.1\n" +
			"monitoring/all  1h ago    0000:6b:00.1 (admin) 0000:e8:00.1 (admin)\n",
		"list claims --resource dc -o name": "monitoring/all\n",
		"list slices -o name":               "worker-1-0\nworker-1-1\n",
	} {
		if diff := cmp.Diff(want, f.qatctl(t, strings.Fields(args)...).ok(t).stdout); diff != "" {
			t.Errorf("qatctl %s (-want +got):\n%s", args, diff)
		}
	}
	wide := f.qatctl(t, "list", "claims", "-o", "wide").ok(t)
	if line := wide.line(t, "default/app"); !strings.Contains(line, " 1-2 ") || !strings.Contains(line, " vf ") {
		t.Errorf("the wide row has no UID or request: %q", line)
	}
}

func TestDevicePluginHasNoClaims(t *testing.T) {
	r := startPlugin(t).qatctl(t, "list", "claims")
	if want := "list claims: only a DRA driver has claims"; r.status == 0 || !strings.Contains(r.stderr, want) {
		t.Errorf("exit status %d, %q; want %s", r.status, r.stderr, want)
	}
}

func TestDescribeExplainsAVFOfADRADriver(t *testing.T) {
	f := startDRA(t)
	describe := func(address string, want ...string) {
		t.Helper()
		text := strings.Join(strings.Fields(f.qatctl(t, "describe", address).ok(t).stdout), " ")
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("describe %s lacks %q:\n%s", address, part, text)
			}
		}
	}
	const pool = "It is in the pool worker-1 of qat.intel.com, with the resource "
	describe("6b:00.1", pool+"cy. Claim default/app has it.",
		"Held by default/app (request vf, UID 1-2, since 1m); "+
			"monitoring/all (request all, UID 3-4, since 1h) with admin access")
	describe("e8:00.1", pool+"dc. The scheduler may give it to a claim.")
	describe("6b:00.3", "It is in the pool worker-1 with a taint, so no pod without a toleration gets it: it had a PCI")
	for problem, set := range map[string]func(d *status.DRA){
		"The API server may not know it yet: no answer. What to do Check that the API": func(d *status.DRA) {
			d.PublishErr = "no answer"
		},
		"No pod with it starts: no kubelet. What to do Check that the kubelet": func(d *status.DRA) {
			d.Registered, d.RegistrationErr = false, "no kubelet"
		},
		"Pods cannot use it: containerd 1.6 ignores CDI.": func(d *status.DRA) {
			d.RuntimeErr = "containerd 1.6 ignores CDI"
		},
	} {
		before := *f.snapshot.DRA
		f.change(func() { set(f.snapshot.DRA) })
		describe("e8:00.1", pool+"dc. "+problem)
		if r := f.qatctl(t, "describe", "--check", "e8:00.1"); r.status != 1 {
			t.Errorf("describe --check: exit status %d, want 1", r.status)
		}
		f.change(func() { *f.snapshot.DRA = before })
	}
}

func TestVersionNamesTheProgramThatRuns(t *testing.T) {
	if r := startDRA(t).qatctl(t, "version").ok(t); !strings.Contains(r.stdout, "\nqat_dra_driver v1.2.3\n") {
		t.Errorf("%q", r.stdout)
	}
}

// On a node runs one of the two programs. Both sockets can exist after a switch.
func TestSocketOfTheProgramThatRunsIsUsed(t *testing.T) {
	for _, tt := range []struct {
		exist []string
		want  string
	}{
		{nil, statusclient.DefaultSocket},
		{[]string{statusclient.DefaultSocket}, statusclient.DefaultSocket},
		{[]string{statusclient.DRASocket}, statusclient.DRASocket},
		{[]string{statusclient.DefaultSocket, statusclient.DRASocket}, statusclient.DefaultSocket},
	} {
		got := findSocket(func(path string) (fs.FileInfo, error) {
			for _, p := range tt.exist {
				if p == path {
					return nil, nil
				}
			}
			return nil, fs.ErrNotExist
		})
		if got != tt.want {
			t.Errorf("with %q: %s, want %s", tt.exist, got, tt.want)
		}
	}
}
