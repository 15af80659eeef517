// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"qatplugin/devtree"
	"qatplugin/test/fleet/helper"
)

const observerPause = 50 * time.Millisecond // before the observer lists and watches again

// An observer watches all slices, as the scheduler does, and compares them with the nodes.
type observer struct {
	client kubernetes.Interface
	nodes  map[string]*node

	mu      sync.Mutex                          // guards all following fields
	slices  map[string]map[string]observedSlice // node → name
	seen    map[string]int                      // the newest change of each node that a slice contained
	right   map[string]bool                     // nodes whose slices were as their Tree when the observer compared them
	changed chan struct{}                       // closed at the next event
	delays  []delay
}

// A delay is the time from a change of a node until the observer saw a slice that contains it.
type delay struct {
	published time.Time
	took      time.Duration
}

func newObserver(client kubernetes.Interface, nodes []*node) *observer {
	o := &observer{
		client:  client,
		nodes:   map[string]*node{},
		slices:  map[string]map[string]observedSlice{},
		seen:    map[string]int{},
		right:   map[string]bool{},
		changed: make(chan struct{}),
	}
	for _, n := range nodes {
		o.nodes[n.name] = n
		o.seen[n.name] = -1
	}
	return o
}

// run watches until ctx ends.
func (o *observer) run(ctx context.Context) {
	for ctx.Err() == nil {
		o.listAndWatch(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(observerPause):
		}
	}
}

// listAndWatch returns at the first error, such as at the end of the API server.
func (o *observer) listAndWatch(ctx context.Context) {
	options := metav1.ListOptions{FieldSelector: "spec.driver=" + driverName, ResourceVersion: "0"}
	list, err := o.client.ResourceV1().ResourceSlices().List(ctx, options)
	if err != nil {
		return
	}
	options.ResourceVersion = list.ResourceVersion
	w, err := o.client.ResourceV1().ResourceSlices().Watch(ctx, options)
	if err != nil {
		return
	}
	defer w.Stop()
	o.replace(list.Items)
	for event := range w.ResultChan() {
		slice, ok := event.Object.(*resourceapi.ResourceSlice)
		if !ok {
			return // an error, such as that the version is too old
		}
		o.update(slice, event.Type)
	}
}

// replace replaces all known slices.
func (o *observer) replace(list []resourceapi.ResourceSlice) {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.slices)
	for i := range list {
		o.put(&list[i])
	}
	for name := range o.nodes {
		o.compare(name, now)
	}
	o.wake()
}

func (o *observer) update(slice *resourceapi.ResourceSlice, change watch.EventType) {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	name := nodeName(slice)
	if change == watch.Deleted {
		delete(o.slices[name], slice.Name)
	} else {
		o.put(slice)
	}
	if o.nodes[name] != nil {
		o.compare(name, now)
	}
	o.wake()
}

func nodeName(slice *resourceapi.ResourceSlice) string {
	if slice.Spec.NodeName == nil {
		return ""
	}
	return *slice.Spec.NodeName
}

func (o *observer) put(slice *resourceapi.ResourceSlice) {
	name := nodeName(slice)
	if o.slices[name] == nil {
		o.slices[name] = map[string]observedSlice{}
	}
	o.slices[name][slice.Name] = observe(slice)
}

// wake wakes those who await a state.
func (o *observer) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// compare compares the slices of a node with its Tree.
func (o *observer) compare(name string, now time.Time) {
	tree, published := o.nodes[name].state()
	newest, text := difference(o.slices[name], name, tree)
	for i := o.seen[name] + 1; i <= newest && i < len(published); i++ {
		o.delays = append(o.delays, delay{published[i], now.Sub(published[i])})
	}
	o.seen[name] = max(o.seen[name], newest)
	o.right[name] = text == "" && len(published) > 0
}

// An observedSlice is what the observer remembers of a slice. It does not keep the slice, so that
// the memory of this process is that of the drivers.
type observedSlice struct {
	pool    resourceapi.ResourcePool
	devices []observedDevice
	size    int // bytes in protobuf
}

type observedDevice struct {
	name     string
	sequence int64 // -1 if it has none
	tainted  bool
}

