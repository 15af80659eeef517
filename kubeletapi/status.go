// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"qatplugin/devtree"
)

// A ResourceStatus is the state of a resource at the kubelet.
type ResourceStatus struct {
	Name    string // with the namespace, such as "color.example.com/yellow"
	Devices int    // in the newest Tree
	Healthy int    // of these, how many are healthy

	Phase   Phase
	Err     error // why the kubelet does not receive the list, or not all devices; nil if it does
	Streams int   // ListAndWatch streams that are open, apart from those of an earlier kubelet

	// Counts since the Manager has served the resource.
	Lists     uint64    // lists that were sent, on all streams
	Bytes     uint64    // of these lists
	LastList  time.Time // when the last one was sent; zero if none was
	Allocated uint64    // devices that successful Allocate calls named
	Failed    uint64    // Allocate calls that failed
}

// Resources returns the state of the resources that the newest Tree contains or that are served,
// sorted by name. Any goroutine may call it, before, while and after Run runs. It takes time in
// proportion to the number of devices, and delays nothing.
func (m *Manager) Resources() []ResourceStatus {
	m.mu.Lock()
	tree := m.publisher.Tree()
	found, dir := m.kubeletFound, m.config.dir
	served := make(map[string]*registration, len(m.registrations))
	for resource := range tree.Resources() {
		served[resource.Name()] = nil
	}
	for name, r := range m.registrations {
		served[name] = r
	}
	m.mu.Unlock()

	list := make([]ResourceStatus, 0, len(served))
	for name, r := range served {
		s := ResourceStatus{Name: fullName(m.namespace, name), Phase: PhaseIdle}
		for d := range tree.Resource(name).Devices() {
			s.Devices++
			if d.Health == devtree.Healthy {
				s.Healthy++
			}
		}
		if r == nil {
			s.Err = errors.New("it is not served yet")
		} else {
			r.describe(&s)
		}
		if !found {
			s.Phase, s.Err = PhaseIdle, fmt.Errorf("%s not found in %s", kubeletSocket, dir)
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b ResourceStatus) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// describe sets the fields of s that depend on the registration.
func (r *registration) describe(s *ResourceStatus) {
	r.mu.Lock()
	s.Phase, s.Err, s.Streams = r.state.phase(), r.problem(), r.state.streams
	if r.unserved != nil {
		s.Phase = PhaseIdle
	}
	r.mu.Unlock()
	c := &r.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Lists, s.Bytes, s.LastList = c.lists, c.bytes, c.lastList
	s.Allocated, s.Failed = c.allocated, c.failed
}

// counts counts what was done for one resource. Its methods may be called from any goroutine.
type counts struct {
	mu                sync.Mutex // guards all following fields
	lists, bytes      uint64
	lastList          time.Time
	allocated, failed uint64
}

// send counts a list that was sent at that time.
func (c *counts) send(bytes int, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists++
	c.bytes += uint64(bytes)
	c.lastList = at
}

// allocate counts an Allocate call that named this number of devices.
func (c *counts) allocate(devices int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed++
	} else {
		c.allocated += uint64(devices)
	}
}
