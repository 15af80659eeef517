// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/hostwatch"
)

func TestEventsDuringARunLeadToOneMoreRun(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, d *testDevice) {
		r.expectUnits("SSL_dev0_0")
		r.expectRuns(1, "at the start")
		r.hold()
		r.wrote(r.confPath("c6xx_dev0"))
		r.expectRuns(2, "after the first event")
		r.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
		for i := range 1000 {
			r.wrote(r.confPath("c6xx_dev0"))
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		pass(configQuiet)
		r.expectUnits("SSL_dev0_0", "SSL_dev0_1") // a file does not wait for adf_ctl
		r.expectRuns(2, "while it runs")
		r.down(t, d)
		r.release()
		r.expectRuns(3, "in all")
		r.expectUnits()
		pass(time.Hour)
		r.expectRuns(3, "an hour later")
	})
}

func TestRunsPerEvent(t *testing.T) {
	const devpath = "/devices/pci0000:3b/0000:3b:00.0"
	const other = "/devices/pci0000:00/0000:00:1f.0"
	const unlisted = "/devices/pci0000:d8/" + addressB
	for name, test := range map[string]struct {
		message string // a uevent
		path    string // or the path of an event of inotify, below the host's directory
		want    int    // runs of adf_ctl
	}{
		"a known function": {message: message("change", devpath, "SUBSYSTEM=pci"), want: 1},
		// The second run is the one after everything is gone.
		"a known function goes":         {message: message("remove", devpath+"/uio/uio0", "SUBSYSTEM=uio"), want: 2},
		"an unknown function":           {message: message("bind", other, "SUBSYSTEM=pci"), want: 0},
		"an unknown function goes":      {message: message("remove", other, "SUBSYSTEM=pci"), want: 0},
		"an unknown function's UIO":     {message: message("add", other+"/uio/uio7", "SUBSYSTEM=uio"), want: 0},
		"an unlisted co-processor":      {message: message("add", unlisted, "SUBSYSTEM=pci"), want: 1},
		"a configuration file":          {path: "etc/c6xx_dev0.conf", want: 1},
		"a UIO node, which is as known": {path: "dev/uio0", want: 0},
		"a driver, which is as known":   {path: "sys/bus/pci/drivers/c6xx", want: 0},
		"a file that does not matter":   {path: "dev/null", want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
				if strings.Contains(test.message, addressB) {
					must(t, r.AddPF(lookalike.PF{Address: addressB, DeviceID: "37c8"}))
					must(t, r.Unbind(addressB))
				}
				if test.message != "" {
					r.uevent(test.message)
				} else {
					r.wrote(filepath.Join(r.Dir(), test.path))
				}
				pass(time.Hour)
				r.expectRuns(1+test.want, "in all")
				r.expectUnits("SSL_dev0_0")
			})
		})
	}
}

// sysfs no longer tells what a removed function was.
func TestRemovalOfAListedFunctionStartsARun(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, d *testDevice) {
		r.remove(t, d)
		r.uevent(message("remove", "/devices/pci0000:3b/"+addressA, "SUBSYSTEM=pci"))
		r.expectRuns(2, "after the event")
		r.expectUnits()
		r.expectSkipped(map[string]string{})
	})
}

func TestLastingContradictionLeadsToThreeMoreRuns(t *testing.T) {
	for name, contradict := range map[string]func(*testing.T, *testHost, *testDevice){
		"found in an answer":      func(t *testing.T, h *testHost, d *testDevice) { h.setState(t, d, "restarting") },
		"found before the answer": func(t *testing.T, h *testHost, d *testDevice) { h.removeUIO(t, d) },
	} {
		t.Run(name, func(t *testing.T) {
			const perEvent = 1 + maxInconsistent
			inBubble(t, 0, nil, func(t *testing.T, r *testRun, d *testDevice) {
				contradict(t, r.testHost, d)
				r.wrote(r.confPath("c6xx_dev0"))
				pass(time.Hour)
				r.expectRuns(1+perEvent, "in all")
				r.wrote(filepath.Join(r.Dev(), "uio7"))
				pass(time.Hour)
				r.expectRuns(1+perEvent, "after a read that found the same contradiction")
				r.wrote(r.confPath("c6xx_dev0"))
				pass(time.Hour)
				r.expectRuns(1+2*perEvent, "after one more event")
				must(t, r.AddPF(lookalike.PF{Address: addressB, DeviceID: "37c8"}))
				r.wrote(filepath.Join(r.Sysfs(), "bus/pci/drivers"))
				pass(time.Hour)
				r.expectRuns(1+3*perEvent, "after a read that found another contradiction")
			})
		})
	}
}

