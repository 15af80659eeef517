// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// recordingFile is a recording of a plugin.
const recordingFile = "../../qat/testdata/recordings/failed-bind-and-pci-error.ndjson"

// recordedLines returns how many lines of a type the recording has.
func recordedLines(t *testing.T, text []byte, kind string) int {
	t.Helper()
	n := bytes.Count(text, []byte(`{"type":"`+kind+`"`))
	if n == 0 {
		t.Fatalf("the recording has no line of type %s", kind)
	}
	return n
}

func TestReplayShowsEachStep(t *testing.T) {
	text, err := os.ReadFile(recordingFile)
	must(t, err)
	steps, events := recordedLines(t, text, "step"), recordedLines(t, text, "event")
	r := qatctl(t, "replay", recordingFile).ok(t)
	want := "The replay came to the recorded decisions and lists in all " + count(steps, "step") + "."
	if lines := r.lines(); lines[len(lines)-1] != want {
		t.Errorf("the last line is %q, want %q", lines[len(lines)-1], want)
	}
	var printed []replayedRecording
	must(t, json.Unmarshal([]byte(qatctl(t, "replay", "-o", "json", recordingFile).ok(t).stdout), &printed))
	if len(printed) != 1 || len(printed[0].Entries) != steps+events || len(printed[0].Differences) > 0 {
		t.Fatalf("the JSON has not %d steps and %d events:\n%+v", steps, events, printed)
	}
	for _, e := range printed[0].Entries { // the text has each of them
		if e.Event != nil {
			r.line(t, e.Event.Device)
			continue
		}
		for _, d := range e.Step.Decisions {
			r.line(t, "      "+d.Device+"  "+d.Decision)
		}
		for _, c := range e.Step.Changes {
			r.line(t, "→ "+c.Device+"  "+c.Resource+": "+c.Change)
		}
	}
	for resource, devices := range printed[0].Lists {
		if len(devices) > 0 && !strings.Contains(r.stdout, strings.Join(devices, " ")) {
			t.Errorf("the text lacks the list of %s, %q", resource, devices)
		}
	}
}

// TestReplayTextOfOneDevice filters what is shown, not what is compared.
func TestReplayTextOfOneDevice(t *testing.T) {
	text, err := os.ReadFile(recordingFile)
	must(t, err)
	all := "in all " + count(recordedLines(t, text, "step"), "step") + "."
	for device, none := range map[string]bool{"6b:00.1": false, "99:00.0": true} {
		out := qatctl(t, "replay", "--device", device, recordingFile).ok(t).stdout
		if !strings.Contains(out, all) || strings.Contains(out, "There is no such step or event.") != none {
			t.Errorf("--device %s prints\n%s", device, out)
		}
		if !strings.Contains(out, "-kernel-vf-drivers=dh895xccvf,c6xxvf,c3xxxvf,") {
			t.Errorf("the flags are not those of a command line:\n%s", out)
		}
	}
}

func TestReplayOfOneDevice(t *testing.T) {
	var printed []replayedRecording
	out := qatctl(t, "replay", "-o", "json", "--device", "6b:00.1", recordingFile).ok(t).stdout
	must(t, json.Unmarshal([]byte(out), &printed))
	if len(printed[0].Entries) < 3 {
		t.Errorf("the device has only the entries %+v", printed[0].Entries)
	}
	for _, e := range printed[0].Entries {
		if e.Event != nil && !hasDevice(e.Event, "0000:6b:00.1") {
			t.Errorf("an event of another device: %+v", e.Event)
		}
		if e.Step != nil {
			for _, d := range e.Step.Decisions {
				if d.Device != "0000:6b:00.1" {
					t.Errorf("a decision about another device: %+v", d)
				}
			}
		}
	}
}

func TestReplayReportsOtherDecisions(t *testing.T) {
	text, err := os.ReadFile(recordingFile)
	must(t, err)
	changed := bytes.Replace(text, []byte(`"action":"list"`), []byte(`"action":"skip"`), 1)
	if bytes.Equal(changed, text) {
		t.Fatal("the recording lists no VF")
	}
	file := filepath.Join(t.TempDir(), "changed.ndjson")
	must(t, os.WriteFile(file, changed, 0o600))
	r := qatctl(t, "replay", file)
	r.wantExit(t, 1, "")
	line := 1 + bytes.Count(text[:bytes.Index(text, []byte(`"action":"list"`))], []byte("\n"))
	want := "The replay differs from the recording:\n  line " + strconv.Itoa(line) + ":"
	if !strings.Contains(r.stdout, want) {
		t.Errorf("the difference in line %d is missing:\n%s", line, r.stdout)
	}
}

func TestRecordingCannotControlTheTerminal(t *testing.T) {
	text, err := os.ReadFile(recordingFile)
	must(t, err)
	const evil = `\u001b]0;title\u0007\u001b[8mhidden\u009b31m\r`
	changed := bytes.Replace(text, []byte(`"text":"PF with 0 VFs, resource generic"`), []byte(`"text":"`+evil+`"`), 1)
	if bytes.Equal(changed, text) {
		t.Fatal("the recording has no such event")
	}
	file := filepath.Join(t.TempDir(), "evil.ndjson")
	must(t, os.WriteFile(file, changed, 0o600))
	line := qatctl(t, "replay", "--color", "always", file).ok(t).line(t, "title")
	if !strings.HasSuffix(line, ": �]0;title��[8mhidden�31m�") {
		t.Errorf("the line is %q", line)
	}
}

func TestReplayOfWhatIsNoRecording(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "broken.ndjson")
	text, err := os.ReadFile(recordingFile)
	must(t, err)
	must(t, os.WriteFile(file, append(text[:len(text)/2], "\nnonsense\n"...), 0o600))
	qatctl(t, "replay", file).wantExit(t, 1, "replay "+file+": line ")
	must(t, os.WriteFile(file, nil, 0o600))
	qatctl(t, "replay", file).wantExit(t, 1, "replay "+file+": the recording is empty")
	qatctl(t, "replay", filepath.Join(dir, "missing")).wantExit(t, 1, "no such file or directory")
	qatctl(t, "replay").wantExit(t, exitUsage, "name one file")
}
