// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
)

// replay replays what a Recorder holds.
func replay(t interface {
	Helper()
	Fatal(...any)
}, r *Recorder) []*Recording {
	t.Helper()
	var text bytes.Buffer
	if err := r.Write(&text); err != nil {
		t.Fatal(err)
	}
	recordings, err := Replay(&text)
	if err != nil {
		t.Fatal(err)
	}
	return recordings
}

// checkRecording replays the recording of a controller, and compares what follows with what the
// controller lists.
func checkRecording(t interface {
	Helper()
	Fatal(...any)
	Errorf(string, ...any)
}, c *controller) *Recording {
	t.Helper()
	recordings := replay(t, c.recorder)
	last := recordings[len(recordings)-1]
	for _, r := range recordings {
		if len(r.Differences) > 0 {
			t.Errorf("the replay differs:\n%s", strings.Join(r.Differences, "\n"))
		}
	}
	if diff := cmp.Diff(devicesOf(c.assignment.tree), devicesOf(last.Tree)); diff != "" {
		t.Errorf("the Tree after the replay (-want +got):\n%s", diff)
	}
	return last
}

// Any history can be replayed, whatever part of it the Recorder still holds.
func TestRecordingOfAnyHistoryEndsInTheSameTree(t *testing.T) {
	dir, err := lookalike.MkdirTemp()
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		w := newHistory(t, filepath.Join(dir, fmt.Sprint(n)))
		cfg := Config{
			Attributes: w.attributes,

			Limit:    rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "limit"),
			Policy:   rapid.SampledFrom([]policy.Policy{"", policy.Balanced, policy.Packed}).Draw(t, "policy"),
			Recorder: NewRecorder(rapid.SampledFrom([]int{1, 10, 1000}).Draw(t, "recorder"), status.NewJournal(10)),
			Writer:   &dryWriter{},
		}
		w.controller = New(context.Background(), withDefaults(w.host, cfg, nil), hostwatch.Host[Key]{
			Mark:    func(Key, time.Time) {},
			Watches: hostwatch.NewWatches(nil),
		}).(*controller)
		t.Cleanup(w.controller.Close)
		actions := w.actions()
		actions["share a group"] = func(t *rapid.T) {
			pf := rapid.SampledFrom(historyPFs).Draw(t, "pf").Address
			if vfs := w.host.VFs(pf); len(vfs) > 1 {
				_ = w.host.ShareGroup(vfs[1], vfs[0])
			}
		}
		actions["withdraw"] = func(t *rapid.T) {
			c := w.controller
			a, _ := pci.Parse(rapid.SampledFrom(historyPFs).Draw(t, "pf").Address)
			c.allocator.Withdraw(a, rapid.SampledFrom([]string{"", "it changes"}).Draw(t, "reason"))
			w.reconcile(&hostwatch.Batch[Key]{Keys: []Key{{kind: keyWithdrawal, address: a}}})
		}
		t.Repeat(actions)
		w.deliver(len(w.queue))
		checkRecording(t, w.controller)
	})
}

func TestRecorderKeepsTheNewestSteps(t *testing.T) {
	inBubble(t, "recorder", func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1, vfA2)
		r := newRig(t, h, Config{Recorder: NewRecorder(10, nil)})
		r.rescan()
		for range 100 {
			r.read(vfA1)
			time.Sleep(time.Millisecond)
		}
		last := checkRecording(t, r.controller)
		steps, decisions := 0, 0
		for _, e := range last.Entries {
			steps++
			decisions += len(e.Step.Decisions)
		}
		if size := steps + decisions; size > 10 || size < 5 || steps != decisions {
			t.Errorf("%d decisions in %d steps are kept, want 5 to 10 of both", decisions, steps)
		}
		if step := last.Entries[steps-1].Step; step.Cause != vfA1 || step.Decisions[0].Text != "list in cy" {
			t.Errorf("the last step is %+v", step)
		}
		r.rescan() // more decisions than a segment holds
		checkRecording(t, r.controller)
	})
}

