// SPDX-License-Identifier: Apache-2.0

package events

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// inotifyWatches sets and removes inotify watches, as fsnotify.Watcher does.
type inotifyWatches interface {
	Add(path string) error
	Remove(path string) error
}

// watchSet is the set of wanted directories and of the inotify watches that they need.
// The directories and their ancestors form a tree of nodes, whose root is "/".
//
// A directory that exists is watched if it is wanted, or if it has a child node that
// does not exist. So the nearest existing ancestor of each wanted directory is watched,
// wanted directories share watches, and a watch is removed with its last reason. A
// parent is not watched without need: /dev would report each write to /dev/null.
//
// apply takes an event and lets reconcile compare its node with the file system: scan goes
// down from the node to see what exists, and updateWatch sets or removes the watch of each
// node. reconcileAncestors then does so upwards.
//
// A watchSet is not safe for concurrent use.
type watchSet struct {
	watches inotifyWatches
	nodes   map[string]*node // by path
	watched map[dirID]*node  // by the directory that has the watch
	failed  map[*node]error  // nodes that should be watched, but could not be
	retry   bool             // the failed nodes may be tried again
	pending []*node          // nodes whose change or failure is to be reported
	moved   []*node          // nodes whose directory was renamed, and its watch removed
}

// node is a wanted directory or an ancestor of one. Every leaf is wanted.
type node struct {
	path     string
	parent   *node // nil for "/"
	children []*node
	missing  int // number of children that do not exist
	wanted   bool
	exists   bool // as a directory, as far as is known
	watched  bool
	id       dirID // of the directory that has the watch, if watched
	pending  bool  // in watchSet.pending
}

// change is what happened to a path.
type change struct {
	action Action
	path   string
}

func newWatchSet(watches inotifyWatches) *watchSet {
	return &watchSet{
		watches: watches,
		nodes:   map[string]*node{},
		watched: map[dirID]*node{},
		failed:  map[*node]error{},
	}
}

// add makes dir wanted. With renew, it replaces the watches on dir and below it.
func (s *watchSet) add(dir string, renew bool) error {
	n := s.node(dir)
	n.wanted = true
	pending := n.pending
	s.reconcile(n, renew)
	s.retry = true // another process may have released a watch
	s.retryFailed()
	if !pending {
		s.clearPending(n) // the caller reads dir anyway
	}
	for ; n != nil; n = n.parent {
		if err := s.failed[n]; err != nil || n.exists {
			return err // dir does not need the nodes above an existing one
		}
	}
	return nil
}

// node returns the node of path, and creates it and its ancestors if needed.
func (s *watchSet) node(path string) *node {
	if n := s.nodes[path]; n != nil {
		return n
	}
	n := &node{path: path}
	s.nodes[path] = n
	if dir := filepath.Dir(path); dir != path {
		n.parent = s.node(dir)
		n.parent.children = append(n.parent.children, n)
		n.parent.missing++
	}
	return n
}

// remove makes dir unwanted and deletes the nodes that only dir needs.
func (s *watchSet) remove(dir string) {
	n := s.nodes[dir]
	if n == nil || !n.wanted {
		return
	}
	n.wanted = false
	for n != nil && !n.wanted && len(n.children) == 0 {
		s.removeWatch(n)
		delete(s.nodes, n.path)
		p := n.parent
		if p != nil {
			p.children = slices.DeleteFunc(p.children, func(c *node) bool { return c == n })
			if !n.exists {
				p.missing--
			}
		}
		n = p
	}
	if n != nil {
		s.updateWatch(n)
		s.reconcileAncestors(n, false)
		s.reconcileMoved()
	}
	s.retryFailed()
}

// apply updates the set after an inotify event and reports whether the event is about an
// entry of a wanted directory.
func (s *watchSet) apply(event change) bool {
	if event.action != Write {
		s.refresh(event.path)
	}
	parent := s.nodes[filepath.Dir(event.path)]
	if parent == nil || !parent.wanted {
		return false
	}
	if n := s.nodes[event.path]; n != nil && n.exists == (event.action == Create) && s.failed[n] == nil {
		s.clearPending(n) // it would report the same again
	}
	return true
}

