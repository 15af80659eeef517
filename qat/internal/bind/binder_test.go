// SPDX-License-Identifier: Apache-2.0

package bind

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"qatplugin/qat/internal/pci"
)

const waiting = "waiting for vfio-pci to bind"

var errRefused = errors.New("refused")

func TestBackOffGrowsToItsMaximum(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.vf.Driver = ""
		b.sysfs.setFailure(probe, errRefused)
		b.bind()
		var got, want []time.Duration
		for _, s := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256} {
			want = append(want, time.Duration(s)*time.Second)
		}
		// A time.Duration would overflow after 34 doublings.
		want = append(want, slices.Repeat([]time.Duration{5 * time.Minute}, 70)...)
		for range want {
			next := b.Next()
			got = append(got, time.Until(next))
			b.bindWhenDue()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("back-off (-want +got):\n%s", diff)
		}
	})
}

// The kernel may not allow drivers to bind to a new VF yet, and does not report that.
func TestProbeIsRepeatedInEachTry(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.vf.Driver = ""
		for try := range 3 {
			b.sysfs.take()
			start := time.Now()
			if try == 0 {
				b.bind()
			} else {
				b.bindWhenDue()
				start = start.Add(minBackOff << (try - 1))
			}
			b.bind() // another event in between has no effect
			b.bindUntilGivenUp()
			var got []time.Duration
			for _, w := range b.sysfs.writes {
				if w.Name == probe || w.Name == override && w.Value == "" {
					got = append(got, w.at.Sub(start))
				}
			}
			want := []time.Duration{
				0,
				1 * time.Millisecond,
				11 * time.Millisecond,
				111 * time.Millisecond,
				1111 * time.Millisecond, // undone
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("try %d: probes (-want +got):\n%s", try, diff)
			}
		}
	})
}

func TestBindWhileAWriteIsInProgressStartsNothing(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		finish := make(chan struct{})
		b.sysfs.delay = func(string) { <-finish }
		for range 3 {
			if got := b.bind(); got != waiting {
				t.Errorf("pending %q, want %q", got, waiting)
			}
			time.Sleep(time.Second)
		}
		if list := b.Due(time.Now()); len(list) > 0 {
			t.Errorf("due %v, want nothing", list)
		}
		close(finish)
		synctest.Wait()
		want := []string{"vfio-pci > " + override, testAddress + " > " + unbind, testAddress + " > " + probe}
		if diff := cmp.Diff(want, b.sysfs.take()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
	})
}

// A VF whose write does not return holds no place under the device limit forever.
func TestStuckWriteIsNotPending(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		finish := make(chan struct{})
		b.sysfs.delay = func(string) { <-finish }
		start := time.Now()
		b.bind()
		if next := b.Next(); !next.Equal(start.Add(stuckTime)) || len(b.Pending()) != 1 {
			t.Errorf("next %v, pending %v; want the VF until %v", next.Sub(start), b.Pending(), stuckTime)
		}
		time.Sleep(stuckTime)
		if list := b.Due(time.Now()); !slices.Equal(list, []pci.Address{b.vf.Address}) {
			t.Errorf("due %v, want the VF", list)
		}
		if list, next := b.Due(time.Now()), b.Next(); len(list) > 0 || !next.IsZero() || len(b.Pending()) > 0 {
			t.Errorf("due %v, next %v, pending %v; want nothing more", list, next, b.Pending())
		}
		if !b.HasFailed(b.vf.Address, b.vf.Incarnation) {
			t.Errorf("a stuck try does not count as failed")
		}
		close(finish)
		synctest.Wait()
		if next := b.Next(); next.IsZero() {
			t.Errorf("the try does not go on after the write")
		}
	})
}

func TestEachStepWakes(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.bind()
		b.bindUntilGivenUp()
		want := slices.Repeat([]pci.Address{b.vf.Address}, maxProbes+1)
		if diff := cmp.Diff(want, b.takeWakes()); diff != "" {
			t.Errorf("wakes (-want +got):\n%s", diff)
		}
		if b.bind(); len(b.takeWakes()) > 0 {
			t.Errorf("woken though nothing was due")
		}
	})
}

