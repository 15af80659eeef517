// SPDX-License-Identifier: Apache-2.0

// Package testlog captures what a test logs through klog.
package testlog

import (
	"io"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// Capture captures the log until the test ends. It returns a function that returns the lines logged
// so far, without time and place. Any goroutine may call that function.
func Capture(t testing.TB) func() []string {
	t.Helper()
	text := NewBuffer()
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", text) // errors go there as well
	return func() (lines []string) {
		for line := range strings.Lines(text.String()) {
			if _, line, ok := strings.Cut(strings.TrimSpace(line), "] "); ok {
				lines = append(lines, line)
			}
		}
		return lines
	}
}