// refresh brings the set in line with the file system at path and below it.
func (s *watchSet) refresh(path string) {
	if n := s.nodes[path]; n != nil {
		s.reconcile(n, true)
		s.retryFailed()
	}
}

// reconcile brings n, the nodes below it and its ancestors in line with the file
// system. With renew, what was known about n and below it is not trusted.
func (s *watchSet) reconcile(n *node, renew bool) {
	s.scan(n, renew)
	s.reconcileAncestors(n, renew)
	s.reconcileMoved()
}

// reconcileAncestors goes up to the nearest ancestor that exists and existed before.
func (s *watchSet) reconcileAncestors(n *node, renew bool) {
	for p := n.parent; p != nil; n, p = p, p.parent {
		existed := p.exists
		switch {
		case !existed:
			s.scan(p, false)
		case renew && !n.exists && !unchanged(p): // it disappeared silently, with an ancestor
			s.scan(p, true)
		default:
			s.updateWatch(p)
		}
		if existed && p.exists {
			return
		}
	}
}

// unchanged reports whether the directory of n still exists and, if it is watched, is
// the one that has the watch.
func unchanged(n *node) bool {
	id, err := statDir(n.path)
	return err == nil && (!n.watched || id == n.id)
}

// reconcileMoved reconciles the nodes that lost their watch to a renamed directory.
func (s *watchSet) reconcileMoved() {
	for len(s.moved) > 0 {
		n := s.moved[0]
		s.moved = s.moved[1:]
		if s.nodes[n.path] == n {
			s.scan(n, true)
			s.reconcileAncestors(n, true)
		}
	}
}

// scan finds out whether n and the nodes below it exist, and updates their watches.
func (s *watchSet) scan(n *node, renew bool) {
	id, err := statDir(n.path)
	if err != nil {
		known := s.failed[n] != nil
		s.markMissing(n)
		if !isMissing(err) {
			s.fail(n, err, known)
		}
		return
	}
	if n.watched && (renew || id != n.id) {
		s.removeWatch(n) // on sysfs, a watch outlives its directory and keeps it in memory
	}
	if !n.exists {
		n.exists = true
		if n.parent != nil {
			n.parent.missing--
		}
	}
	for _, c := range n.children {
		s.scan(c, renew)
	}
	s.updateWatch(n)
}

// markMissing records that n and the nodes below it do not exist.
func (s *watchSet) markMissing(n *node) {
	for _, c := range n.children {
		s.markMissing(c)
	}
	s.removeWatch(n)
	if !n.exists {
		return
	}
	n.exists = false
	if n.parent != nil {
		n.parent.missing++
	}
	s.setPending(n)
}

// updateWatch adds the watch on n if it is needed, and removes it if it is not.
func (s *watchSet) updateWatch(n *node) {
	for n.exists {
		if !n.wanted && n.missing == 0 {
			s.removeWatch(n)
			return
		}
		if n.watched || !s.addWatch(n) {
			return
		}
		s.setPending(n)
		// Changes before the watch was set caused no event, so scan the children now.
		// This includes those that exist: fsnotify suppresses the removal of a watched
		// directory once its parent is watched, too.
		for _, c := range n.children {
			s.scan(c, false)
		}
	}
}

// addWatch sets the watch on n and reports whether it succeeded. If not, n is missing
// or has an entry in s.failed.
func (s *watchSet) addWatch(n *node) bool {
	for { // again if the directory is replaced while its watch is set
		id, err := statDir(n.path)
		if err == nil {
			if other := s.watched[id]; other != nil && other != n {
				if unchanged(other) {
					s.fail(n, fmt.Errorf("same directory as %q, which is watched", other.path), s.failed[n] != nil)
					return false
				}
				// The directory was renamed and its event is still queued. fsnotify
				// would keep its old path.
				s.removeWatch(other)
				s.moved = append(s.moved, other)
			}
			err = s.watches.Add(n.path)
		}
		switch {
		case isMissing(err):
			s.markMissing(n)
			return false
		case err != nil:
			s.fail(n, err, s.failed[n] != nil)
			return false
		}
		if now, err := statDir(n.path); err == nil && now == id {
			delete(s.failed, n)
			n.watched, n.id = true, id
			s.watched[id] = n
			return true
		}
		_ = s.watches.Remove(n.path)
	}
}

