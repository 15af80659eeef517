package events

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// watchSetter is the part of fsnotify that sets inotify watches.
type watchSetter interface {
	Add(path string) error
	Remove(path string) error
}

// wishes are the directories that somebody wants to hear of, as a tree of paths from "/" on, and the inotify watches that serve them.
//
// A directory that exists is watched when it is wanted, or when a child on the way to a wanted directory is missing: so of each wish
// its nearest existing ancestor is watched, wishes share watches, and a watch goes when its last reason does. No parent is watched that need
// not be: /dev tells of each write to /dev/null.
//
// It is not safe for concurrent use.
type wishes struct {
	watches watchSetter
	nodes   map[string]*node   // by path
	watched map[identity]*node // by the directory that the watch is on
	failed  map[*node]error    // those that should be watched but could not
	told    []*node            // wanted directories that came or went since they were told of
	astray  []*node            // nodes whose watch turned out to be on a directory of another name
	freed   bool               // a watch was given back since the failed ones were tried
}

// node is a path on the way to a wanted directory, or that directory. Every leaf is wanted.
type node struct {
	path     string
	parent   *node // nil for "/"
	children []*node
	missing  int // children that do not exist
	wanted   bool
	exists   bool // as a directory, as far as we know: what we watch, or what has something watched below it
	watched  bool
	told     bool     // it is in wishes.told
	id       identity // of the directory that the watch is on
}

func newWishes(watches watchSetter) *wishes {
	return &wishes{watches: watches, nodes: map[string]*node{}, watched: map[identity]*node{}, failed: map[*node]error{}}
}

// want adds the wish for a directory. remade: what is known of it may be of an older one of that name.
func (w *wishes) want(dir string, remade bool) error {
	n := w.node(dir)
	n.wanted = true
	pending := n.told
	w.settle(n, remade)
	w.retry()
	if !pending && n.told { // who asks looks for himself
		w.untell(n)
	}
	for p := n; p != nil; p = p.parent { // down from the wish to what is watched for it
		if err := w.failed[p]; err != nil {
			return err
		}
		if p.exists {
			break
		}
	}
	return nil
}

func (w *wishes) node(path string) *node {
	if n := w.nodes[path]; n != nil {
		return n
	}
	n := &node{path: path}
	w.nodes[path] = n
	if dir := filepath.Dir(path); dir != path {
		n.parent = w.node(dir)
		n.parent.children = append(n.parent.children, n)
		n.parent.missing++
	}
	return n
}

// drop takes a wish back, and with it every node that was there only for it.
func (w *wishes) drop(dir string) {
	n := w.nodes[dir]
	if n == nil || !n.wanted {
		return
	}
	n.wanted = false
	for n != nil && !n.wanted && len(n.children) == 0 {
		w.release(n)
		delete(w.nodes, n.path)
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
		w.hold(n)
		w.settleAbove(n, false)
	}
	w.retry()
}

// changed takes note that something happened to the directory of that name, or to one that had it.
func (w *wishes) changed(n *node) {
	w.settle(n, true)
	w.retry()
}

// settle brings n, all below it, and what depends on it above in line with the file system.
func (w *wishes) settle(n *node, remade bool) {
	w.look(n, remade)
	w.settleAbove(n, remade)
	for len(w.astray) > 0 {
		n := w.astray[0]
		w.astray = w.astray[1:]
		if w.nodes[n.path] == n {
			w.look(n, true)
			w.settleAbove(n, true)
		}
	}
}

// settleAbove goes up to the nearest ancestor that exists, as it always did.
func (w *wishes) settleAbove(n *node, remade bool) {
	for p := n.parent; p != nil; n, p = p, p.parent {
		known := p.exists
		switch {
		case !known:
			w.look(p, false)
		case remade && !n.exists && !current(p): // it went with an ancestor of its own, in silence
			w.look(p, true)
		default:
			w.hold(p)
		}
		if known && p.exists {
			return
		}
	}
}

// current says whether n, which existed, is still there and the same that is watched.
func current(n *node) bool {
	id, err := identify(n.path)
	return err == nil && (!n.watched || id == n.id)
}