// A driver that is bound to a function that adf_ctl does not list was loaded
// after adf_ctl ran. Perhaps no event names that function.
func TestNewContradictionStartsARun(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		must(t, r.AddPF(lookalike.PF{Address: addressB, DeviceID: "37c8"}))
		r.wrote(filepath.Join(r.Sysfs(), "bus/pci/drivers"))
		r.expectRuns(2, "after the read")
		d := r.list(t, &testDevice{kind: "c6xx", number: 1, address: addressB})
		r.up(t, d)
		r.conf(t, "c6xx_dev1", sec("SHIM", 1, 1, 0))
		pass(time.Minute)
		r.expectUnits("SHIM_dev1_0", "SSL_dev0_0")
	})
}

// The answer may list a device that has gone since. Its event arrived before
// anything was known of the device.
func TestEventOfADeviceThatAnAnswerIsAboutToListCounts(t *testing.T) {
	inBubble(t, 0, func(run int, text string) (string, error) {
		if run == 2 {
			text += " qat_dev1 - type: c6xx, inst_id: 1, node_id: 0, bsf: " + addressB + ", state: down\n"
		}
		return text, nil
	}, func(t *testing.T, r *testRun, _ *testDevice) {
		r.hold()
		r.wrote(r.confPath("c6xx_dev0"))
		r.expectRuns(2, "after the first event")
		r.uevent(message("unbind", "/devices/pci0000:d8/"+addressB, "SUBSYSTEM=pci", "PCI_CLASS=B4000"))
		synctest.Wait()
		r.release()
		r.expectRuns(3, "in all")
		r.expectSkipped(map[string]string{})
	})
}

func TestFailureIsRetriedWithBackOff(t *testing.T) {
	logged := captureLog(t)
	inBubble(t, 0, func(run int, text string) (string, error) {
		if run > 1 && run <= 12 {
			return "", errors.New("no")
		}
		return text, nil
	}, func(t *testing.T, r *testRun, _ *testDevice) {
		r.wrote(r.confPath("c6xx_dev0"))
		pass(time.Second)
		r.expectRuns(4, "within a second") // at 0, 0.1 and 0.5 s
		r.expectSkipped(map[string]string{"adf_ctl": "no"})
		r.expectUnits("SSL_dev0_0") // as before
		pass(90 * time.Minute)
		r.expectRuns(13, "within 90 minutes")
		pass(time.Hour)
		r.expectRuns(13, "after it succeeded")
		r.expectSkipped(map[string]string{})
	})
	if lines := logged("Cannot get the state"); len(lines) != 1 {
		t.Errorf("the failure was logged %d times, want once: %q", len(lines), lines)
	}
	if lines := logged("adf_ctl works again"); len(lines) != 1 {
		t.Errorf("the recovery was logged %d times, want once: %q", len(lines), lines)
	}
}