// removeWatch removes the watch on n, if there is one, and forgets a failure.
func (s *watchSet) removeWatch(n *node) {
	delete(s.failed, n)
	if n.watched {
		_ = s.watches.Remove(n.path) // it fails if the directory was removed
		n.watched = false
		delete(s.watched, n.id)
		s.retry = true
	}
}

// fail records that n should be watched, but could not be. Unless that is known, it must
// be reported, because changes may be lost from now on.
func (s *watchSet) fail(n *node, err error, known bool) {
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w: %w", ErrWatchLimit, err)
	}
	s.failed[n] = fmt.Errorf("watch %q: %w", n.path, err)
	if !known {
		s.setPending(n)
	}
}

// retryFailed tries to watch the failed nodes, if a watch may be free.
func (s *watchSet) retryFailed() {
	for s.retry && len(s.failed) > 0 {
		s.retry = false
		for _, n := range slices.Collect(maps.Keys(s.failed)) {
			if s.failed[n] == nil {
				continue // resolved together with another node
			}
			s.reconcile(n, false)
			if errors.Is(s.failed[n], ErrWatchLimit) {
				return
			}
		}
	}
	s.retry = false
}

// setPending notes that a change of n is to be reported, if n is wanted or has failed.
// Whether it is Create, Delete or a failure follows from the state of n at that time.
func (s *watchSet) setPending(n *node) {
	if !n.pending && (n.wanted || s.failed[n] != nil) {
		n.pending = true
		s.pending = append(s.pending, n)
	}
}

func (s *watchSet) clearPending(n *node) {
	if n.pending {
		n.pending = false
		s.pending = slices.DeleteFunc(s.pending, func(o *node) bool { return o == n })
	}
}

// takePending appends the pending changes to out, returns a pending failure, and clears both.
func (s *watchSet) takePending(out []change) (changes []change, failed error) {
	for _, n := range s.pending {
		n.pending = false
		switch {
		case s.failed[n] != nil:
			failed = s.failed[n]
		case !n.wanted:
		case n.exists:
			out = append(out, change{Create, n.path})
		default:
			out = append(out, change{Delete, n.path})
		}
	}
	clear(s.pending)
	s.pending = s.pending[:0]
	return out, failed
}

// err returns the first of the failures, in the order of paths, and their number.
func (s *watchSet) err() error {
	var first *node
	for n := range s.failed {
		if first == nil || n.path < first.path {
			first = n
		}
	}
	if len(s.failed) > 1 {
		return fmt.Errorf("%d directories are not watched, the first: %w", len(s.failed), s.failed[first])
	}
	return s.failed[first]
}

// isMissing reports whether err means that a directory does not exist.
func isMissing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// dirID identifies a directory: another one at the same path has another dirID. The inode
// number alone is not enough, as ext4 reuses it at once; but ext4 records the time of
// creation. sysfs and debugfs do not, but they do not reuse inode numbers.
type dirID struct {
	major, minor uint32 // of the file system's device
	inode        uint64
	created      unix.StatxTimestamp // zero if the file system does not record it
}

// statDir returns the dirID of the directory at path, or ENOTDIR if it is none.
func statDir(path string) (dirID, error) {
	var st unix.Statx_t
	mask := unix.STATX_TYPE | unix.STATX_INO | unix.STATX_BTIME
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, mask, &st); err != nil {
		return dirID{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return dirID{}, unix.ENOTDIR
	}
	id := dirID{major: st.Dev_major, minor: st.Dev_minor, inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.created = st.Btime
	}
	return id, nil
}
