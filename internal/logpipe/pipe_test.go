// SPDX-License-Identifier: Apache-2.0

package logpipe

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// timeout only keeps a broken test from hanging.
const timeout = 20 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openPipe opens a Pipe in front of a pipe.
func openPipe(t *testing.T, lost func(int)) (p *Pipe, reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { _ = reader.Close() })
	t.Cleanup(func() { _ = writer.Close() })
	p, err = Open(writer, lost)
	must(t, err)
	return p, reader, writer
}

func TestAllLinesAreWrittenBeforeCloseReturns(t *testing.T) {
	p, reader, writer := openPipe(t, func(int) {})
	var want strings.Builder
	for i := range 100 {
		fmt.Fprintln(io.MultiWriter(p.File(), &want), "line", i)
	}
	for range 2 {
		if !p.Close(timeout) {
			t.Fatal("Close timed out")
		}
	}
	must(t, writer.Close())
	got, err := io.ReadAll(reader)
	must(t, err)
	if string(got) != want.String() {
		t.Errorf("got %d bytes, want %d", len(got), want.Len())
	}
}

// TestWriterNeverWaitsForAFullPipe writes more than both pipes and the queue hold.
func TestWriterNeverWaitsForAFullPipe(t *testing.T) {
	lost := make(chan int, 10)
	p, reader, writer := openPipe(t, func(n int) { lost <- n })
	line := []byte(strings.Repeat("x", 1023) + "\n")
	lines := 4 * waitingMax / len(line)
	must(t, p.File().SetWriteDeadline(time.Now().Add(timeout)))
	for range lines {
		_, err := p.File().Write(line)
		must(t, err)
	}
	if p.Close(0) {
		t.Error("Close returned true, but the pipe is full")
	}
	go func() {
		for !p.Close(timeout) {
		}
		_ = writer.Close()
	}()
	got, err := io.ReadAll(reader)
	must(t, err)
	n := <-lost
	if n == 0 || len(got) != (lines-n)*len(line) {
		t.Errorf("%d of %d lines lost, but %d lines read", n, lines, len(got)/len(line))
	}
}

// TestLongLinesAreLostAsAWhole writes more lines than both pipes and the queue hold. Each line is
// longer than the buffer that lines are read into, as that of a list of 1024 devices.
func TestLongLinesAreLostAsAWhole(t *testing.T) {
	lost := make(chan int, 10)
	p, reader, writer := openPipe(t, func(n int) { lost <- n })
	line := strings.Repeat("x", 5*lineMax+lineMax/2) + "\n"
	lines := 2 * waitingMax / len(line)
	for range lines {
		_, err := io.WriteString(p.File(), line)
		must(t, err)
	}
	go func() {
		for !p.Close(timeout) {
		}
		_ = writer.Close()
	}()
	got, err := io.ReadAll(reader)
	must(t, err)
	complete := 0
	for text := range strings.Lines(string(got)) {
		if text != line {
			t.Fatalf("read a line of %d bytes, want %d", len(text), len(line))
		}
		complete++
	}
	if n := <-lost; complete == 0 || n != lines-complete {
		t.Errorf("%d of %d lines lost, but %d lines read", n, lines, complete)
	}
}

// TestClosedPipeCostsLines writes to a Pipe in front of a pipe without a reader.
func TestClosedPipeCostsLines(t *testing.T) {
	p, reader, _ := openPipe(t, func(n int) { t.Errorf("%d lines lost, and a write succeeded", n) })
	must(t, reader.Close())
	for range 100 {
		_, err := fmt.Fprintln(p.File(), "line")
		must(t, err)
	}
	if !p.Close(timeout) {
		t.Error("Close timed out on a pipe without a reader")
	}
}
