// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestBackOffGrowsToItsMaximum(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := backOff{
			first: time.Duration(rapid.Int64Range(1, int64(time.Second)).Draw(rt, "min")),
			limit: time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(rt, "max")),
		}
		full := b.first
		for range 100 {
			full = min(full, b.limit)
			if got := b.next(); got < full/2 || got > full {
				rt.Fatalf("pause %v, want %v to %v", got, full/2, full)
			}
			full *= 2
		}
		b.reset()
		if got := b.next(); got > b.first {
			rt.Fatalf("first pause after reset is %v, want at most %v", got, b.first)
		}
	})
}

func TestBackOffIsRandom(t *testing.T) {
	b := backOff{first: time.Hour, limit: time.Hour}
	first := b.next()
	for range 100 {
		if b.next() != first {
			return
		}
	}
	t.Errorf("100 pauses of %v each", first)
}

func TestThrottledErrorIsLoggedWhenItChangesAndOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLogRecorder()
		e := throttledError{log: log.logger(), interval: time.Minute}
		report := func(text string, wantCount int) {
			t.Helper()
			e.report(errors.New(text), "Failed")
			if got := log.count(text); got != wantCount {
				t.Errorf("%q is in the log %d times, want %d", text, got, wantCount)
			}
		}
		if e.clear() {
			t.Error("clear reports an error before the first")
		}
		report("fire", 1)
		report("fire", 1)
		time.Sleep(59 * time.Second)
		report("fire", 1)
		time.Sleep(time.Second)
		report("fire", 2)
		report("fire", 2)
		report("water", 1)
		report("fire", 3)
		if !e.clear() {
			t.Error("clear does not report the error")
		}
		report("fire", 4)
	})
}