// look finds out whether n and all below it exist, and watches what must be watched.
func (w *wishes) look(n *node, remade bool) {
	id, err := identify(n.path)
	if err != nil {
		w.gone(n)
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			w.failed[n] = watchError(n.path, err)
		}
		return
	}
	if n.watched && (remade || id != n.id) {
		w.release(n) // on sysfs the watch on a directory that was removed lives on, and keeps it in memory
	}
	if !n.exists {
		n.exists = true
		if n.parent != nil {
			n.parent.missing--
		}
	}
	for _, c := range n.children {
		w.look(c, remade)
	}
	w.hold(n)
}

// gone takes note that n does not exist, nor anything below it.
func (w *wishes) gone(n *node) {
	for _, c := range n.children {
		w.gone(c)
	}
	w.release(n)
	if !n.exists {
		return
	}
	n.exists = false
	if n.parent != nil {
		n.parent.missing++
	}
	if n.wanted {
		w.tell(n)
	}
}

// hold makes n watched if it must be, and not watched if it need not be.
func (w *wishes) hold(n *node) {
	for n.exists {
		if !n.wanted && n.missing == 0 {
			w.release(n)
			return
		}
		if n.watched || !w.add(n) {
			return
		}
		if n.wanted {
			w.tell(n)
		}
		// Subscribe, then look: what came or went before the watch stood gives no event. Also those that exist are looked at: that
		// one of them was removed is told by fsnotify only if it does not know its parent, and it does from now on.
		for _, c := range n.children {
			w.look(c, false)
		}
	}
}

// add sets the watch on n. false: it is not watched, because it has gone or for a reason in w.failed.
func (w *wishes) add(n *node) bool {
	for { // again when the directory was replaced meanwhile
		id, err := identify(n.path)
		if err == nil {
			if other := w.watched[id]; other != nil && other != n {
				if now, err := identify(other.path); err == nil && now == id {
					w.failed[n] = fmt.Errorf("watch %q: it is the same directory as %q, which is watched", n.path, other.path)
					return false
				}
				// It was renamed, which will be told yet. fsnotify takes a directory that it knows for what it was called before.
				w.release(other)
				w.astray = append(w.astray, other)
			}
			err = w.watches.Add(n.path)
		}
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			w.gone(n)
			return false
		case err != nil:
			w.failed[n] = watchError(n.path, err)
			return false
		}
		if now, err := identify(n.path); err == nil && now == id {
			delete(w.failed, n)
			n.watched, n.id = true, id
			w.watched[id] = n
			return true
		}
		_ = w.watches.Remove(n.path)
	}
}

// release gives the watch on n back, if there is one.
func (w *wishes) release(n *node) {
	delete(w.failed, n)
	if !n.watched {
		return
	}
	_ = w.watches.Remove(n.path) // an error says that it went with its directory
	n.watched = false
	delete(w.watched, n.id)
	w.freed = true
}

// retry tries those again that could not be watched, if there may be watches now.
func (w *wishes) retry() {
	for w.freed && len(w.failed) > 0 {
		w.freed = false
		for _, n := range slices.Collect(maps.Keys(w.failed)) {
			if _, still := w.failed[n]; !still {
				continue
			}
			w.settle(n, false)
			if errors.Is(w.failed[n], ErrWatchLimit) {
				return
			}
		}
	}
	w.freed = false
}

// tell notes that a wanted directory came or went. Which of the two is asked when it is told.
func (w *wishes) tell(n *node) {
	if !n.told {
		n.told = true
		w.told = append(w.told, n)
	}
}

func (w *wishes) untell(n *node) {
	if n.told {
		n.told = false
		w.told = slices.DeleteFunc(w.told, func(o *node) bool { return o == n })
	}
}

// err says what is not watched that should be.
func (w *wishes) err() error {
	if len(w.failed) == 0 {
		return nil
	}
	first := slices.MinFunc(slices.Collect(maps.Keys(w.failed)), func(a, b *node) int { return strings.Compare(a.path, b.path) })
	if len(w.failed) == 1 {
		return w.failed[first]
	}
	return fmt.Errorf("%d directories are not watched, the first: %w", len(w.failed), w.failed[first])
}
