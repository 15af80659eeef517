// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/testlog"
	"qatplugin/qat/internal/sysfs"
)

// A rig is a Switch on a host.
type rig struct {
	*Switch
	t      *testing.T
	host   *lookalike.Host
	writes *recorder
}

func newRig(t *testing.T, dryRun bool) *rig {
	h := newHost(t)
	w := &recorder{writer: sysfs.NewWriter(h.Sysfs(), dryRun)}
	return &rig{NewSwitch(h.Sysfs(), w), t, h, w}
}

// notify notifies the Switch of PFs, waits until it has done its work, and compares its writes to
// control with those wanted: "<PF>=<value>".
func (r *rig) notify(pfs []string, want ...string) {
	r.t.Helper()
	for _, pf := range pfs {
		r.Notify(address(r.t, pf), debugfs(r.host, pf))
	}
	r.running.Wait()
	r.wantWrites(want...)
}

func (r *rig) wantWrites(want ...string) {
	r.t.Helper()
	var got []string
	for _, write := range r.writes.take() {
		name, value, _ := strings.Cut(write, "=")
		pf := filepath.Base(filepath.Dir(filepath.Dir(name)))
		got = append(got, pf[strings.LastIndexByte(pf, '_')+1:]+"="+value)
		if want := filepath.Join("kernel/debug", pf, controlFile); name != want {
			r.t.Errorf("write to %q, want %q", name, want)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		r.t.Errorf("writes %q, want %q", got, want)
	}
}

func (r *rig) wantControl(pf, want string) {
	r.t.Helper()
	got, err := sysfs.ReadFile(filepath.Join(debugfs(r.host, pf), controlFile))
	must(r.t, err)
	if got != want {
		r.t.Errorf("control of %s is %q, want %q", pf, got, want)
	}
}

func TestSwitchTurnsTelemetryOnOnceAndOffAtTheEnd(t *testing.T) {
	r := newRig(t, false)
	r.notify([]string{pf0, pf1, pf2}, pf1+"=1", pf2+"=1") // a Gen2 PF has no telemetry
	r.notify([]string{pf0, pf1, pf2})
	r.Close()
	r.wantWrites(pf1+"=0", pf2+"=0")
	r.wantControl(pf1, "0")
	r.Notify(address(t, pf1), debugfs(r.host, pf1)) // has no effect any more
	r.running.Wait()
	r.wantWrites()
}

func TestSwitchTurnsTelemetryOnWhenThePFIsUpAgain(t *testing.T) {
	r := newRig(t, false)
	r.notify([]string{pf1}, pf1+"=1")
	must(t, r.host.SetState(pf1, "down"))
	r.notify([]string{pf1})
	must(t, r.host.SetState(pf1, "up"))
	r.notify([]string{pf1}, pf1+"=1")
	must(t, r.host.SetState(pf1, "down")) // and up, before the Switch looks
	must(t, r.host.SetState(pf1, "up"))
	r.notify([]string{pf1}, pf1+"=1")
	must(t, r.host.RemovePF(pf1))
	r.Close()
	r.wantWrites()
}

func TestSwitchLeavesTheTelemetryOfOthersAlone(t *testing.T) {
	r := newRig(t, false)
	setControl(t, r.host, pf1, "3")
	r.notify([]string{pf1, pf2}, pf2+"=1")
	setControl(t, r.host, pf2, "4") // an administrator wants averages over four samples
	r.notify([]string{pf1, pf2})
	r.Close()
	r.wantWrites()
	r.wantControl(pf1, "3")
	r.wantControl(pf2, "4")
}

func TestSwitchAcceptsThatAnAdministratorSwitchesTelemetryOff(t *testing.T) {
	r := newRig(t, false)
	r.notify([]string{pf1}, pf1+"=1")
	setControl(t, r.host, pf1, "0")
	r.notify([]string{pf1})
	r.Close()
	r.wantWrites()
}

func TestSwitchOnlyLogsInADryRun(t *testing.T) {
	log := testlog.Capture(t)
	r := newRig(t, true)
	r.notify([]string{pf1}, pf1+"=1")
	r.notify([]string{pf1})
	r.Close()
	r.wantWrites()
	r.wantControl(pf1, "0")
	want := `"Would write" file="` + filepath.Join(debugfs(r.host, pf1), controlFile) + `" value="1"`
	if lines := log(); !slices.Equal(lines, []string{want}) {
		t.Errorf("log %q, want %q", lines, want)
	}
}

func TestSwitchLogsEachProblemOnceAndTriesAgain(t *testing.T) {
	log := testlog.Capture(t)
	r := newRig(t, false)
	r.writes.setFail(unix.EROFS)
	r.notify([]string{pf1, pf2}, pf1+"=1", pf2+"=1")
	r.notify([]string{pf1}, pf1+"=1")
	lines := log()
	if len(lines) != 2 {
		t.Errorf("log %q, want a line for each PF", lines)
	}
	remedy := "read-only file system: mount debugfs writable at " + r.host.Sysfs() + "/kernel/debug"
	for _, line := range lines {
		if !strings.HasPrefix(line, `"Cannot switch device telemetry on" err="open kernel/debug/qat_`) ||
			!strings.Contains(line, remedy) {
			t.Errorf("log line %s", line)
		}
	}
	r.writes.setFail(nil)
	r.notify([]string{pf1}, pf1+"=1")
	r.Close()
	r.wantWrites(pf1 + "=0") // not of pf2, which the Switch has not switched on
}

// The driver creates the directory first, and control a moment later.
func TestSwitchWaitsForControl(t *testing.T) {
	r := newRig(t, false)
	file := filepath.Join(debugfs(r.host, pf1), controlFile)
	must(t, os.Rename(file, file+".later"))
	r.Notify(address(t, pf1), debugfs(r.host, pf1))
	must(t, os.Rename(file+".later", file))
	r.running.Wait()
	r.wantWrites(pf1 + "=1")
	r.Close()
}