// After output that cannot be parsed, the last answer stays in effect. A program that alternates
// between failure and success does not fill the log.
func TestInvalidOutputKeepsTheLastAnswer(t *testing.T) {
	logged := captureLog(t)
	inBubble(t, 0, func(run int, text string) (string, error) {
		if run%2 == 0 {
			return "y\n", nil
		}
		return text, nil
	}, func(t *testing.T, r *testRun, _ *testDevice) {
		const reason = "parse adf_ctl status: the output has neither a line of a device nor the line for 0 devices"
		for range 100 {
			r.wrote(r.confPath("c6xx_dev0"))
			synctest.Wait()
			r.expectUnits("SSL_dev0_0")
			r.expectSkipped(map[string]string{"adf_ctl": reason})
			pass(100 * time.Millisecond) // until the retry
			r.expectSkipped(map[string]string{})
		}
	})
	if lines := logged("Cannot get the state"); len(lines) != 1 {
		t.Errorf("the failure was logged %d times in 10 s, want once: %q", len(lines), lines)
	}
	if lines := logged("adf_ctl works again"); len(lines) != 1 {
		t.Errorf("the recovery was logged %d times in 10 s, want once: %q", len(lines), lines)
	}
}

func TestRetryIntervals(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var r retry
	var waits []time.Duration
	for range 50 {
		r.schedule(start, true, false)
		waits = append(waits, r.next.Sub(start))
	}
	want := []time.Duration{
		100 * time.Millisecond,
		400 * time.Millisecond,
		1600 * time.Millisecond,
		6400 * time.Millisecond,
		25600 * time.Millisecond,
		102400 * time.Millisecond,
		409600 * time.Millisecond,
	}
	for len(want) < 50 {
		want = append(want, retryMax)
	}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Errorf("waits (-want +got):\n%s", diff)
	}
	if r.schedule(start, false, true); !r.next.IsZero() {
		t.Error("a contradiction after many failures is retried")
	}
	if r.schedule(start, false, false); r != (retry{}) {
		t.Errorf("success leaves %+v", r)
	}
}

// An event or a loss ends the back-off: the next failure starts with the first interval.
func TestEventResetsTheBackOff(t *testing.T) {
	inBubble(t, 0, func(run int, text string) (string, error) {
		if run > 1 {
			return "", errors.New("no")
		}
		return text, nil
	}, func(t *testing.T, r *testRun, _ *testDevice) {
		r.wrote(r.confPath("c6xx_dev0"))
		pass(10 * time.Second)
		r.expectRuns(6, "within 10 s") // at 0, 0.1, 0.5, 2.1 and 8.5 s
		r.wrote(r.confPath("c6xx_dev0"))
		pass(time.Second)
		r.expectRuns(9, "within 1 s after another event")
		r.sink.Resync("test")
		pass(time.Second)
		r.expectRuns(12, "within 1 s after a loss")
	})
}

// Until the first answer the loop audits the host often, and each audit asks
// for everything. That must not reset the back-off.
func TestAuditDoesNotResetTheBackOff(t *testing.T) {
	inBubble(t, time.Hour, func(int, string) (string, error) { return "", errors.New("no") },
		func(t *testing.T, r *testRun, _ *testDevice) {
			pass(31 * time.Second)
			r.expectRuns(6, "within 31 s") // at 0, 0.1, 0.5, 2.1 and 8.5 s, and with the audit
			pass(28 * time.Second)
			r.expectRuns(6, "within 59 s")
		})
}

// The audit that asks for everything must not cut the back-off short either, if
// adf_ctl was hanging meanwhile.
func TestAuditDuringAFailingRunLeadsToNoRunAtOnce(t *testing.T) {
	inBubble(t, time.Hour, func(int, string) (string, error) { return "", errors.New("no") },
		func(t *testing.T, r *testRun, _ *testDevice) {
			r.hold()
			pass(time.Second)
			r.expectRuns(2, "before the audit") // the first retry hangs
			pass(30 * time.Second)
			r.release()
			r.expectRuns(2, "after the failure")
			pass(400 * time.Millisecond)
			r.expectRuns(3, "with the back-off")
		})
}

