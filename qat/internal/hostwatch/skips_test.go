// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLastingSkipReasonIsLoggedOnce(t *testing.T) {
	const held, hidden = "it is bound to x", "hidden by -max-num-devices=1"
	const delay = skipDelay + skipGather
	start := time.Unix(1000, 0)
	s := skipLog{entries: map[string]skip{}}
	for i, step := range []struct {
		after   time.Duration
		skipped map[string]string
		want    map[string][]string
	}{
		{0, map[string]string{"a": "waiting", "b": "waiting"}, nil},
		{time.Second, map[string]string{"a": held, "b": "waiting"}, nil},
		{delay - 1, map[string]string{"a": held}, nil}, // b is listed
		{delay, map[string]string{"a": held}, nil},     // this reason is younger
		{time.Second + delay - 1, map[string]string{"a": held}, nil},
		{time.Second + delay, map[string]string{"a": held}, map[string][]string{held: {"a"}}},
		{time.Minute, map[string]string{"a": held}, nil},
		{2 * time.Minute, map[string]string{"a": held, "b": hidden}, nil},
		{2*time.Minute + skipGather + 1, map[string]string{"a": "briefly", "b": hidden}, nil},
		{2*time.Minute + delay, map[string]string{"a": "briefly", "b": hidden}, map[string][]string{hidden: {"b"}}},
		{2*time.Minute + delay + 1, map[string]string{"a": held, "b": hidden}, nil},
		{3 * time.Minute, nil, nil},
		{4 * time.Minute, map[string]string{"a": held}, nil}, // it came back
		{4*time.Minute + delay, map[string]string{"a": held}, map[string][]string{held: {"a"}}},
	} {
		got := s.update(step.skipped, start.Add(step.after))
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
	if !s.next.IsZero() {
		t.Errorf("a timer is left for %v although nothing is to be logged", s.next)
	}
}

// VFs that no driver takes are bound again and again, each on its own schedule, and have another
// reason during each try. The log must show why they are not bound, but none of the tries.
func TestRetriesAreNotLogged(t *testing.T) {
	const waiting, refused = "waiting", "refused"
	const try = 1111 * time.Millisecond // how long a try takes
	start, now := time.Unix(1000, 0), time.Unix(1000, 0)
	s := skipLog{entries: map[string]skip{}}
	logged := map[string]int{} // reason → VFs
	lines := 0
	for now.Before(start.Add(20 * time.Minute)) {
		skipped := map[string]string{}
		for i := range 16 {
			at, pause := start.Add(time.Duration(i)*100*time.Millisecond), time.Second
			for now.After(at.Add(try + pause)) {
				at, pause = at.Add(try+pause), min(2*pause, 5*time.Minute)
			}
			reason := refused
			if now.Before(at.Add(try)) {
				reason = waiting
			}
			skipped[string(rune('a'+i))] = reason
		}
		for reason, names := range s.update(skipped, now) {
			logged[reason] += len(names)
			lines++
		}
		now = now.Add(100 * time.Millisecond)
	}
	if diff := cmp.Diff(map[string]int{refused: 16}, logged); diff != "" {
		t.Errorf("VFs logged (-want +got):\n%s", diff)
	}
	if lines > 4 {
		t.Errorf("%d lines, want the VFs of a PF gathered", lines)
	}
}
