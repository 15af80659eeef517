package kubeletapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// Scanner is a plugin of the polling kind: it looks at all of its devices, tells what it found, waits, and looks again.
// [FromScanner] makes a Plugin of it.
type Scanner interface {
	// Scan calls notifier.Notify after each look, and returns when notifier.Done is closed. An error ends the Manager. A return without an
	// error before that says that nothing will change any more.
	Scan(notifier Notifier) error
}

// Notifier takes what a Scanner found.
type Notifier interface {
	// Notify takes everything that was found, built from an empty Tree: new(devtree.Tree).Edit(). What is the same as the last time
	// costs nothing downstream. A resource that the Tree lacks has no devices any more, and stays registered.
	Notify(found *devtree.Tree)

	// Done is closed when the Manager ends.
	Done() <-chan struct{}
}

// FromScanner makes a Plugin of a Scanner. The optional interfaces ([Allocator] and so on) are the Scanner's own.
//
// When the Manager ends, a Scan that does not heed Done has a second to return; one that sleeps longer is left to the end of the
// process, which is said in the log. What it notifies of then is dropped.
func FromScanner(scanner Scanner) Plugin { return scanning{scanner} }

const scanGrace = time.Second

type scanning struct{ scanner Scanner }

// unwrap shows whose optional interfaces count.
func (s scanning) unwrap() any { return s.scanner }

// Watch runs the one Scan.
func (s scanning) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	ended := make(chan error, 1) // holds the answer of a Scan that nobody waits for any more
	go func() { ended <- s.scanner.Scan(&notifier{ctx: ctx, publish: publish}) }()
	select {
	case err := <-ended:
		return scanError(err)
	case <-ctx.Done():
	}
	grace := time.NewTimer(scanGrace)
	defer grace.Stop()
	select {
	case err := <-ended:
		return scanError(err)
	case <-grace.C:
		klog.FromContext(ctx).Info("Scan heeds no Notifier.Done, and is left to the end of the process", "plugin", fmt.Sprintf("%T", s.scanner), "waited", scanGrace)
		return nil
	}
}

func scanError(err error) error {
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	return nil
}

// notifier is the Notifier of one Scan.
type notifier struct {
	ctx     context.Context
	publish func(*devtree.Tree)

	mu   sync.Mutex // held until what is last is published
	last *devtree.Tree
}

func (n *notifier) Done() <-chan struct{} { return n.ctx.Done() }

func (n *notifier) Notify(found *devtree.Tree) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := found.After(n.last)
	if n.ctx.Err() != nil || next == n.last {
		return
	}
	n.last = next
	n.publish(next)
}

// unwrapper is a Plugin that stands before what the author wrote.
type unwrapper interface{ unwrap() any }

// offers is the value whose methods say which optional interfaces the plugin has.
func offers(plugin Plugin) any {
	if w, ok := plugin.(unwrapper); ok {
		return w.unwrap()
	}
	return plugin
}