// A step can have few decisions and yet refer to all VFs of the host: those that could not be
// bound, or that share an IOMMU group.
func TestRecorderLimitsTheMemoryOfStepsWithFewDecisions(t *testing.T) {
	const vfs, limit = 512, 2048
	waiting := map[pci.Address]decision{}
	b := &fakeBindings{failed: map[pci.Address]bool{}}
	group := make([]member, vfs)
	for n := range vfs {
		a := pci.Address{Bus: uint8(n / 128), Device: uint8(n / 8 % 16), Function: uint8(n % 8)}
		waiting[a] = decision{
			vf: a, action: actionBind, function: &function{Function: &device.Function{Address: a, IsVF: true}},
		}
		b.failed[a], group[n].address = true, a
	}
	pfOf := func(pci.Address) (pci.Address, bool) { return pci.Address{}, false }
	for name, members := range map[string][]member{"failed binds": nil, "shared group": group} {
		t.Run(name, func(t *testing.T) {
			a := &assignment{
				limit:   1,
				listed:  map[pci.Address]*place{},
				waiting: maps.Clone(waiting),
				skipped: map[string]string{},
				classes: map[pci.Address]string{},
				tree:    &devtree.Tree{},
			}
			r := NewRecorder(limit, nil)
			before := heap()
			for n := range limit / 2 {
				d := waiting[group[n%vfs].address]
				f := []facts{{address: d.vf, vf: d.function, members: slices.Clone(members)}}
				s := r.begin(f, []decision{d}, a, time.Now())
				observed, observedPFOf := r.observe(s, b, pfOf)
				r.end(s, a.apply([]decision{d}, observed, observedPFOf, time.Now()), a)
			}
			// A decision takes 1 KB, and the waiting VFs of a checkpoint take the memory of their
			// number of decisions at most.
			if held := heap() - before; held > (limit+2*vfs)<<10 {
				t.Errorf("the Recorder holds %d KiB", held>>10)
			}
			runtime.KeepAlive(r)
		})
	}
}

// heap returns how many bytes of the heap are in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // frees what the first one found to be unused
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Events of PFs and of devices that are not QAT can be many, and lead to no decision.
func TestRecorderKeepsNothingOfStepsWithoutDecisions(t *testing.T) {
	inBubble(t, "steps", func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1, vfA2)
		r := newRig(t, h, Config{Recorder: NewRecorder(10, nil)})
		r.rescan()
		for range 100 {
			r.read(pfA, "0000:00:1f.0")
		}
		entries := checkRecording(t, r.controller).Entries
		if len(entries) != 1 || entries[0].Step.Cause != "full read" {
			t.Errorf("%d steps are recorded, want that of the full read: %+v", len(entries), entries)
		}
		must(t, h.RemoveVF(vfA1)) // there is no VF any more, which is a decision
		r.read(vfA1)
		entries = checkRecording(t, r.controller).Entries
		if last := entries[len(entries)-1].Step; len(last.Decisions) != 1 || last.Decisions[0].Text != "no VF there" {
			t.Errorf("the removal of a VF led to %+v", last)
		}
	})
}

func TestRecordingOfTheFirstDriftIsKept(t *testing.T) {
	inBubble(t, "drift", func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1, vfA2)
		journal := status.NewJournal(100)
		journal.Append(status.Event{Time: time.Now(), Kind: status.KindUevent, Path: "/devices/x"})
		r := newRig(t, h, Config{Recorder: NewRecorder(4, journal)})
		r.rescan()
		drift := func(vf string) {
			must(t, h.RemoveVF(vf))
			r.reconcile(&hostwatch.Batch[Key]{Audit: true})
			r.pass(hostwatch.AuditGrace)
		}
		drift(vfA1)
		for range 10 {
			r.read(vfA2)
		}
		drift(vfA2)
		recordings := replay(t, r.controller.recorder)
		if len(recordings) != 2 || recordings[0].Reason != "drift" || recordings[1].Reason != "" {
			t.Fatalf("recordings %+v", recordings)
		}
		first := recordings[0]
		if got := lists(first.Tree); !cmp.Equal(got, map[string][]string{"cy": {vfA2}}) {
			t.Errorf("the recording of the first drift ends with %v", got)
		}
		if e := first.Entries[0].Event; e == nil || e.Path != "/devices/x" {
			t.Errorf("the recording begins with %+v", first.Entries[0])
		}
		if got := lists(recordings[1].Tree); len(got["cy"]) > 0 {
			t.Errorf("the last recording ends with %v", got)
		}
	})
}

