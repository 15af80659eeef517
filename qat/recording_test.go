// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/dpdk"
)

// TestRecordingsOfUsers replays the recordings in testdata/recordings. Each must lead to the
// decisions and lists that it has. To make a report of a user a test, put the recording there.
func TestRecordingsOfUsers(t *testing.T) {
	files, err := filepath.Glob("testdata/recordings/*.ndjson")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("there are no recordings")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			must(t, err)
			replayed, err := Replay(bytes.NewReader(text))
			must(t, err)
			for _, r := range replayed.Recordings {
				if len(r.Differences) > 0 {
					t.Errorf("the replay differs:\n%s", strings.Join(r.Differences, "\n"))
				}
				if len(r.Entries) == 0 {
					t.Error("the recording is empty")
				}
			}
		})
	}
}

func TestRecordingOfARunningPlugin(t *testing.T) {
	h := newHost(t)
	config := from(newUeventSource(h))
	config.Journal = status.NewJournal(1000)
	r := start(t, h, config)
	must(t, h.SetVFs(pfA, 4))
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
	must(t, h.SetVFs(pfB, 2))
	r.becomes(map[string][]string{"cy": h.VFs(pfA), "dc": h.VFs(pfB)})
	vf := h.VFs(pfB)[0]
	isEvent := func(e *status.Event) bool { return e.Action == "add" && e.Device == vf }
	isIn := func(e status.Event) bool { return isEvent(&e) }
	for end := time.Now().Add(timeout); !slices.ContainsFunc(config.Journal.Since(0), isIn); {
		if time.Now().After(end) {
			t.Fatalf("the journal does not have the event of %s", vf)
		}
		time.Sleep(time.Millisecond)
	}
	var text bytes.Buffer
	must(t, r.WriteRecording(t.Context(), &text))
	replayed, err := Replay(&text)
	must(t, err)
	if len(replayed.Recordings) != 1 {
		t.Fatalf("%d recordings, want 1", len(replayed.Recordings))
	}
	recording := replayed.Recordings[0]
	if len(recording.Differences) > 0 {
		t.Errorf("the replay differs:\n%s", strings.Join(recording.Differences, "\n"))
	}
	want := map[string][]string{"cy": h.VFs(pfA), "dc": h.VFs(pfB)}
	if diff := cmp.Diff(want, lists(recording.Tree)); diff != "" {
		t.Errorf("lists after the replay (-want +got):\n%s", diff)
	}
	// The add event of a VF comes before the step that it led to.
	event := slices.IndexFunc(recording.Entries, func(e dpdk.RecordedEntry) bool {
		return e.Event != nil && isEvent(e.Event)
	})
	step := slices.IndexFunc(recording.Entries, func(e dpdk.RecordedEntry) bool {
		return e.Event == nil && strings.Contains(e.Step.Cause, vf)
	})
	if event < 0 || step < event {
		t.Errorf("the event of %s is entry %d, its step %d", vf, event, step)
	}
}

func TestWithoutARecorderThereIsNoRecording(t *testing.T) {
	for name, config := range map[string]Config{
		"mode kernel has no recorder":  {Mode: ModeKernel},
		"the recorder is switched off": {RecorderLimit: -1},
	} {
		p, err := New(config)
		must(t, err)
		var text bytes.Buffer
		if err := p.WriteRecording(t.Context(), &text); err == nil || err.Error() != name || text.Len() > 0 {
			t.Errorf("error %v, want %s", err, name)
		}
	}
	p, err := New(Config{})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p.WriteRecording(ctx, &bytes.Buffer{}) == nil {
		t.Error("a recording is written after the context has ended")
	}
	var text bytes.Buffer
	must(t, p.WriteRecording(t.Context(), &text)) // before Watch
	if replayed, err := Replay(&text); err != nil || len(replayed.Recordings) != 1 {
		t.Errorf("replay before Watch: %+v, %v", replayed, err)
	}
}
