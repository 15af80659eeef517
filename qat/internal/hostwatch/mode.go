// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"sync"
	"time"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/status"
)

// A Mode decides what the host's events mean and what follows from them. K identifies what an
// event concerns: events with the same key are handled together.
type Mode[K comparable] interface {
	// Classify returns the key that an event concerns. It is called from the goroutines that
	// read the event sources, so it must not block, read files or allocate.
	Classify(e *events.Event) (K, Verdict)

	// Reconcile reads what the batch names, acts on it, and returns the result. b is valid only
	// during the call. This and the following methods are called from the goroutine of the loop.
	Reconcile(now time.Time, b *Batch[K]) State

	// Outcome says, for the log, what became of a key.
	Outcome(key K) string

	// Snapshot copies what the mode knows, as far as it may change, and returns a function that
	// adds it to a status.Snapshot. That function is called in other goroutines, perhaps more than
	// once, with a copy of State.Skipped. Snapshot delays events, so it must be fast.
	Snapshot() func(s *status.Snapshot, skipped map[string]string)

	// Close waits for the goroutines of the mode, after the context that it was made with ended.
	// It may leave behind a goroutine that the kernel blocks; see AwaitClosed.
	Close()
}

// CloseTimeout is how long [AwaitClosed] waits. It is longer than the time for which mode kernel
// lets a child of a killed program keep the program's output open.
const CloseTimeout = 2 * time.Second

// AwaitClosed calls functions that wait for goroutines of a mode. It reports whether all of them
// returned within CloseTimeout. It needs the timeout because nothing can end a goroutine that the
// kernel blocks.
func AwaitClosed(waits ...func()) bool {
	var waiting sync.WaitGroup
	for _, wait := range waits {
		waiting.Go(wait)
	}
	done := make(chan struct{})
	go func() { waiting.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(CloseTimeout):
		return false
	}
}

// A Verdict says whether an event matters to a mode.
type Verdict uint8

const (
	Irrelevant    Verdict = iota
	Relevant              // it concerns the returned key
	RelevantToAll         // it concerns everything: the list of PCI functions appeared
)

// A Batch is what there is to do in one call of Reconcile.
type Batch[K comparable] struct {
	// All asks for everything to be read again: it is the first call, events were lost, or the
	// last attempt to read everything failed.
	All bool

	// Keys were marked since the last call, in the order of their first mark, also with All.
	Keys []K

	// Since is when the first cause of the batch was noticed; never zero. A mode that starts work
	// of its own may pass it on to Mark: the log then says how long the whole took.
	Since time.Time

	// Audit asks to compare the host with what is known. With MayMissEvents some changes are not
	// reported, and what the audit finds is expected, not drift.
	Audit, MayMissEvents bool
}

// A State is what a mode knows after Reconcile.
type State struct {
	Tree     *devtree.Tree     // published if it is another than the last one; nil: nothing yet
	Skipped  map[string]string // what is not listed, or another problem → why; valid until the next call
	Next     time.Time         // when to call Reconcile even if nothing is marked; zero: never
	Complete bool              // the list of what to read could be read; if not, each audit asks for All
	Drift    []Finding         // what the audit of this call found; see [Drift.Take]
}

// A Host is what a mode uses of the loop that calls it.
type Host[K comparable] struct {
	// Mark marks a key, as an event would. since is when its cause was first noticed. Any
	// goroutine may call it.
	Mark func(key K, since time.Time)

	// Watches are the directories that inotify watches for the mode.
	Watches *Watches
}
