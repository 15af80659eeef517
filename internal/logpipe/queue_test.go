// SPDX-License-Identifier: Apache-2.0

package logpipe

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is a file whose writes wait for the test.
type sink struct {
	writes  chan string // what is about to be written
	results chan error
}

func newSink() *sink { return &sink{writes: make(chan string), results: make(chan error)} }

func (s *sink) Write(p []byte) (int, error) {
	s.writes <- string(p)
	if err := <-s.results; err != nil {
		return 0, err
	}
	return len(p), nil
}

// want waits for a write and gives it a result.
func (s *sink) want(t *testing.T, text string, result error) {
	t.Helper()
	if got := <-s.writes; got != text {
		t.Errorf("wrote %q, want %q", got, text)
	}
	s.results <- result
}

// startQueue runs a queue with room for limit bytes. The queue reports lost lines as a line of its
// own. finish ends the queue and waits for run to return.
func startQueue(limit int) (q *queue, out *sink, finish func()) {
	out = newSink()
	q = newQueue(out, limit, func(n int) { q.put(fmt.Appendf(nil, "lost %d\n", n)) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.run()
	}()
	return q, out, func() { q.end(); <-done }
}

func TestLinesWaitForASlowWriteInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, out, finish := startQueue(100)
		q.put([]byte("1\n"))
		synctest.Wait() // 1 is being written
		q.put([]byte("2\n"))
		q.put([]byte("3\n"))
		out.want(t, "1\n", nil)
		out.want(t, "2\n3\n", nil)
		finish()
	})
}

func TestLinesWithoutRoomAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, out, finish := startQueue(7)
		q.put([]byte("1\n"))
		synctest.Wait() // 1 is being written
		for _, line := range []string{"2\n", "3\n", "no room\n", "none either\n"} {
			q.put([]byte(line))
		}
		out.want(t, "1\n", nil)
		out.want(t, "2\n3\n", nil)
		out.want(t, "lost 2\n", nil)
		finish()
	})
}

func TestLinesOfFailedWritesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, out, finish := startQueue(100)
		q.put([]byte("1\n2\n"))
		out.want(t, "1\n2\n", errors.New("broken pipe"))
		synctest.Wait()
		q.put([]byte("3\n"))
		out.want(t, "3\n", errors.New("broken pipe"))
		synctest.Wait()
		q.put([]byte("4\n"))
		out.want(t, "4\n", nil)
		out.want(t, "lost 3\n", nil)
		finish()
	})
}

func TestEndWritesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, out, finish := startQueue(100)
		q.put([]byte("1\n"))
		synctest.Wait()
		q.put([]byte("2\n"))
		go func() {
			out.want(t, "1\n", nil)
			out.want(t, "2\n", nil)
		}()
		finish()
	})
}

func TestLongLineIsPutAsAWholeUpToALimit(t *testing.T) {
	long, tooLong := strings.Repeat("x", 3*lineMax)+"\n", strings.Repeat("y", passMax+lineMax)+"\n"
	var got []string
	text := "a\n" + long + "b\n" + tooLong + "c"
	readLines(strings.NewReader(text), func(line []byte) { got = append(got, string(line)) })
	want := []string{"a\n", long, "b\n", tooLong[:passMax], tooLong[passMax:], "c"}
	if !slices.Equal(want, got) {
		t.Errorf("%d lines and parts, want %d, or others", len(got), len(want))
	}
}
