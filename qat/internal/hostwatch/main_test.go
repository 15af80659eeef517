// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"qatplugin/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeEnvironment is where a test pretends to run. The zero value is the host
// itself, with a modern kernel.
type fakeEnvironment struct {
	ordinary      bool // no sysfs
	partial       bool
	old           bool // no synthetic uevents
	userNamespace bool
	ownNetwork    bool // not in the initial network namespace
}

func (e fakeEnvironment) isSysfs(string) bool             { return !e.ordinary }
func (e fakeEnvironment) isWhole(string) bool             { return !e.partial }
func (e fakeEnvironment) hasSyntheticEvents() bool        { return !e.old }
func (e fakeEnvironment) inUserNamespace() bool           { return e.userNamespace }
func (e fakeEnvironment) inInitialNetworkNamespace() bool { return !e.ownNetwork }

// uevent parses a uevent with these variables besides those that each has.
func uevent(t *testing.T, path string, variables ...string) *events.Event {
	t.Helper()
	e := &events.Event{}
	fields := append([]string{"change@" + path, "ACTION=change", "DEVPATH=" + path, "SUBSYSTEM=bus"}, variables...)
	if err := events.ParseUevent(e, []byte(strings.Join(append(fields, "SEQNUM=7", ""), "\x00"))); err != nil {
		t.Fatal(err)
	}
	return e
}

// logBuffer is a buffer that the loop may write while a test reads it.
type logBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

// captureLog returns a function that returns the lines logged since its last
// call that contain part, without time and place.
func captureLog(t *testing.T) func(part string) []string {
	t.Helper()
	var text logBuffer
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", &text) // errors go there as well
	return func(part string) (lines []string) {
		klog.Flush()
		for line := range strings.Lines(text.take()) {
			if _, line, ok := strings.Cut(strings.TrimSpace(line), "] "); ok && strings.Contains(line, part) {
				lines = append(lines, line)
			}
		}
		return lines
	}
}
