// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"slices"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"qatplugin/internal/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestJournalKeepsTheNewestEvents(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 10} {
		j := status.NewJournal(limit)
		for n := 1; n <= 7; n++ {
			j.Append(status.Event{Text: strconv.Itoa(n)})
			for since := range n + 2 {
				var want []string
				for i := max(since+1, n-limit+1); i <= n; i++ {
					want = append(want, strconv.Itoa(i))
				}
				var got []string
				for _, e := range j.Since(uint64(since)) {
					got = append(got, e.Text)
					if e.Text != strconv.FormatUint(e.Seq, 10) {
						t.Errorf("event %s has the number %d", e.Text, e.Seq)
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("limit %d, %d events, since %d: %q, want %q", limit, n, since, got, want)
				}
			}
		}
	}
}

func TestJournalReportsChanges(t *testing.T) {
	j := status.NewJournal(1)
	j.Append(status.Event{})
	for _, events := range [][]status.Event{{{}}, nil, {{}, {}}} {
		first, second := j.Changed(), j.Changed()
		select {
		case <-first:
			t.Fatal("a change is reported before there is one")
		default:
		}
		j.Append(events...)
		<-first
		<-second
	}
}
