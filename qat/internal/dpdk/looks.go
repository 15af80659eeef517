// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
)

const (
	// lookWait is how long a look may delay the event loop, or up to twice as long. Mostly a look
	// takes less than 0.1 ms.
	lookWait = 10 * time.Millisecond

	// lookTimeout is when a look that has not returned is logged.
	lookTimeout = time.Second
)

// A look is what one read of a function found.
type look struct {
	address pci.Address
	facts   *device.Function // as [device.Reader.Read] returns them
	err     error
	watches []device.Watch // the directories that are watched since before the read
}

// looks reads functions in goroutines of its own, because the kernel can block a read for as long
// as it likes, and then only the end of the process ends it. A goroutine whose look takes longer
// than lookWait is left alone, and another one takes its place. There is at most one look at each
// function at a time.
//
// Apart from the goroutines that it starts, looks belongs to the goroutine of the event loop.
type looks struct {
	read    func(pci.Address, *device.Progress) look // may block
	wake    func()                                   // called in a goroutine when a slow look has returned
	running sync.WaitGroup
	back    chan struct{} // holds a token after a slow look has returned

	idle *looker                 // has nothing to do; nil: none
	slow map[pci.Address]*looker // those that were left alone, each with one look

	mu       sync.Mutex  // guards the following fields
	timer    *time.Timer // calls tick
	armed    bool        // timer will call it
	awaited  *looker     // the loop waits for it; nil: for none
	seen     *looker     // awaited at the last tick
	seenDone int         // how many looks it had done by then
}

// A looker is a goroutine that reads functions one after the other.
type looker struct {
	addresses chan []pci.Address // what to read next; holds one, so that the loop need not wait
	returned  chan struct{}      // holds a token when all is read, unless the looker was left alone
	stuck     chan struct{}      // holds a token when a look takes longer than lookWait
	progress  device.Progress

	mu    sync.Mutex // guards the following fields
	found []look
	done  int  // looks so far
	rest  int  // looks that are still to be done
	left  bool // it was left alone: its look is the last one

	// Of the loop's goroutine, about a slow look:
	since time.Time // when it began
	noted bool      // it was logged
	again bool      // the function must be read again afterwards
}

func newLooks(read func(pci.Address, *device.Progress) look, wake func()) *looks {
	l := &looks{read: read, wake: wake, back: make(chan struct{}, 1), slow: map[pci.Address]*looker{}}
	l.timer = time.AfterFunc(lookWait, l.tick)
	l.timer.Stop()
	return l
}

// start starts to read functions at which there is no look. The caller does not change addresses
// afterwards.
func (l *looks) start(addresses []pci.Address, left bool) *looker {
	k := l.idle
	if l.idle = nil; k == nil {
		k = &looker{
			addresses: make(chan []pci.Address, 1),
			returned:  make(chan struct{}, 1),
			stuck:     make(chan struct{}, 1),
		}
		l.running.Go(func() { l.run(k) })
	}
	select {
	case <-k.stuck: // it was late
	default:
	}
	k.found, k.rest, k.left = k.found[:0], len(addresses), left
	k.addresses <- addresses
	return k
}

// run is the goroutine of a looker.
func (l *looks) run(k *looker) {
	for addresses := range k.addresses {
		left := false
		for i := 0; i < len(addresses) && !left; i++ {
			left = k.add(l.read(addresses[i], &k.progress))
		}
		if !left {
			k.returned <- struct{}{}
			continue
		}
		select {
		case l.back <- struct{}{}:
		default:
		}
		l.wake()
	}
}

// add adds the result of a look, and reports whether the looker was left alone.
func (k *looker) add(found look) (left bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.found = append(k.found, found)
	k.done++
	if k.rest--; k.left {
		k.rest = 0
	}
	return k.left
}

// finish makes a looker idle, or ends it if there is an idle one.
func (l *looks) finish(k *looker) {
	if l.idle != nil {
		close(k.addresses)
		return
	}
	l.idle = k
}

// inOrder reads functions one after the other. It ends with the first look that takes longer than
// lookWait, which becomes a slow one. The result is what it found before that, valid until the next
// call.
func (l *looks) inOrder(addresses []pci.Address, now time.Time) []look {
	k := l.start(addresses, false)
	l.watch(k)
	defer l.watch(nil)
	select {
	case <-k.returned:
	case <-k.stuck:
		if found, left := k.leave(); left {
			l.setSlow(addresses[len(found)], k, now)
			return found
		}
		<-k.returned // just now
	}
	l.finish(k)
	return k.found
}

