// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
)

// watcher is a plugin that publishes a Tree at each of these times after its start.
type watcher []time.Duration

func (w watcher) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	start := time.Now()
	for _, at := range w {
		time.Sleep(time.Until(start.Add(at)))
		publish(nil)
	}
	<-ctx.Done()
	return nil
}

func TestMemoryIsReleasedOnceAfterEachBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), 9900*ms)
		defer cancel()
		start := time.Now()
		var released []time.Duration
		releaser := memoryReleaser{
			watch:   watcher{0, 400 * ms, 800 * ms, 5000 * ms, 9500 * ms}.Watch,
			release: func() { released = append(released, time.Since(start)) },
		}
		published := 0
		if err := releaser.watchAndRelease(ctx, func(*devtree.Tree) { published++ }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // nothing is released after the end
		want := []time.Duration{800*ms + quietTime, 5000*ms + quietTime}
		if diff := cmp.Diff(want, released); diff != "" || published != 5 {
			t.Errorf("%d Trees published, want 5; memory released after (-want +got):\n%s", published, diff)
		}
	})
}

func TestMemoryIsReleasedOnlyAfterAGarbageCollection(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // only the test collects
	// collections returns how many garbage collections a call of f makes.
	collections := func(f func()) uint32 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return after.NumGC - before.NumGC
	}
	release := newRelease()
	runtime.GC()
	got := []uint32{collections(release), collections(release)}
	runtime.GC()
	got = append(got, collections(release))
	if want := []uint32{1, 0, 1}; !slices.Equal(got, want) {
		t.Errorf("the calls released memory %v times, want %v", got, want)
	}
}

func TestHeapGrowsByHalfUnlessGOGCIsSet(t *testing.T) {
	for value, want := range map[string]int{"": 50, "200": 200} {
		t.Setenv("GOGC", value)
		before := debug.SetGCPercent(200) // as the runtime does for GOGC=200
		keepHeapSmall()
		if got := debug.SetGCPercent(before); got != want {
			t.Errorf("GOGC=%q: the heap grows by %d %%, want %d %%", value, got, want)
		}
	}
}
