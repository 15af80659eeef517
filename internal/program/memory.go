// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"qatplugin/devtree"
)

// quietTime is how long no list must have changed before the memory of the changes is released.
const quietTime = 500 * time.Millisecond

// keepHeapSmall lets the heap grow by half between two garbage collections, and to 2 MiB at least.
// By default, it grows to twice its size, and to 4 MiB at least, which is several times what the
// plugin needs on a small host. The environment variable GOGC takes precedence.
func keepHeapSmall() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// A WatchFunc is the method Watch of a plugin.
type WatchFunc func(ctx context.Context, publish func(*devtree.Tree)) error

// ReleaseMemory returns a function that is watch, and releases memory to the operating system after
// each burst of changes, such as the first read of the host. By itself, the Go runtime would keep
// what the heap may grow to until the next garbage collection, and the stacks of goroutines that
// have ended.
func ReleaseMemory(watch WatchFunc) WatchFunc {
	return memoryReleaser{watch, newRelease()}.watchAndRelease
}

// A memoryReleaser calls release after each burst of changes that watch publishes.
type memoryReleaser struct {
	watch   WatchFunc
	release func()
}

// watchAndRelease is a WatchFunc.
func (r memoryReleaser) watchAndRelease(ctx context.Context, publish func(*devtree.Tree)) error {
	changed := make(chan struct{}, 1)
	var releasing sync.WaitGroup
	releasing.Go(func() { r.releaseWhenQuiet(changed) })
	defer releasing.Wait()
	defer close(changed)
	return r.watch(ctx, func(tree *devtree.Tree) {
		publish(tree)
		select {
		case changed <- struct{}{}:
		default:
		}
	})
}

// releaseWhenQuiet calls release quietTime after each burst, until changed is closed.
func (r memoryReleaser) releaseWhenQuiet(changed <-chan struct{}) {
	timer := time.NewTimer(quietTime)
	defer timer.Stop()
	for {
		select {
		case _, open := <-changed:
			if !open {
				return
			}
			timer.Reset(quietTime)
		case <-timer.C:
			r.release()
		}
	}
}

// newRelease returns a function that releases memory to the operating system, unless there was no
// garbage collection since its last call: a few changes leave little behind.
func newRelease() func() {
	cycles := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	var last uint64
	return func() {
		metrics.Read(cycles)
		if cycles[0].Value.Uint64() == last {
			return
		}
		debug.FreeOSMemory()
		metrics.Read(cycles)
		last = cycles[0].Value.Uint64()
	}
}