// leave makes the current look the last one, unless all are done. It returns the results before it.
func (k *looker) leave() (found []look, left bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.rest == 0 {
		return nil, false
	}
	found, k.found, k.left = k.found, nil, true
	return found, true
}

// apart reads a function as a slow look.
func (l *looks) apart(a pci.Address, now time.Time) {
	l.setSlow(a, l.start([]pci.Address{a}, true), now)
}

func (l *looks) setSlow(a pci.Address, k *looker, now time.Time) {
	k.since, k.noted, k.again = now, false, false
	l.slow[a] = k
}

// watch watches the looker that the loop waits for, nil: none. The timer is not stopped each time,
// because the runtime may have to wake a thread when a timer is set.
func (l *looks) watch(k *looker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.awaited = k
	if k != nil && !l.armed {
		l.armed, l.seen = true, nil
		l.timer.Reset(lookWait)
	}
}

// tick tells the loop if the looker is at the same look as at the last tick.
func (l *looks) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.awaited
	if l.armed = k != nil; !l.armed {
		return
	}
	k.mu.Lock()
	done := k.done
	k.mu.Unlock()
	if k == l.seen && done == l.seenDone {
		select {
		case k.stuck <- struct{}{}:
		default:
		}
	}
	l.seen, l.seenDone = k, done
	l.timer.Reset(lookWait)
}

// returned returns the slow looks that have returned, and the functions among them that must be
// read again. VFs come first: if their PF has changed they must be read again.
func (l *looks) returned() (found []look, again []pci.Address) {
	for a, k := range l.slow {
		k.mu.Lock()
		rest := k.rest
		k.mu.Unlock()
		if rest > 0 {
			continue
		}
		found = append(found, k.found[0])
		if k.again {
			again = append(again, a)
		}
		if k.noted {
			klog.InfoS("A read has returned at last", "device", a, "after", time.Since(k.since))
		}
		delete(l.slow, a)
		l.finish(k)
	}
	slices.SortFunc(found, func(a, b look) int {
		return cmp.Or(a.isPF()-b.isPF(), a.address.Compare(b.address))
	})
	return found, again
}

// isPF is 1 for the look at a PF, and 0 for any other.
func (l *look) isPF() int {
	if l.facts != nil && !l.facts.IsVF {
		return 1
	}
	return 0
}

// await waits until a slow look has returned, but not longer than lookWait, and reports whether one
// has.
func (l *looks) await() bool {
	if len(l.slow) == 0 {
		return false
	}
	timer := time.NewTimer(lookWait)
	defer timer.Stop()
	select {
	case <-l.back:
		return true
	case <-timer.C:
		return false
	}
}

// blocked logs the slow looks that have not returned for lookTimeout, each once, and returns their
// functions.
func (l *looks) blocked(now time.Time) (list []pci.Address) {
	for a, k := range l.slow {
		if !k.noted && now.Sub(k.since) >= lookTimeout {
			k.noted = true
			klog.ErrorS(nil, "A read does not return, keeping what is known of the device until it does",
				"device", a, "file", k.progress.File(), "after", now.Sub(k.since))
			list = append(list, a)
		}
	}
	return list
}

// next is when blocked has something to log; zero: never.
func (l *looks) next() (next time.Time) {
	for _, k := range l.slow {
		if !k.noted {
			next = hostwatch.Earlier(next, k.since.Add(lookTimeout))
		}
	}
	return next
}

// isSlow reports whether there is a slow look at a function.
func (l *looks) isSlow(a pci.Address) bool { return l.slow[a] != nil }

// repeat has a function read again after the slow look at it.
func (l *looks) repeat(a pci.Address) { l.slow[a].again = true }

// err describes a slow look.
func (l *looks) err(a pci.Address) error {
	return fmt.Errorf("read %s: it has not returned yet", cmp.Or(l.slow[a].progress.File(), a.String()))
}

// close ends the goroutines, apart from those that the kernel blocks. There must be no look
// afterwards.
func (l *looks) close() {
	if l.idle != nil {
		close(l.idle.addresses)
		l.idle = nil
	}
	for _, k := range l.slow {
		close(k.addresses)
	}
	clear(l.slow)
}

// wait waits for all goroutines, after close. The kernel can block it.
func (l *looks) wait() { l.running.Wait() }
