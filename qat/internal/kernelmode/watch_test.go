// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/events"
	"qatplugin/qat/internal/hostwatch"
)

// A testWatcher records what it is asked to watch.
type testWatcher struct {
	root   string
	hook   func(call string) // called for each call, if not nil
	broken chan struct{}     // makes Run fail

	mu    sync.Mutex
	calls []string // such as "watch etc"
}

func (w *testWatcher) record(call, dir string) {
	call += strings.TrimPrefix(dir, w.root)
	w.mu.Lock()
	w.calls = append(w.calls, call)
	w.mu.Unlock()
	if w.hook != nil {
		w.hook(call)
	}
}

// take returns the calls since the last take, sorted.
func (w *testWatcher) take() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	slices.Sort(calls)
	return calls
}

func (w *testWatcher) Watch(dir string) error   { w.record("watch ", dir); return nil }
func (w *testWatcher) Rewatch(dir string) error { w.record("rewatch ", dir); return nil }
func (w *testWatcher) Unwatch(dir string)       { w.record("unwatch ", dir) }

func (w *testWatcher) Run(ctx context.Context, _ events.Sink) error {
	select {
	case <-ctx.Done():
		return nil
	case <-w.broken:
		return errors.New("broken")
	}
}

// watching runs a test of what the mode watches on a host with one device that
// is up. hook, if not nil, is called each time that the Watcher is.
func watching(
	t *testing.T, o options, hook func(h *testHost, call string),
	test func(t *testing.T, r *testRun, d *testDevice, w *testWatcher),
) {
	t.Helper()
	h, d := newHostWithDevice(t)
	synctest.Test(t, func(t *testing.T) {
		w := &testWatcher{root: h.Dir() + "/", broken: make(chan struct{}, 1)}
		if hook != nil {
			w.hook = func(call string) { hook(h, call) }
		}
		o.watcher = func() (hostwatch.Watcher, error) { return w, nil }
		if o.status == nil {
			o.status = func(context.Context) ([]byte, error) { return []byte(h.statusText()), nil }
		}
		r := start(t, h, o)
		synctest.Wait()
		test(t, r, d, w)
		r.stop()
	})
}

func expectCalls(t *testing.T, w *testWatcher, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.take()); diff != "" {
		t.Errorf("calls %s (-want +got):\n%s", when, diff)
	}
}

// allDirs are watched while there is one device.
var allDirs = []string{
	"watch dev",
	"watch etc",
	"watch sys/bus/pci/drivers",
	"watch sys/bus/pci/drivers/c6xx",
	"watch sys/class/iommu",
	"watch sys/devices/pci0000:3b/0000:3b:00.0/uio",
}

func TestDirectoriesOfTheDevicesAreWatched(t *testing.T) {
	watching(t, options{held: true}, nil, func(t *testing.T, r *testRun, d *testDevice, w *testWatcher) {
		expectCalls(t, w, "before the first answer", allDirs[:5]...)
		r.release()
		expectCalls(t, w, "after it", allDirs[5])
		r.wrote(r.confPath("c6xx_dev0"))
		expectCalls(t, w, "after an event that changed nothing")
		must(t, os.Remove(r.confPath("c6xx_dev0")))
		r.wrote(r.confPath("c6xx_dev0"))
		expectCalls(t, w, "after the configuration file of a listed device is gone")

		r.conf(t, "dh895xcc_dev0")
		must(t, r.LoadDriver("dh895xcc"))
		r.wrote(r.confPath("dh895xcc_dev0"))
		expectCalls(t, w, "after a file of another type appeared", "watch sys/bus/pci/drivers/dh895xcc")

		// kernfs gives a new directory a new inode. Other file systems may not,
		// so the old one must still exist when the new one is made.
		replace := func(dir, entry string) {
			must(t, os.Rename(dir, filepath.Join(r.Dir(), fmt.Sprint("old", r.next()))))
			must(t, os.MkdirAll(filepath.Join(dir, entry), 0o755))
			r.wrote(r.confPath("c6xx_dev0"))
		}
		replace(filepath.Join(r.Path(d.address), "uio"), d.uio)
		expectCalls(t, w, "after the UIO directory was replaced",
			"rewatch sys/devices/pci0000:3b/0000:3b:00.0/uio")
		replace(filepath.Join(r.Sysfs(), "bus/pci/drivers/dh895xcc"), "")
		expectCalls(t, w, "after the driver was loaded again", "rewatch sys/bus/pci/drivers/dh895xcc")

		r.remove(t, d)
		must(t, os.Remove(r.confPath("dh895xcc_dev0")))
		r.wrote(r.confPath("dh895xcc_dev0"))
		expectCalls(t, w, "after the device and the file are gone",
			"unwatch sys/bus/pci/drivers/c6xx",
			"unwatch sys/bus/pci/drivers/dh895xcc",
			"unwatch sys/devices/pci0000:3b/0000:3b:00.0/uio")
	})
}

