// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBackOffGrowsToItsMaximum(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := BackOff{
			First: time.Duration(rapid.Int64Range(1, int64(time.Second)).Draw(rt, "min")),
			Limit: time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(rt, "max")),
		}
		full := b.First
		for range 100 {
			full = min(full, b.Limit)
			if got := b.Next(); got < full/2 || got > full {
				rt.Fatalf("pause %v, want %v to %v", got, full/2, full)
			}
			full *= 2
		}
		b.Reset()
		if got := b.Next(); got > b.First {
			rt.Fatalf("first pause after reset is %v, want at most %v", got, b.First)
		}
	})
}

func TestBackOffIsRandom(t *testing.T) {
	b := BackOff{First: time.Hour, Limit: time.Hour}
	first := b.Next()
	for range 100 {
		if b.Next() != first {
			return
		}
	}
	t.Errorf("100 pauses of %v each", first)
}

func TestErrorIsLoggedWhenItChangesAndOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counts := map[string]int{}
		log := funcr.New(func(_, args string) {
			for _, text := range []string{"fire", "water"} {
				counts[text] += strings.Count(args, text)
			}
		}, funcr.Options{})
		l := ErrorLog{Log: log, Interval: time.Minute}
		report := func(text string, wantCount int) {
			t.Helper()
			l.Report(errors.New(text), "Failed")
			if got := counts[text]; got != wantCount {
				t.Errorf("%q is in the log %d times, want %d", text, got, wantCount)
			}
		}
		if l.Clear() {
			t.Error("Clear reports an error before the first")
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
		if !l.Clear() {
			t.Error("Clear does not report the error")
		}
		report("fire", 4)
	})
}