// The run after the one that failed is the first for the event of a removal.
func TestRemovalDuringAFailingRunLeadsToTwoMoreRuns(t *testing.T) {
	inBubble(t, 0, func(run int, text string) (string, error) {
		if run == 2 {
			return "", errors.New("no")
		}
		return text, nil
	}, func(t *testing.T, r *testRun, _ *testDevice) {
		r.hold()
		r.wrote(r.confPath("c6xx_dev0"))
		r.expectRuns(2, "after the first event")
		r.uevent(message("remove", "/devices/pci0000:3b/"+addressA+"/uio/uio0", "SUBSYSTEM=uio"))
		synctest.Wait()
		r.release()
		pass(time.Minute)
		r.expectRuns(4, "in all")
	})
}

func TestFirstReadIsDoneAfterTheFirstSuccess(t *testing.T) {
	var works atomic.Bool
	inBubble(t, 0, func(_ int, text string) (string, error) {
		if !works.Load() {
			return "", errors.New("no such program")
		}
		return text, nil
	}, func(t *testing.T, r *testRun, _ *testDevice) {
		if tree := r.tree.Load(); tree == nil || len(units(tree)) > 0 {
			t.Errorf("after the first failure the Tree has %v, want an empty Tree", units(tree))
		}
		pass(time.Minute)
		if r.loop.CheckFirstLook(t.Context()) == nil {
			t.Error("the host counts as read, though adf_ctl never succeeded")
		}
		works.Store(true)
		pass(time.Minute)
		if err := r.loop.CheckFirstLook(t.Context()); err != nil {
			t.Errorf("after the first success: %v", err)
		}
		r.expectUnits("SSL_dev0_0")
	})
}

func TestNothingIsPublishedBeforeTheFirstAnswer(t *testing.T) {
	h, _ := newHostWithDevice(t)
	synctest.Test(t, func(t *testing.T) {
		status := func(context.Context) ([]byte, error) { return []byte(h.statusText()), nil }
		r := start(t, h, options{status: status, held: true})
		r.wrote(filepath.Join(r.Dev(), "uio0"))
		pass(time.Second)
		if tree := r.tree.Load(); tree != nil {
			t.Errorf("published %v", units(tree))
		}
		usdm := filepath.Join(r.Dev(), "usdm_drv")
		must(t, os.Rename(usdm, usdm+".off"))
		r.wrote(usdm)
		synctest.Wait()
		r.expectSkipped(map[string]string{})
		must(t, os.Rename(usdm+".off", usdm))
		r.release()
		r.expectUnits("SSL_dev0_0")
		r.expectRuns(2, "in all") // the control node is a reason for one more
		r.stop()
	})
}

func TestAuditFindsChangesWithoutEvents(t *testing.T) {
	for name, test := range map[string]struct {
		event bool // arrives within hostwatch.AuditGrace
		drift uint64
	}{
		"and counts them as drift":                {false, 1},
		"unless the event arrives a moment later": {true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Minute, nil, func(t *testing.T, r *testRun, _ *testDevice) {
				r.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
				pass(59 * time.Second)
				r.expectUnits("SSL_dev0_0")
				pass(time.Second)
				r.expectRuns(2, "with the audit")
				r.expectUnits("SSL_dev0_0")
				if test.event {
					r.wrote(r.confPath("c6xx_dev0"))
				}
				pass(hostwatch.AuditGrace)
				r.expectUnits("SSL_dev0_0", "SSL_dev0_1")
				r.expectRuns(3, "in all")
				pass(time.Minute)
				r.expectRuns(4, "with the next audit")
				r.stop()
				if got := r.mode.drift.Total(); got != test.drift {
					t.Errorf("drift %d, want %d", got, test.drift)
				}
			})
		})
	}
}

func TestEventDuringAnAuditCounts(t *testing.T) {
	inBubble(t, time.Minute, nil, func(t *testing.T, r *testRun, d *testDevice) {
		r.setState(t, d, "down")
		r.hold()
		pass(time.Minute)
		r.expectRuns(2, "with the audit")
		r.wrote(r.confPath("c6xx_dev0"))
		synctest.Wait()
		r.release()
		r.expectUnits() // without waiting for the recheck
		r.expectRuns(3, "in all")
	})
}