func TestDueReturnsATimeInThePast(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.bind()
		time.Sleep(time.Hour)
		list, next := b.Due(time.Now()), b.Next()
		if len(list) != 1 || next.IsZero() || next.After(time.Now()) {
			t.Errorf("due %v, next %v; want the VF and its time", list, next)
		}
	})
}

func TestDueReturnsTheEarliestTime(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		start := time.Now()
		other := b.sysfs.addVF(pci.Address{Bus: 0x3d, Device: 1, Function: 1})
		b.sysfs.setFailure(unbind, errRefused)
		b.bind() // due after the back-off
		other.Driver = ""
		b.Bind(other, time.Now())
		synctest.Wait() // due after the first probe delay
		list, next := b.Due(time.Now()), b.Next()
		if len(list) > 0 || !next.Equal(start.Add(probeDelays[0])) {
			t.Errorf("due %v, next %v; want none, and the next probe", list, next.Sub(start))
		}
		time.Sleep(minBackOff)
		if list := b.Due(time.Now()); len(list) != 2 {
			t.Errorf("due %v, want both", list)
		}
	})
}

func TestAnotherIncarnationIsAnotherAttempt(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.sysfs.setFailure(probe, errRefused)
		b.bind()
		b.sysfs.setFailure(probe, nil)
		b.sysfs.recreate(&b.vf)
		if got := b.bind(); got != waiting {
			t.Errorf("the new VF waits for the back-off of the old one: %q", got)
		}
		if got := b.Pending(); len(got) != 1 {
			t.Errorf("pending %v, want the new VF", got)
		}
	})
}

func TestUndoLeavesAVFAloneThatWasMadeAnew(t *testing.T) {
	for name, replace := range map[string]func(b *testBinder){
		"recreated": func(b *testBinder) { b.sysfs.recreate(&b.vf); b.Bind(b.vf, time.Now()) },
		"forgotten": func(b *testBinder) { b.Forget(b.vf.Address) },
	} {
		for _, failing := range []string{unbind, probe} {
			t.Run(name+", "+failing, func(t *testing.T) {
				inBubble(t, func(b *testBinder) {
					b.sysfs.setFailure(failing, errRefused)
					finish := make(chan struct{})
					b.sysfs.delay = func(name string) {
						if name == failing {
							<-finish
						}
					}
					b.Bind(b.vf, time.Now())
					synctest.Wait()
					b.sysfs.delay = func(string) {}
					b.sysfs.setFailure(failing, nil)
					replace(b)
					synctest.Wait()
					b.sysfs.take()
					b.takeWakes()
					b.sysfs.setFailure(failing, errRefused)
					close(finish)
					synctest.Wait()
					if diff := cmp.Diff([]string{testAddress + " > " + failing}, b.sysfs.take()); diff != "" {
						t.Errorf("writes of the old attempt (-want +got):\n%s", diff)
					}
					if wakes := b.takeWakes(); len(wakes) > 0 {
						t.Errorf("woken for %v by the old attempt", wakes)
					}
				})
			})
		}
	}
}

func TestForgetEndsAnAttemptWithoutUndo(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.bind()
		b.sysfs.take()
		b.Forget(b.vf.Address)
		time.Sleep(time.Hour)
		if list, next := b.Due(time.Now()), b.Next(); len(list) > 0 || !next.IsZero() || len(b.Pending()) > 0 {
			t.Errorf("due %v, next %v, pending %v; want nothing", list, next, b.Pending())
		}
		if got := b.sysfs.take(); len(got) > 0 {
			t.Errorf("written: %q, want nothing", got)
		}
	})
}

