// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// watchTimeout is shorter than the interval at which a directory is polled that cannot be watched.
const watchTimeout = pollInterval / 2

// awaitHolder waits until the Store knows that the claim holds device a, or that none does.
func (s *testStore) awaitHolder(want string) {
	s.t.Helper()
	for deadline := time.Now().Add(watchTimeout); ; time.Sleep(time.Millisecond) {
		holders, err := s.Holders()
		if err == nil && holders["a"] == want {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("device a is held by %q (%v), want %q", holders["a"], err, want)
		}
	}
}

// Two instances share the directory during an update. Each knows at once what the other one does.
func TestWatchReadsWhatAnotherInstancePrepares(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "cdi") // which the first claim creates
	watching, other := newStore(t, dir, "a"), newStore(t, dir, "a")
	ref := other.allocate("paint", "1", "a")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watching.Watch(ctx)
	}()
	watching.awaitHolder("")
	for range 3 {
		other.mustPrepare(ref)
		watching.awaitHolder("default/paint")
		other.mustUnprepare(ref)
		watching.awaitHolder("")
	}

	// The node is cleaned up.
	if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	other.mustPrepare(ref)
	watching.awaitHolder("default/paint")
	if err := os.Remove(other.path("1")); err != nil {
		t.Fatal(err)
	}
	watching.awaitHolder("")
	cancel()
	<-ended
}
