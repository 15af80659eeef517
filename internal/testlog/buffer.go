// SPDX-License-Identifier: Apache-2.0

package testlog

import (
	"bytes"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/klog/v2"
)

// awaitTimeout only keeps a broken test from hanging.
const awaitTimeout = 20 * time.Second

// A Buffer collects a log. Any goroutine may use it.
type Buffer struct {
	mu      sync.Mutex // guards text
	text    bytes.Buffer
	written chan struct{} // holds a value when there is something new
}

// NewBuffer returns an empty Buffer.
func NewBuffer() *Buffer { return &Buffer{written: make(chan struct{}, 1)} }

// CaptureBuffer makes klog write to the returned Buffer until the test ends.
func CaptureBuffer(t testing.TB) *Buffer {
	t.Helper()
	b := NewBuffer()
	klog.LogToStderr(false)
	klog.SetOutput(b)
	t.Cleanup(func() {
		klog.SetOutput(io.Discard)
		klog.LogToStderr(true)
	})
	return b
}

// Write implements [io.Writer].
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.written <- struct{}{}:
	default:
	}
	return b.text.Write(p)
}

// Lines returns the lines that contain all parts.
func (b *Buffer) Lines(parts ...string) (lines []string) {
	klog.Flush()
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.text.String()) {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			lines = append(lines, line)
		}
	}
	return lines
}

// String returns all lines.
func (b *Buffer) String() string { return strings.Join(b.Lines(), "") }

// Await waits until the log matches a pattern and returns the match with its groups. Only one
// goroutine may wait.
func (b *Buffer) Await(t testing.TB, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.After(awaitTimeout); ; {
		if match := re.FindStringSubmatch(b.String()); match != nil {
			return match
		}
		select {
		case <-b.written:
		case <-deadline:
			t.Fatalf("the log does not match %s:\n%s", pattern, b)
		}
	}
}
