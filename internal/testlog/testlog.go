// SPDX-License-Identifier: Apache-2.0

// Package testlog captures what a test logs through klog.
package testlog

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"

	"k8s.io/klog/v2"
)

// Capture captures the log until the test ends. It returns a function that returns the lines logged
// so far, without time and place. Any goroutine may call that function.
func Capture(t testing.TB) func() []string {
	t.Helper()
	text := &buffer{}
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", text) // errors go there as well
	return func() (lines []string) {
		klog.Flush()
		for line := range strings.Lines(text.String()) {
			if _, line, ok := strings.Cut(strings.TrimSpace(line), "] "); ok {
				lines = append(lines, line)
			}
		}
		return lines
	}
}

// A buffer is a bytes.Buffer that any goroutine may use.
type buffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