// The plugin reads the configuration files to learn which directories to watch. A file may appear
// between that read and the start of the watch.
func TestFileThatAppearsBeforeItsDirectoryIsWatchedCounts(t *testing.T) {
	hook := func(h *testHost, call string) {
		if call == "watch etc" {
			h.conf(t, "dh895xcc_dev0")
		}
	}
	watching(t, options{held: true}, hook, func(t *testing.T, _ *testRun, _ *testDevice, w *testWatcher) {
		want := slices.Insert(slices.Clone(allDirs[:5]), 4, "watch sys/bus/pci/drivers/dh895xcc")
		expectCalls(t, w, "before the first answer", want...)
	})
}

// A file system whose inode numbers change must not make the mode spin.
func TestDirectoriesThatAlwaysDifferAreWatchedOnce(t *testing.T) {
	i := 0
	hook := func(h *testHost, call string) {
		if strings.HasPrefix(call, "watch ") {
			i++
			h.conf(t, "type"+strings.Repeat("x", i)+"_dev0")
		}
	}
	watching(t, options{held: true}, hook, func(t *testing.T, _ *testRun, _ *testDevice, w *testWatcher) {
		if calls := w.take(); len(calls) > 100 {
			t.Errorf("%d calls", len(calls))
		}
	})
}

func TestHostIsReadAfterItsDirectoriesAreWatched(t *testing.T) {
	hook := func(h *testHost, call string) {
		if strings.HasSuffix(call, "/uio") {
			h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
		}
	}
	watching(t, options{}, hook, func(t *testing.T, r *testRun, _ *testDevice, _ *testWatcher) {
		r.expectUnits("SSL_dev0_0", "SSL_dev0_1")
	})
}

// An audit reads what its answer lists, but watches nothing before the answer is accepted.
func TestAuditWatchesNothingBeforeTheRecheck(t *testing.T) {
	watching(t, options{audit: time.Minute}, nil, func(t *testing.T, r *testRun, _ *testDevice, w *testWatcher) {
		w.take()
		r.conf(t, "c6xx_dev1", sec("SSL", 1, 1, 0))
		r.up(t, r.addPF(t, 1, addressB))
		pass(time.Minute)
		r.expectRuns(2, "with the audit")
		expectCalls(t, w, "with the audit")
		pass(hostwatch.AuditGrace)
		expectCalls(t, w, "with the recheck", "watch sys/devices/pci0000:d8/0000:d8:00.0/uio")
	})
}

func TestReopenedWatcherWatchesEverything(t *testing.T) {
	watching(t, options{}, nil, func(t *testing.T, _ *testRun, _ *testDevice, w *testWatcher) {
		expectCalls(t, w, "at first", allDirs...)
		w.broken <- struct{}{}
		pass(time.Minute)
		expectCalls(t, w, "after it was opened again", allDirs...)
	})
}
