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
				if w.Name == probe || w.Name == giveBack {
					got = append(got, w.at.Sub(start))
				}
			}
			want := []time.Duration{
				0,
				1 * time.Millisecond,
				11 * time.Millisecond,
				111 * time.Millisecond,
				1111 * time.Millisecond, // given back
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
			time.Sleep(time.Hour)
		}
		if list, next := b.Due(time.Now()), b.Next(); len(list) > 0 || !next.IsZero() {
			t.Errorf("due %v, next %v; want nothing", list, next)
		}
		close(finish)
		synctest.Wait()
		want := []string{"vfio-pci > " + override, testAddress + " > " + unbind, testAddress + " > " + probe}
		if diff := cmp.Diff(want, b.sysfs.take()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
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
		other := b.vf
		other.Address.Function = 1
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
		b.vf.Incarnation++
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
		"recreated": func(b *testBinder) { b.vf.Incarnation++; b.Bind(b.vf, time.Now()) },
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
// the device limit nor wake the caller for ever.
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

func TestPendingListsFirstTriesOnly(t *testing.T) {
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
		b.bindWhenDue()
		pending(0, "in the second try")
	})
}

func TestRetryFailedEndsTheBackOff(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		other := b.vf
		other.Address.Function = 1
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
			b.vf.Incarnation++
		}
	})
}

func TestEightVFsAreWrittenToAtTheSameTime(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		const vfs = 20
		var active atomic.Int32
		finish := make(chan struct{})
		b.sysfs.delay = func(string) {
			active.Add(1)
			<-finish
			active.Add(-1)
		}
		for n := range uint8(vfs) {
			vf := b.vf
			vf.Address.Device = n
			b.Bind(vf, time.Now())
		}
		synctest.Wait()
		if n := active.Load(); n != 8 {
			t.Errorf("%d writes at the same time, want 8", n)
		}
		close(finish)
		synctest.Wait()
		probed := slices.DeleteFunc(b.sysfs.take(), func(w string) bool { return !strings.HasSuffix(w, probe) })
		if len(probed) != vfs {
			t.Errorf("%d VFs probed, want %d", len(probed), vfs)
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
		for n := range uint8(2 * workers) {
			vf := testVF()
			vf.Address.Device = n
			b.Bind(vf, time.Now())
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(finish)
		b.Wait()
		probed := slices.DeleteFunc(sysfs.take(), func(w string) bool { return !strings.HasSuffix(w, probe) })
		if len(probed) != workers {
			t.Errorf("%d VFs probed, want the %d in progress", len(probed), workers)
		}
	})
}

func TestNothingIsWrittenAfterTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sysfs := newTestSysfs(t)
	b := New(ctx, Config{Sysfs: sysfs.root, Driver: vfioPCI, Writer: sysfs, Wake: func(pci.Address) {}})
	for n := range uint8(workers) {
		for function := range uint8(8) {
			vf := testVF()
			vf.Address.Device, vf.Address.Function = n, function
			b.Bind(vf, time.Now())
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
		for n := range uint8(2 * workers) {
			vf := b.vf
			vf.Address.Device = n
			callers.Go(func() {
				for i := range 20 {
					now := time.Now()
					b.Bind(vf, now)
					b.AwaitNode(vf.Address, now)
					b.Due(now)
					b.Next()
					b.RetryFailed(now)
					b.Pending()
					if i%7 == 0 {
						b.Forget(vf.Address)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		callers.Wait()
		b.Wait()
	})
}