func TestEventDuringARecheckIsNoDrift(t *testing.T) {
	inBubble(t, time.Minute, nil, func(t *testing.T, r *testRun, d *testDevice) {
		r.setState(t, d, "down")
		pass(time.Minute)
		r.hold()
		pass(hostwatch.AuditGrace)
		r.expectRuns(3, "with the recheck")
		r.expectUnits("SSL_dev0_0")
		r.wrote(r.confPath("c6xx_dev0"))
		synctest.Wait()
		r.release()
		r.expectUnits()
		r.stop()
		if got := r.mode.drift.Total(); got != 0 {
			t.Errorf("drift %d, want 0", got)
		}
	})
}

// Audits more frequent than hostwatch.AuditGrace must not put off the second look forever.
func TestFrequentAuditsStillFindChanges(t *testing.T) {
	inBubble(t, hostwatch.AuditGrace/2, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		r.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
		pass(2 * hostwatch.AuditGrace)
		r.expectUnits("SSL_dev0_0", "SSL_dev0_1")
	})
}

func TestChangeThatIsUndoneBeforeTheRecheckIsNoDrift(t *testing.T) {
	inBubble(t, time.Minute, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		r.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
		pass(time.Minute)
		r.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
		pass(hostwatch.AuditGrace)
		r.expectRuns(3, "with the recheck")
		r.stop()
		if got := r.mode.drift.Total(); got != 0 {
			t.Errorf("drift %d, want 0", got)
		}
	})
}

func TestAuditThatFindsNothingIsNoDrift(t *testing.T) {
	inBubble(t, time.Minute, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		pass(10*time.Minute + time.Second)
		r.expectRuns(11, "in 10 minutes")
		r.stop()
		if got := r.mode.drift.Total(); got != 0 {
			t.Errorf("drift %d, want 0", got)
		}
	})
}

func TestLossLeadsToAFullRead(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, d *testDevice) {
		r.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
		r.sink.Resync("test")
		synctest.Wait()
		pass(configQuiet)
		r.expectUnits("SSL_dev0_0", "SSL_dev0_1")
		r.expectRuns(2, "in all")
		r.down(t, d)
		r.sink.Resync("test")
		r.expectUnits()
	})
}

func TestWithoutEventsNothingRuns(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		pass(24 * time.Hour)
		r.expectRuns(1, "in a day")
		if next := r.state.Load().Next; !next.IsZero() {
			t.Errorf("Reconcile is due at %v", next)
		}
	})
}

// The log says how long a change took since the event that adf_ctl ran for,
// which may have waited for a run before.
func TestChangeIsLoggedWithTheTimeSinceItsEvent(t *testing.T) {
	logged := captureLog(t)
	inBubble(t, 0, func(run int, text string) (string, error) {
		if run > 1 {
			time.Sleep(3 * time.Second) // of the bubble
		}
		return text, nil
	}, func(t *testing.T, r *testRun, d *testDevice) {
		event := events.Event{
			Origin: events.Inotify,
			Action: events.Write,
			Path:   []byte(r.confPath("c6xx_dev0")),
			Time:   time.Now().Add(-500 * time.Millisecond), // when it was received
		}
		r.setState(t, d, "restarting")
		r.sink.Event(&event)
		pass(time.Second)
		r.setState(t, d, "up")
		r.wrote(r.confPath("c6xx_dev0"))
		pass(10 * time.Second)
	})
	lines := logged("List changed")
	if len(lines) != 3 || !strings.Contains(lines[1], `after="3.5s"`) || !strings.Contains(lines[2], `after="5s"`) {
		t.Errorf("logged %q, want two changes after 3.5s and 5s", lines)
	}
}

func TestLineThatCannotBeParsedIsSkipped(t *testing.T) {
	inBubble(t, 0, func(_ int, text string) (string, error) { return text + " qat_dev7 - type: c6xx\n", nil },
		func(t *testing.T, r *testRun, _ *testDevice) {
			r.expectUnits("SSL_dev0_0")
			r.expectSkipped(map[string]string{
				"qat_dev7": `parse adf_ctl status: no inst_id in "qat_dev7 - type: c6xx"`,
			})
		})
}