// A VF that the driver has, but whose node does not appear, must neither keep its place under
// the device limit nor wake the caller forever.
func TestAwaitNodeKeepsAVFPendingForAWhile(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.bind()
		end := time.Now().Add(driverTimeout)
		b.AwaitNode(b.vf.Address, time.Now())
		if next := b.Next(); len(b.Pending()) != 1 || !next.Equal(end) {
			t.Errorf("%d pending until %v, want 1 until %v", len(b.Pending()), next, end)
		}
		time.Sleep(driverTimeout - 1)
		b.AwaitNode(b.vf.Address, time.Now())
		if len(b.Pending()) != 1 {
			t.Errorf("not pending until its time")
		}
		time.Sleep(time.Nanosecond)
		b.AwaitNode(b.vf.Address, time.Now())
		if list, next := b.Due(time.Now()), b.Next(); len(list) > 0 || !next.IsZero() || len(b.Pending()) > 0 {
			t.Errorf("due %v, next %v, pending %v after its time; want nothing", list, next, b.Pending())
		}
	})
}

func TestAwaitNodeIgnoresAVFThatIsBeingWritten(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		finish := make(chan struct{})
		b.sysfs.delay = func(string) { <-finish }
		b.bind()
		b.AwaitNode(b.vf.Address, time.Now().Add(time.Hour))
		b.AwaitNode(pci.Address{}, time.Now()) // a VF that is not being bound
		if len(b.Pending()) != 1 {
			t.Errorf("forgotten while a write is in progress")
		}
		close(finish)
	})
}

func TestPendingListsTheTriesInProgress(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		pending := func(want int, when string) {
			t.Helper()
			if got := b.Pending(); len(got) != want {
				t.Errorf("%s: pending %v, want %d", when, got, want)
			}
		}
		b.Bind(b.vf, time.Now())
		pending(1, "while it is written")
		synctest.Wait()
		pending(1, "while the driver is waited for")
		b.bindUntilGivenUp()
		pending(0, "after a failure")
		b.RetryFailed(time.Now())
		b.bind()
		pending(1, "in the second try")
		b.Bound(b.vf.Address, time.Now())
		pending(0, "when it is bound")
	})
}

func TestRetryFailedEndsTheBackOff(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		other := b.sysfs.addVF(pci.Address{Bus: 0x3d, Device: 1, Function: 1})
		other.Driver = ""
		b.sysfs.setFailure(unbind, errRefused)
		b.bind()
		b.Bind(other, time.Now())
		synctest.Wait()
		b.RetryFailed(time.Now())
		if list := b.Due(time.Now()); !slices.Equal(list, []pci.Address{b.vf.Address}) {
			t.Errorf("due %v, want only the VF that failed", list)
		}
		b.sysfs.setFailure(unbind, nil)
		if got := b.bind(); got != waiting {
			t.Errorf("pending %q, want %q", got, waiting)
		}
	})
}

func TestDryRunLogsAVFOnce(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.sysfs.dryRun = true
		b.sysfs.setFailure(probe, errRefused)
		want := []string{"vfio-pci > " + override, testAddress + " > " + unbind, testAddress + " > " + probe}
		for range 2 {
			for range 3 {
				if got, want := b.bind(), "dry run: not bound to vfio-pci"; got != want {
					t.Errorf("pending %q, want %q", got, want)
				}
				b.RetryFailed(time.Now())
				time.Sleep(time.Hour)
			}
			if list, next := b.Due(time.Now()), b.Next(); len(list) > 0 || !next.IsZero() || len(b.Pending()) > 0 {
				t.Errorf("due %v, next %v, pending %v; want nothing", list, next, b.Pending())
			}
			if diff := cmp.Diff(want, b.sysfs.take()); diff != "" {
				t.Errorf("logged (-want +got):\n%s", diff)
			}
			if wakes := b.takeWakes(); len(wakes) != 1 {
				t.Errorf("woken for %v, want once", wakes)
			}
			b.sysfs.recreate(&b.vf)
		}
	})
}

