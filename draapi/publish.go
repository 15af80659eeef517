// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"time"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/inventory"
	"qatplugin/draapi/internal/publisher"
)

// separateSlices is how many slices are used before groups share one. The API server validates and
// stores a slice as a whole, so small slices make a change cheap. All of them fit into the ten
// writes that the publisher sends at once when the kubelet has deleted the slices.
const separateSlices = 8

// maxHistory limits the inventories that history keeps while the API server is away.
const maxHistory = 256

// history records the Tree of each inventory that is not published yet. The Driver's mutex guards
// it.
type history struct {
	entries []historyEntry // the oldest first
	newest  *inventory.Inventory
}

type historyEntry struct {
	inventory *inventory.Inventory
	tree      *devtree.Tree // the newest that has this inventory
}

// add records that the tree has the inventory. It reports whether the inventory was published
// already, so that the API server has the tree.
func (h *history) add(i *inventory.Inventory, t *devtree.Tree) (published bool) {
	n := len(h.entries)
	switch {
	case n > 0 && h.entries[n-1].inventory == i:
		h.entries[n-1].tree = t
		return false
	case i == h.newest:
		return true
	}
	h.newest = i
	if n == maxHistory {
		h.entries[n-1] = historyEntry{i, t}
		return false
	}
	h.entries = append(h.entries, historyEntry{i, t})
	return false
}

// published returns the Tree of an inventory, and forgets it and those before it. It returns nil if
// the inventory is not known, because it was published before.
func (h *history) published(i *inventory.Inventory) *devtree.Tree {
	for k := len(h.entries) - 1; k >= 0; k-- {
		if h.entries[k].inventory != i {
			continue
		}
		t := h.entries[k].tree
		left := copy(h.entries, h.entries[k+1:])
		clear(h.entries[left:]) // so that their devices can be freed
		h.entries = h.entries[:left]
		return t
	}
	return nil
}

// slicesObserver passes on what the Publisher does.
type slicesObserver struct{ driver *Driver }

// SliceWritten is called after each write.
func (o slicesObserver) SliceWritten(slice, operation string, took time.Duration, err error) {
	for _, observer := range o.driver.config.observers {
		observer.SliceWritten(slice, operation, took, err)
	}
}

// Published is called when the API server has stored all slices of an inventory.
func (o slicesObserver) Published(i *inventory.Inventory) {
	o.driver.mu.Lock()
	t := o.driver.history.published(i)
	o.driver.mu.Unlock()
	if t != nil {
		o.driver.observePublished(t)
	}
}

func (d *Driver) observePublished(t *devtree.Tree) {
	for _, o := range d.config.observers {
		o.Published(t)
	}
}

// newPublisher returns the Publisher of the Driver's ResourceSlices.
func (d *Driver) newPublisher(p *parts) *publisher.Publisher {
	return publisher.New(publisher.Config{
		Driver:   d.name,
		Node:     d.config.nodeName,
		Client:   p.client,
		GroupBy:  d.config.groupBy,
		Separate: separateSlices,
		Evict:    d.evicts,
		Observer: slicesObserver{d},
	})
}

// evicts reports whether an unhealthy device evicts the pods that use it. A container runtime that
// ignores CDI devices is no reason: pods that run got their devices from an earlier runtime, or
// have none.
func (d *Driver) evicts(device *devtree.Device) bool {
	return d.config.evict != nil && device.Cause != causeNoCDI && d.config.evict(device)
}
