// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"time"

	"qatplugin/devtree"
	"qatplugin/events"
)

// A Mode decides what the host's events mean and what follows from them. K identifies what an
// event concerns: events with the same key are handled together.
type Mode[K comparable] interface {
	// Classify returns the key that an event concerns. It is called from the goroutines that
	// read the event sources, so it must not block, read files or allocate.
	Classify(e *events.Event) (K, Verdict)

	// Reconcile reads what the batch names, acts on it, and returns the
	// result. It is called from the goroutine of the loop.
	Reconcile(now time.Time, b *Batch[K]) State

	// Outcome says, for the log, what became of a key. It is called from the
	// goroutine of the loop.
	Outcome(key K) string

	// Close waits for the goroutines of the mode, after the context that it
	// was made with has ended.
	Close()
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
	// All asks for everything to be read again: it is the first call, events
	// were lost, or the last attempt to read everything failed.
	All bool

	// Keys were marked since the last call, in the order of their first mark.
	// They are set even if All is.
	Keys []K

	// Since is when the first cause of the batch was noticed. It is never
	// zero. A mode that starts work of its own for the batch passes it on to
	// Mark, so that the log says how long the whole took.
	Since time.Time

	// Audit says that it is time to compare the host with what is known.
	Audit bool

	// Limited says that some changes may not be reported. What an audit finds
	// meanwhile is expected, not drift.
	Limited bool
}

// A State is what a mode knows after Reconcile.
type State struct {
	// Tree is published when it differs from the last one. Nil means that
	// there is nothing to publish yet.
	Tree *devtree.Tree

	// Skipped maps what exists but is not listed to the reason. It is valid
	// until the next call of Reconcile.
	Skipped map[string]string

	// Next is when Reconcile must be called even if nothing is marked. The
	// zero time means never.
	Next time.Time

	// Complete says that the whole host has been read. While it is false the
	// loop asks for All at each audit.
	Complete bool
}

// A Host is what a mode uses of the loop that calls it.
type Host[K comparable] struct {
	// Mark marks a key, as an event would. since is when its cause was first
	// noticed. It may be called from any goroutine.
	Mark func(key K, since time.Time)

	// Watches are the directories that inotify watches for the mode.
	Watches *Watches
}
