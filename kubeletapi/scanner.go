// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// A Scanner is a plugin that polls: it scans all of its devices, reports what it found,
// and scans again after a while. [FromScanner] makes it a [Plugin].
type Scanner interface {
	// Scan calls Notify after each scan and returns when Done is closed. An error ends
	// the Manager. If Scan returns nil before that, the devices no longer change.
	Scan(notifier Notifier) error
}

// A Notifier receives what a [Scanner] found.
type Notifier interface {
	// Notify reports all devices in a Tree that is built from nothing, starting with
	// new(devtree.Tree).Edit(). Devices that did not change cost nothing downstream. A
	// resource that the Tree does not have remains registered, without devices.
	Notify(found *devtree.Tree)

	// Done returns a channel that is closed when the Manager stops.
	Done() <-chan struct{}
}

// FromScanner returns a Plugin that runs the Scanner. The Manager also detects the optional
// interfaces, such as [Allocator], that the Scanner or a Scanner that it wraps implements; see
// [Plugin].
//
// When the Manager stops, Scan has one second to return. If it does not, it is left
// running, which is logged, and its notifications are dropped.
func FromScanner(scanner Scanner) Plugin { return scannerPlugin{scanner} }

const scanGracePeriod = time.Second

type scannerPlugin struct{ scanner Scanner }

// Unwrap returns the Scanner, so that the Manager detects its optional interfaces.
func (p scannerPlugin) Unwrap() Scanner { return p.scanner }

// Watch implements [Plugin].
func (p scannerPlugin) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	ended := make(chan error, 1) // has a buffer because nobody may receive
	go func() {
		err := p.scanner.Scan(&notifier{ctx: ctx, publish: publish})
		if err != nil {
			err = fmt.Errorf("scan: %w", err)
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(scanGracePeriod):
		klog.FromContext(ctx).Info("Scan did not return after Done was closed, leaving it running",
			"plugin", fmt.Sprintf("%T", p.scanner), "waited", scanGracePeriod)
		return nil
	}
}

// notifier implements [Notifier].
type notifier struct {
	ctx     context.Context
	publish func(*devtree.Tree)

	mu   sync.Mutex // held during publish, so that Trees are published in order
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
