// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"qatplugin/internal/status"
	"qatplugin/qat"
)

// setMemlock sets the limit of locked memory of this process for the duration of the test.
func setMemlock(t *testing.T, limit uint64) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &before); err != nil {
		t.Fatal(err)
	}
	set := func(l unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
			t.Fatal(err)
		}
	}
	set(unix.Rlimit{Cur: limit, Max: limit})
	t.Cleanup(func() { set(before) })
}

// The doctor complains about one thing: the kernel's usual limit of locked memory, 8 MiB.
func TestDoctorFindsHostHealthy(t *testing.T) {
	if !runsOn(t, "steady") {
		return
	}
	n := startNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	a.enableVFs(t)
	b.enableVFs(t)
	n.waitForVFs(t, a, b)
	diagnose := func(want map[string]string) {
		t.Helper()
		findings := qat.Diagnose(t.Context(), qat.Host{KubeletDir: socketDir})
		got := map[string]string{}
		for _, f := range findings {
			if f.Result != status.FindingOK {
				got[f.Check] = f.Result
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("findings that are not ok (-want +got):\n%s\nall: %+v", diff, findings)
		}
	}
	diagnose(map[string]string{"memlock": status.FindingWarning, "plugin": status.FindingSkipped})
	setMemlock(t, unix.RLIM_INFINITY)
	diagnose(map[string]string{"plugin": status.FindingSkipped})
	write(t, b.path("qat/state"), "down")
	n.waitForVFs(t, a)
	diagnose(map[string]string{
		"pf-state": status.FindingProblem,
		"firmware": status.FindingSkipped, // only now is it looked for, and this host has none
		"plugin":   status.FindingSkipped,
	})
}
