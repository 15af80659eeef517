// SPDX-License-Identifier: Apache-2.0

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

// fakeScanner is a Scanner that scans when the test says what it finds.
type fakeScanner struct {
	found      chan []string // IDs of yellow devices; nil: no such resource
	ignoreDone bool
	err        error // what Scan returns when found is closed
}

func newFakeScanner() *fakeScanner { return &fakeScanner{found: make(chan []string)} }

func (s *fakeScanner) Scan(notifier Notifier) error {
	done := notifier.Done()
	if s.ignoreDone {
		done = nil
	}
	for {
		select {
		case ids, ok := <-s.found:
			if !ok {
				return s.err
			}
			b := new(devtree.Tree).Edit()
			for _, id := range ids {
				if err := b.Put("yellow", device(id)); err != nil {
					return err
				}
			}
			notifier.Notify(b.Build())
		case <-done:
			return nil
		}
	}
}

func TestScannerDevicesReachKubelet(t *testing.T) {
	dir, s := kubeletDir(t), newFakeScanner()
	k := startKubelet(t, dir)
	run(t, dir, FromScanner(s))
	s.found <- []string{"1", "2"}
	first := waitIDs(t, k, yellow, "1", "2")
	s.found <- []string{"1", "2"}
	s.found <- []string{"1"}
	if got, want := waitIDs(t, k, yellow, "1").Seq, first.Seq+1; got != want {
		t.Errorf("list number %d, want %d: an equal scan must not send a list", got, want)
	}
	s.found <- nil
	waitIDs(t, k, yellow)
	s.found <- []string{"3"}
	waitIDs(t, k, yellow, "3")
}

func TestEqualScanPublishesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, ended := newFakeScanner(), make(chan error)
		var published []*devtree.Tree
		go func() {
			ended <- FromScanner(s).Watch(ctx, func(tree *devtree.Tree) { published = append(published, tree) })
		}()
		for _, ids := range [][]string{{"1", "2"}, {"1", "2"}, {"2", "1"}, {"1", "2", "3"}, nil, nil} {
			s.found <- ids
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
		want := []string{
			"yellow: 2\n  1 Healthy\n  2 Healthy\n",
			"yellow: 3\n  1 Healthy\n  2 Healthy\n  3 Healthy\n",
			"yellow: 0\n",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("published (-want +got):\n%s", diff)
		}
		if published[0].Resource("yellow").Device("1") != published[1].Resource("yellow").Device("1") {
			t.Error("an unchanged device is not shared")
		}
	})
}

func TestWatchReturnsScanError(t *testing.T) {
	s := newFakeScanner()
	s.err = errors.New("no such bus")
	close(s.found)
	if err := FromScanner(s).Watch(t.Context(), nil); !errors.Is(err, s.err) || err.Error() != "scan: no such bus" {
		t.Errorf("Watch = %v", err)
	}
	s.err = nil
	if err := FromScanner(s).Watch(t.Context(), nil); err != nil {
		t.Errorf("Watch = %v, want nil", err)
	}
}

func TestWatchWaitsForScanWithinGracePeriod(t *testing.T) {
	scanErr := errors.New("no such bus")
	for _, tt := range []struct {
		name     string
		scanEnds time.Duration // after the context; zero for never
		want     error
		took     time.Duration
		logged   int
	}{
		{"in time", scanGracePeriod / 2, scanErr, scanGracePeriod / 2, 0},
		{"never", 0, nil, scanGracePeriod, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := newLogRecorder()
				ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), log.logger()))
				s, ended := newFakeScanner(), make(chan error, 1)
				s.ignoreDone, s.err = true, scanErr
				go func() {
					ended <- FromScanner(s).Watch(ctx, func(*devtree.Tree) { t.Error("published after the end") })
				}()
				synctest.Wait()
				cancel()
				start := time.Now()
				if tt.scanEnds > 0 {
					time.AfterFunc(tt.scanEnds, func() { close(s.found) })
				}
				select {
				case err := <-ended:
					if !errors.Is(err, tt.want) {
						t.Errorf("Watch = %v, want %v", err, tt.want)
					}
				case <-time.After(10 * scanGracePeriod):
					t.Error("Watch does not return")
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("Watch returned after %v, want %v", took, tt.took)
				}
				if n := log.count("Scan did not return"); n != tt.logged {
					t.Errorf("%d log lines about it, want %d:\n%s", n, tt.logged, log)
				}
				if tt.scanEnds == 0 {
					s.found <- []string{"1"} // must not be published
					close(s.found)
					synctest.Wait()
				}
			})
		})
	}
}

// preStartScanner is a Scanner with one of the optional interfaces.
type preStartScanner struct{ *fakeScanner }

func (preStartScanner) PreStartContainer(context.Context, string, []*devtree.Device) error {
	return nil
}

func TestFromScannerHasOptionalInterfacesOfScanner(t *testing.T) {
	for _, tt := range []struct {
		scanner Scanner
		want    bool
	}{
		{newFakeScanner(), false},
		{preStartScanner{newFakeScanner()}, true},
	} {
		s := &service{plugin: methodsOf(FromScanner(tt.scanner))}
		if got := s.options().PreStartRequired; got != tt.want {
			t.Errorf("PreStartRequired of %T is %t, want %t", tt.scanner, got, tt.want)
		}
	}
}