func TestEightVFsOfAPFAreWrittenToAtTheSameTime(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		const vfs = 20
		var active atomic.Int32
		finish := make(chan struct{})
		b.sysfs.delay = func(string) {
			active.Add(1)
			<-finish
			active.Add(-1)
		}
		for pf := range uint8(workers/8 + 2) {
			for n := range uint8(vfs) {
				vf := b.sysfs.addVF(pci.Address{Bus: pf, Device: n})
				vf.PF = pci.Address{Bus: pf}
				b.Bind(vf, time.Now())
			}
			synctest.Wait()
			if n, want := active.Load(), min(8*int32(pf+1), workers); n != want {
				t.Errorf("%d writes at the same time to VFs of %d PFs, want %d", n, pf+1, want)
			}
		}
		close(finish)
		synctest.Wait()
		probed := slices.DeleteFunc(b.sysfs.take(), func(w string) bool { return !strings.HasSuffix(w, probe) })
		if want := vfs * (workers/8 + 2); len(probed) != want {
			t.Errorf("%d VFs probed, want %d", len(probed), want)
		}
	})
}

func TestVFsWaitingForAWorkerAreDroppedWhenTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		sysfs := newTestSysfs(t)
		finish := make(chan struct{})
		sysfs.delay = func(string) { <-finish }
		b := New(ctx, Config{Sysfs: sysfs.root, Driver: vfioPCI, Writer: sysfs, Wake: func(pci.Address) {}})
		for n := range uint8(2 * workersPerPF) {
			b.Bind(sysfs.addVF(pci.Address{Bus: 0x3d, Device: n}), time.Now())
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(finish)
		b.Wait()
		probed := slices.DeleteFunc(sysfs.take(), func(w string) bool { return !strings.HasSuffix(w, probe) })
		if len(probed) != workersPerPF {
			t.Errorf("%d VFs probed, want the %d in progress", len(probed), workersPerPF)
		}
	})
}

func TestNothingIsWrittenAfterTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sysfs := newTestSysfs(t)
	b := New(ctx, Config{Sysfs: sysfs.root, Driver: vfioPCI, Writer: sysfs, Wake: func(pci.Address) {}})
	for n := range uint8(8) {
		for function := range uint8(8) {
			b.Bind(sysfs.addVF(pci.Address{Bus: 0x3d, Device: n, Function: function}), time.Now())
		}
	}
	b.Wait()
	if writes := sysfs.take(); len(writes) > 0 {
		t.Errorf("written: %q", writes)
	}
}

func TestConcurrentUse(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.sysfs.setFailure(probe, unix.EIO)
		var callers sync.WaitGroup
		for n := range uint8(2 * workersPerPF) {
			vf := b.sysfs.addVF(pci.Address{Bus: 0x3d, Device: n})
			callers.Go(func() {
				for i := range 20 {
					now := time.Now()
					b.Bind(vf, now)
					b.AwaitNode(vf.Address, now)
					b.Due(now)
					b.Next()
					b.RetryFailed(now)
					b.Pending()
					b.HasFailed(vf.Address, vf.Incarnation)
					switch i % 7 {
					case 0:
						b.Forget(vf.Address)
					case 1:
						b.Bound(vf.Address, now)
					case 2:
						b.Stop(vf.Address)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		callers.Wait()
		b.Wait()
	})
}

func TestResultsOfTriesAreCounted(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		want := map[string]uint64{"bound": 0, "failed": 0, "reserved": 0, "lost": 0}
		check := func(result string) {
			t.Helper()
			want[result]++
			if diff := cmp.Diff(want, b.Results()); diff != "" {
				t.Errorf("results (-want +got):\n%s", diff)
			}
		}
		b.vf.Driver = ""
		b.sysfs.setFailure(probe, errRefused)
		b.bind()
		check("failed")
		b.sysfs.setFailure(probe, nil)
		b.sysfs.put(override, "uio_pci_generic")
		b.bindWhenDue()
		check("reserved")
		b.sysfs.put(override, "")
		b.bindWhenDue()
		b.Bound(b.vf.Address, time.Now())
		b.Bound(b.vf.Address, time.Now()) // each time it is found bound
		check("bound")
		b.bind()
		check("lost")
		b.bindWhenDue()
		b.bindUntilGivenUp()
		check("failed")
	})
}