func TestReplayReportsWhatDiffers(t *testing.T) {
	inBubble(t, "replay", func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{Recorder: NewRecorder(100, nil)})
		r.rescan()
		var text strings.Builder
		must(t, r.controller.recorder.Write(&text))
		for change, want := range map[string]string{
			`"resource":"cy","device"`:    "line 3: " + vfA1 + ": decided to",
			`"resource":"cy"}]`:           "line 3: the lists changed by",
			`"resources":{"cy"`:           "line 4: " + vfA1 + " is listed in cy, and is not in the recording",
			`"driver":"vfio-pci","served`: "line 3: " + vfA1 + ": decided to",
		} {
			if !strings.Contains(text.String(), change) {
				t.Fatalf("the recording does not have %s:\n%s", change, text.String())
			}
			with := strings.NewReplacer("cy", "dc", "vfio-pci", "igb_uio").Replace(change)
			recordings, err := Replay(strings.NewReader(strings.Replace(text.String(), change, with, 1)))
			must(t, err)
			if got := strings.Join(recordings[0].Differences, "\n"); !strings.Contains(got, want) {
				t.Errorf("with %s, the differences are %q, want %q", with, got, want)
			}
		}
	})
}

func TestReplayRejectsWhatIsNoRecording(t *testing.T) {
	const header = `{"type":"header","version":1,"driver":"vfio-pci","served":["4xxxvf"]}` + "\n"
	const checkpoint = `{"type":"checkpoint","listed":[]}` + "\n"
	const vf = "0000:6b:00.1"
	step := func(facts string) string {
		return header + checkpoint + `{"type":"step","facts":[{"address":"` + vf + `",` + facts + `}]}`
	}
	listed := func(place string) string { return header + `{"type":"checkpoint","listed":[{` + place + `}]}` }
	for text, want := range map[string]string{
		"":                            "the recording is empty",
		"{":                           "line 1: ",
		checkpoint:                    "line 1: the recording does not begin with a header",
		`{"type":"header"}`:           "line 1: version 0 of the format: only version 1 can be read",
		header + `{"type":"step"}`:    "line 2: there is no checkpoint before the first step",
		header + `{"type":"new"}`:     `line 2: unknown type "new"`,
		header + "\n{\"type\":\"step": "line 3: ",
		header + checkpoint:           "the recording is cut off",
		header + checkpoint + header:  "line 3: the recording before it is cut off",
		listed(`"vf":"x"`):            `line 2: "x" is not a PCI address`,
		listed(`"vf":"` + vf + `","action":"list"`):                    "line 2: listed VF " + vf + " has no device",
		listed(`"vf":"` + vf + `","action":"explode"`):                 `line 2: unknown action "explode"`,
		step(`"vf":{"deviceID":"1"}`):                                  `line 3: "1" is not the device ID`,
		step(`"groupErr":"x"`):                                         "line 3: VF " + vf + " without an IOMMU group",
		header + `{"type":"tree","resources":{"!":{"` + vf + `":{}}}}`: "line 2: list " + vf,
	} {
		_, err := Replay(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

func TestNilRecorderRecordsNothing(t *testing.T) {
	r := NewRecorder(-1, nil)
	if r != nil {
		t.Fatal("a Recorder for a negative limit")
	}
	r.keepDrift()
	var text bytes.Buffer
	if err := r.Write(&text); err != nil || text.Len() > 0 {
		t.Errorf("it writes %q, %v", text.String(), err)
	}
}

// endless is a file without lines, such as /dev/zero.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	if e.read += len(p); e.read > 4*maxLine {
		return 0, errors.New("it was read on and on")
	}
	return len(p), nil
}

func TestReplayLimitsTheLengthOfALine(t *testing.T) {
	_, err := Replay(&endless{})
	if err == nil || !strings.Contains(err.Error(), "line 1: it is longer than 64 MiB") {
		t.Errorf("error %v", err)
	}
}