func TestOutcome(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		known, other := Key{address: address(t, addressA)}, Key{address: address(t, "0000:00:1f.0")}
		r.uevent(message("bind", "/devices/pci0000:00/0000:00:1f.0", "SUBSYSTEM=pci"))
		synctest.Wait()
		r.stop()
		for key, want := range map[Key]string{
			known:            "read the host and ran adf_ctl",
			other:            "not a QAT device",
			{kind: keyStack}: "read the host and ran adf_ctl",
			{kind: keyFiles}: "read the host",
		} {
			if got := r.mode.Outcome(key); got != want {
				t.Errorf("the outcome of %v is %q, want %q", key, got, want)
			}
		}
	})
}

func TestSnapshotDescribesDevicesAndUnits(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		r.expectUnits("SSL_dev0_0")
		r.stop()
		var got status.Snapshot
		r.mode.Snapshot()(&got, map[string]string{"c6xx_dev0": "it is broken"})
		want := status.Snapshot{
			Processes: []status.Process{{ID: "SSL_dev0_0", Resource: "cy1_dc0", Health: status.Healthy}},
			PFs: []status.PF{{
				Address: addressA, Family: "c6xx", Driver: "c6xx", NUMANode: 0, State: "up", Health: status.Healthy,
				Reason: "it is broken",
			}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("snapshot (-want +got):\n%s", diff)
		}
	})
}

// The error of an adf_ctl that was killed because the plugin stops is no failure to report.
func TestAnswerAfterTheEndIsDropped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	host := hostwatch.Host[Key]{
		Mark:    func(Key, time.Time) { t.Error("the answer was reported") },
		Watches: &hostwatch.Watches{},
	}
	h := newTestHost(t)
	cfg := Config{Sysfs: h.Sysfs(), Dev: h.Dev(), Etc: h.etc}
	m := newMode(ctx, cfg, host, func(ctx context.Context) ([]byte, error) { return nil, ctx.Err() })
	m.Reconcile(time.Now(), &hostwatch.Batch[Key]{All: true})
	m.Close()
	if a, ok := m.adfctl.take(); ok {
		t.Errorf("answer %+v", a)
	}
}

func TestUnreadableHostKeepsTheTree(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		r.breakDir(t, "class/iommu")
		r.wrote(r.confPath("c6xx_dev0"))
		r.expectUnits("SSL_dev0_0")
		if reason := r.skipped()["host"]; !strings.Contains(reason, "class/iommu") {
			t.Errorf("the host is skipped for %q, want class/iommu", reason)
		}
		// The loop retries while the read fails.
		r.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
		must(t, os.Remove(filepath.Join(r.Sysfs(), "class/iommu")))
		pass(time.Minute)
		r.expectUnits("SSL_dev0_0", "SSL_dev0_1")
		r.expectSkipped(map[string]string{})
	})
}

// A process that the kernel blocks cannot be killed.
func TestCloseDoesNotWaitForABlockedADFCtl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := newHostWithDevice(t)
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		host := hostwatch.Host[Key]{Mark: func(Key, time.Time) {}, Watches: hostwatch.NewWatches(nil)}
		cfg := Config{Sysfs: h.Sysfs(), Dev: h.Dev(), Etc: h.etc}
		m := newMode(ctx, cfg, host, func(context.Context) ([]byte, error) {
			<-release
			return nil, nil
		})
		m.Reconcile(time.Now(), &hostwatch.Batch[Key]{All: true, Since: time.Now()})
		cancel()
		closed := time.Now()
		m.Close()
		if took := time.Since(closed); took != hostwatch.CloseTimeout {
			t.Errorf("Close took %v, want %v", took, hostwatch.CloseTimeout)
		}
		close(release)
		m.Close()
	})
}