func observe(slice *resourceapi.ResourceSlice) observedSlice {
	s := observedSlice{pool: slice.Spec.Pool, size: slice.Size()}
	for i := range slice.Spec.Devices {
		d := &slice.Spec.Devices[i]
		device := observedDevice{strings.Clone(d.Name), -1, slices.ContainsFunc(d.Taints, unhealthyTaint)}
		if a, ok := attribute(d, sequenceAttribute); ok && a.IntValue != nil {
			device.sequence = *a.IntValue
		}
		s.devices = append(s.devices, device)
	}
	return s
}

// attribute returns an attribute of the driver's domain, with or without the domain in its name.
func attribute(d *resourceapi.Device, name string) (resourceapi.DeviceAttribute, bool) {
	a, ok := d.Attributes[resourceapi.QualifiedName(name)]
	if !ok {
		a, ok = d.Attributes[resourceapi.QualifiedName(driverName+"/"+name)]
	}
	return a, ok
}

func unhealthyTaint(t resourceapi.DeviceTaint) bool {
	return t.Key == driverName+"/unhealthy" && t.Effect == resourceapi.DeviceTaintEffectNoSchedule
}

// difference compares the slices of a node with its Tree. It returns the newest change that the
// slices contain, or -1 if there is no device, and the first difference, if there is one.
func difference(found map[string]observedSlice, node string, tree *devtree.Tree) (newest int, text string) {
	newest = -1
	note := func(format string, args ...any) {
		if text == "" {
			text = fmt.Sprintf(format, args...)
		}
	}
	devices := map[string]observedDevice{}
	for name, slice := range found {
		if slice.pool.Name != node || slice.pool.ResourceSliceCount != int64(len(found)) {
			note("slice %s is one of %d of pool %s, want one of %d of pool %s",
				name, slice.pool.ResourceSliceCount, slice.pool.Name, len(found), node)
		}
		for _, d := range slice.devices {
			if _, twice := devices[d.name]; twice {
				note("device %s is there twice", d.name)
			}
			devices[d.name] = d
			newest = max(newest, int(d.sequence))
		}
	}
	r := tree.Resource(resource)
	if len(devices) != r.Len() {
		note("%d devices, want %d", len(devices), r.Len())
	}
	for want := range r.Devices() {
		d, ok := devices[helper.DeviceName(want.ID)]
		sequence := want.Attributes[sequenceAttribute]
		switch {
		case !ok:
			note("no device %s", helper.DeviceName(want.ID))
		case d.sequence != sequence:
			note("device %s is in the state of change %d, want %v", d.name, d.sequence, sequence)
		case d.tainted != (want.Health == devtree.Unhealthy):
			note("device %s is %s and tainted: %t", d.name, want.Health, d.tainted)
		}
	}
	return newest, text
}

// await waits until the slices of all nodes are right, and returns when they were.
func (o *observer) await(ctx context.Context) (time.Time, error) {
	for {
		o.mu.Lock()
		wrong, changed := o.wrongNodes(), o.changed
		o.mu.Unlock()
		if len(wrong) == 0 {
			return time.Now(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("%w: %s", context.Cause(ctx), o.report())
		}
	}
}

// wrongNodes returns the names of the nodes whose slices differ from their Tree.
func (o *observer) wrongNodes() (names []string) {
	for name, n := range o.nodes {
		if _, published := n.state(); !o.right[name] || o.seen[name] < len(published)-1 {
			names = append(names, name)
		}
	}
	return names
}

// report describes what is wrong.
func (o *observer) report() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	names := slices.Sorted(slices.Values(o.wrongNodes()))
	text := fmt.Sprintf("the slices of %d nodes are wrong", len(names))
	for _, name := range names[:min(5, len(names))] {
		tree, _ := o.nodes[name].state()
		_, what := difference(o.slices[name], name, tree)
		text += "\n" + name + ": " + what
	}
	return text
}

// forget makes the slices of all nodes count as wrong until the observer has seen others.
func (o *observer) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.right)
}

func (o *observer) wrongCount() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.wrongNodes())
}

// delaysSince returns the delays of the changes since this time.
func (o *observer) delaysSince(t time.Time) (delays []time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range o.delays {
		if !d.published.Before(t) {
			delays = append(delays, d.took)
		}
	}
	return delays
}

// sliceSize returns the average size of the slices.
func (o *observer) sliceSize() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	sum, n := 0, 0
	for _, found := range o.slices {
		for _, s := range found {
			sum, n = sum+s.size, n+1
		}
	}
	return sum / max(n, 1)
}
