package kernelmode

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/events"
	"qatplugin/qat"
)

// notebook is a Watcher that writes down what it is asked for.
type notebook struct {
	asked []string
	err   error
}

func (n *notebook) note(what string) error {
	n.asked = append(n.asked, what)
	return n.err
}

func (n *notebook) Run(ctx context.Context, _ events.Sink) error { <-ctx.Done(); return nil }
func (n *notebook) Watch(dir string) error                       { return n.note("watch " + dir) }
func (n *notebook) Rewatch(dir string) error                     { return n.note("rewatch " + dir) }
func (n *notebook) Unwatch(dir string)                           { _ = n.note("unwatch " + dir) }

func TestWhatIsWatchedFollowsWhatIsLookedAt(t *testing.T) {
	w, n := newWatches(), &notebook{}
	w.want("/before", 1) // there was no watcher
	w.settle()
	open := w.Open(func() (qat.Watcher, error) { return n, nil })
	if _, err := open(); err != nil {
		t.Fatal(err)
	}
	w.Adopt()
	for _, look := range []map[string]uint64{{"/a": 0}, {"/a": 0}, {"/a": 7}, {"/a": 7, "/b": 1}, {"/b": 1}, {"/b": 2}} {
		for _, dir := range []string{"/a", "/b"} {
			if incarnation, wanted := look[dir]; wanted {
				w.want(dir, incarnation)
			}
		}
		w.settle()
	}
	if diff := cmp.Diff([]string{"watch /a", "rewatch /a", "watch /b", "unwatch /a", "rewatch /b"}, n.asked); diff != "" {
		t.Errorf("the watcher was asked to (-want +got):\n%s", diff)
	}
}

func TestASchedule(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	t.Run("audits come in their interval, and sooner while deaf", func(t *testing.T) {
		s := schedule{interval: 10 * time.Minute}
		for _, step := range []struct {
			now  time.Duration
			deaf bool
			next time.Duration
		}{
			{0, false, 10 * time.Minute},
			{time.Minute, false, 10 * time.Minute},
			{2 * time.Minute, true, 2*time.Minute + deafAuditInterval},
			{2*time.Minute + time.Second, true, 2*time.Minute + deafAuditInterval},
			{3 * time.Minute, false, 13 * time.Minute},
		} {
			s.plan(at(step.now), step.deaf)
			if got := s.next(); !got.Equal(at(step.next)) {
				t.Errorf("after %v, deaf %v: the next is at %v, want %v", step.now, step.deaf, got.Sub(start), step.next)
			}
		}
		if _, due := s.due(at(13*time.Minute - 1)); due {
			t.Error("the audit came too early")
		}
		if c, due := s.due(at(13 * time.Minute)); !due || c != causeAudit {
			t.Errorf("due %v, cause %v, want an audit", due, c)
		}
	})
	t.Run("without audits only a deaf plugin looks", func(t *testing.T) {
		s := schedule{interval: -1}
		if s.plan(start, false); !s.next().IsZero() {
			t.Errorf("something is due at %v", s.next())
		}
		if s.plan(start, true); !s.next().Equal(at(deafAuditInterval)) {
			t.Errorf("the next is at %v", s.next())
		}
	})
	t.Run("a failure is tried again for good", func(t *testing.T) {
		s := schedule{interval: -1}
		var waits []time.Duration
		for range 12 {
			s.answered(start, true, false)
			waits = append(waits, s.retry.Sub(start))
		}
		want := []time.Duration{100 * time.Millisecond, 400 * time.Millisecond, 1600 * time.Millisecond, 6400 * time.Millisecond, 25600 * time.Millisecond, 102400 * time.Millisecond, 409600 * time.Millisecond}
		for len(want) < 12 {
			want = append(want, retryMax)
		}
		if diff := cmp.Diff(want, waits); diff != "" {
			t.Errorf("waits (-want +got):\n%s", diff)
		}
		if s.heard(); !s.next().IsZero() || s.retries != 0 {
			t.Error("an event did not end the back-off")
		}
	})
	t.Run("a lasting contradiction is not", func(t *testing.T) {
		s := schedule{interval: -1}
		for range maxDoubts {
			if s.answered(start, false, true); s.next().IsZero() {
				t.Error("nothing is due")
			}
		}
		if s.answered(start, false, true); !s.next().IsZero() {
			t.Errorf("something is due at %v", s.next())
		}
	})
}

func TestAPlaceThatCannotBeReadLeavesTheTreeAsItIs(t *testing.T) {
	h := newTestHost(t)
	h.spoil(t, "class/iommu")
	_, err := (&host{sysfs: h.Sysfs(), dev: h.Dev(), etc: h.etc, watch: func(string, uint64) {}}).look(nil)
	if err == nil || !strings.Contains(err.Error(), "class/iommu") {
		t.Fatalf("error %v, want one that names class/iommu", err)
	}
	onBench(t, -1, nil, func(t *testing.T, b *bench, _ *testDevice) {
		b.spoil(t, "class/iommu")
		b.wrote(b.config0())
		b.expectUnits("SSL_dev0_0")
		if reason := reasonOf(b.plugin.LeftOut(), "host"); reason == "" {
			t.Errorf("people are told only %v", b.plugin.LeftOut())
		}
	})
}
