// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// captureLog returns a function that returns the lines logged so far, without time and place.
func captureLog(t *testing.T) func() []string {
	t.Helper()
	var text bytes.Buffer
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", &text) // errors go there as well
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
