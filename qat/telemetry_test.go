// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
)

// controls follows telemetry/control of the PFs of a host.
type controls chan lookalike.Operation

// followControls follows the writes of programs to telemetry/control from now on.
func followControls(h *lookalike.Host) controls {
	c := make(controls, 100)
	h.Observe(func(o lookalike.Operation) {
		if o.Name == "set telemetry control of" {
			c <- o
		}
	})
	return c
}

// wait waits for the next write.
func (c controls) wait(t *testing.T, pf, value string) {
	t.Helper()
	select {
	case o := <-c:
		if o.Target != pf || o.Value != value || o.Err != nil {
			t.Fatalf("%q is written to control of %s (%v), want %q to that of %s", o.Value, o.Target, o.Err, value, pf)
		}
	case <-time.After(timeout):
		t.Fatalf("%q is not written to control of %s", value, pf)
	}
}

func TestTelemetryIsOnWhileThePluginRuns(t *testing.T) {
	h := newHost(t)
	writes := followControls(h)
	must(t, h.AddPF(lookalike.PF{Address: pfGen2, DeviceID: "37c8"})) // without telemetry
	t.Run("run", func(t *testing.T) {
		r := start(t, h, Config{Telemetry: true})
		writes.wait(t, pfA, "1")
		for second := range 3 {
			must(t, h.Work(second))
		}
		telemetry := r.Telemetry(context.Background())
		if len(telemetry) != 2 || telemetry[1].Device == nil || telemetry[1].Device.Samples != 4 {
			t.Errorf("telemetry %+v, want 4 samples of %s", telemetry, pfA)
		}
		must(t, h.SetVFs(pfA, 4)) // takes the PF down for a moment
		writes.wait(t, pfA, "1")
		must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
		writes.wait(t, pfB, "1")
		must(t, h.SetState(pfA, "down"))
		must(t, h.SetState(pfA, "up"))
		writes.wait(t, pfA, "1")
		must(t, h.RemovePF(pfB))
	})
	writes.wait(t, pfA, "0")
}

func TestTelemetryIsLeftAloneByDefault(t *testing.T) {
	for name, config := range map[string]Config{
		"default": {},
		"dry run": {Telemetry: true, DryRun: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			writes := followControls(h)
			t.Run("run", func(t *testing.T) {
				r := start(t, h, config)
				ctx, cancel := context.WithTimeout(context.Background(), timeout)
				defer cancel()
				for r.CheckFirstLook(ctx) != nil {
					must(t, ctx.Err())
					time.Sleep(time.Millisecond)
				}
				if got := r.Telemetry(ctx); len(got) != 1 || got[0].Device != nil || len(got[0].Firmware) == 0 {
					t.Errorf("telemetry %+v, want only what the driver always counts", got)
				}
			})
			file := filepath.Join(h.Sysfs(), fmt.Sprintf("kernel/debug/qat_4xxx_%s/telemetry/control", pfA))
			if text, err := os.ReadFile(file); string(text) != "0\n" || len(writes) > 0 {
				t.Errorf("control is %q (%v) after %d writes, want 0 and no writes", text, err, len(writes))
			}
		})
	}
}
