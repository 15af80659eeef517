package kubeletapi

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// looks is a Scanner whose looks come from the test's hand.
type looks struct {
	found chan []string // IDs of yellow; nil: yellow is not there at all
	deaf  bool          // to Done
	fail  error
}

func (l *looks) Scan(notifier Notifier) error {
	done := notifier.Done()
	if l.deaf {
		done = nil
	}
	for {
		select {
		case ids, ok := <-l.found:
			if !ok {
				return l.fail
			}
			found := new(devtree.Tree).Edit()
			for _, id := range ids {
				if err := found.Put("yellow", device(id)); err != nil {
					return err
				}
			}
			notifier.Notify(found.Build())
		case <-done:
			return nil
		}
	}
}

func TestScannerServesWhatItFound(t *testing.T) {
	dir, l := kubeletDir(t), &looks{found: make(chan []string)}
	k := startKubelet(t, dir)
	run(t, dir, FromScanner(l))
	l.found <- []string{"1", "2"}
	first := waitIDs(t, k, yellow, "1", "2")
	l.found <- []string{"1", "2"}
	l.found <- []string{"1"}
	if got, want := waitIDs(t, k, yellow, "1").Seq, first.Seq+1; got != want {
		t.Errorf("the list is number %d, want %d: the look that found the same made one too", got, want)
	}
	l.found <- nil
	waitIDs(t, k, yellow)
	l.found <- []string{"3"}
	waitIDs(t, k, yellow, "3")
}

func TestLookThatFindsTheSamePublishesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l, ended := &looks{found: make(chan []string)}, make(chan error)
		var published []*devtree.Tree
		go func() {
			ended <- FromScanner(l).Watch(ctx, func(tree *devtree.Tree) { published = append(published, tree) })
		}()
		for _, ids := range [][]string{{"1", "2"}, {"1", "2"}, {"2", "1"}, {"1", "2", "3"}, nil, nil} {
			l.found <- ids
			synctest.Wait()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch = %v", err)
		}
		var got []string
		for _, tree := range published {
			got = append(got, tree.String())
		}
		want := []string{"yellow: 2\n  1 Healthy\n  2 Healthy\n", "yellow: 3\n  1 Healthy\n  2 Healthy\n  3 Healthy\n", "yellow: 0\n"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("published (-want +got):\n%s", diff)
		}
		if published[0].Resource("yellow").Device("1") != published[1].Resource("yellow").Device("1") {
			t.Error("a device that did not change is another one")
		}
	})
}

func TestErrorOfScanIsThatOfWatch(t *testing.T) {
	l := &looks{found: make(chan []string), fail: errors.New("no such bus")}
	close(l.found)
	if err := FromScanner(l).Watch(t.Context(), nil); !errors.Is(err, l.fail) || err.Error() != "scan: no such bus" {
		t.Errorf("Watch = %v", err)
	}
	l.fail = nil
	if err := FromScanner(l).Watch(t.Context(), nil); err != nil {
		t.Errorf("Watch = %v, want nil", err)
	}
}

func TestScanThatHeedsNoEndIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{changed: make(chan struct{})}
		ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), log.logger()))
		l, ended := &looks{found: make(chan []string), deaf: true}, make(chan error)
		go func() {
			ended <- FromScanner(l).Watch(ctx, func(*devtree.Tree) { t.Error("published after the end") })
		}()
		synctest.Wait()
		cancel()
		began := time.Now()
		if err := <-ended; err != nil {
			t.Errorf("Watch = %v", err)
		}
		if took := time.Since(began); took != scanGrace {
			t.Errorf("Watch ended after %v, want %v", took, scanGrace)
		}
		l.found <- []string{"1"} // its next look, if the process lives so long, ends in nothing
		close(l.found)
		if log.count("heeds no Notifier.Done") != 1 {
			t.Errorf("the log does not say so:\n%s", log)
		}
	})
}

// preparing is a Scanner with one of the optional interfaces.
type preparing struct{ looks }

func (*preparing) PreStartContainer(context.Context, string, []*devtree.Device) error { return nil }

func TestOptionalInterfacesAreTheScanners(t *testing.T) {
	for _, tt := range []struct {
		plugin Plugin
		want   bool
	}{
		{FromScanner(&looks{}), false},
		{FromScanner(&preparing{}), true},
	} {
		s := newService(NewManager(namespace, tt.plugin), klog.Background(), t.Context(), "yellow")
		if got := s.options().PreStartRequired; got != tt.want {
			t.Errorf("PreStartRequired of %T is %t, want %t", tt.plugin.(scanning).scanner, got, tt.want)
		}
	}
}
