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

// The one thing that the doctor complains about is the kernel's usual limit of locked memory, 8 MiB.
func TestDoctorFindsHostHealthy(t *testing.T) {
	if !runsOn(t, "steady") {
		return
	}
	n := startNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	a.enableVFs(t)
	b.enableVFs(t)
	n.waitForVFs(t, a, b)
	diagnose := func() (results map[string]string) {
		results = map[string]string{}
		for _, f := range qat.Diagnose(t.Context(), qat.Host{KubeletDir: socketDir}) {
			t.Logf("%-8s %-13s %s", f.Result, f.Check, f.Found)
			if f.Result != status.FindingOK {
				results[f.Check] = f.Result
			}
		}
		return results
	}
	want := map[string]string{"plugin": status.FindingSkipped, "memlock": status.FindingWarning}
	if diff := cmp.Diff(want, diagnose()); diff != "" {
		t.Errorf("findings that are not ok (-want +got):\n%s", diff)
	}
	setMemlock(t, unix.RLIM_INFINITY)
	write(t, b.path("qat/state"), "down")
	n.waitForVFs(t, a)
	delete(want, "memlock")
	want["pf-state"] = status.FindingProblem
	want["firmware"] = status.FindingSkipped // this host has none, and only now is it looked for
	if diff := cmp.Diff(want, diagnose()); diff != "" {
		t.Errorf("findings that are not ok with a PF down (-want +got):\n%s", diff)
	}
}
