// SPDX-License-Identifier: Apache-2.0

package publisher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/apiclient"
	"qatplugin/draapi/internal/inventory"
	"qatplugin/internal/retry"
)

const (
	firstPause    = 100 * time.Millisecond // after a request that failed, doubled with each further one
	maxPause      = 10 * time.Second
	firstUndo     = time.Second // after the second undone change of another client in undoReset
	maxUndo       = 30 * time.Second
	undoReset     = time.Minute
	errorInterval = 10 * time.Minute // between log messages of an error that persists
	settleTime    = 10 * time.Second // how long Check accepts changes that are not written
)

// An observer receives what a [Publisher] does. Its methods are called from the goroutine that
// writes, so they must not block.
type observer interface {
	// SliceWritten is called after each write. operation is "create", "update" or "delete".
	SliceWritten(slice, operation string, took time.Duration, err error)

	// Published is called when the API server has stored all slices of an Inventory. Inventories
	// that were replaced before that are skipped.
	Published(*inventory.Inventory)
}

// A Config is what a [Publisher] needs.
type Config struct {
	Driver   string                     // the driver's name
	Node     string                     // the name of the Node, and of the pool
	Client   *apiclient.Client          // of the API server
	GroupBy  string                     // attribute whose equal values are in one slice; may be empty
	Separate int                        // groups do not share a slice before there are so many slices
	Evict    func(*devtree.Device) bool // which tainted devices get the effect NoExecute; nil: none
	Observer observer                   // may be nil
}

// A Publisher keeps the ResourceSlices of a node equal to the newest Inventory. See the package
// comment for what it guarantees. Any goroutine may call its methods.
type Publisher struct {
	config    Config
	converter converter
	wakeUp    chan struct{} // has capacity 1
	cache     *sliceCache

	mu       sync.Mutex // guards the fields up to the next empty line
	newest   *inventory.Inventory
	changed  time.Time // since when there is something to write and no progress; zero: all is written
	complete bool      // the API server has had all slices at least once
	status   Status
	watchErr error // why slices cannot be listed and watched

	// What follows belongs to Run.
	planner   planner
	limiter   limiter
	slots     map[string]*slot // by name of the slice
	others    undo             // of slices by other clients, in the driver's pool
	node      types.UID        // of the Node; empty: unknown
	deletions int              // of own slices, when node was read
	pause     retry.BackOff    // after a request that failed for a reason that concerns all
	notBefore time.Time        // no request before this time
	waiting   bool             // for the time when a request may be sent
	noTaints  bool             // the API server drops taints
	published *inventory.Inventory
	err       error // of the last request that failed; nil after one that did not
	errors    retry.ErrorLog
	log       klog.Logger
}

// A slot is a slice as the publisher knows it.
type slot struct {
	written   time.Time     // when it was last sent
	pause     retry.BackOff // after the API server refused it
	notBefore time.Time
	refused   *content // what the API server refused; nil: nothing
	err       error    // why
	errors    retry.ErrorLog

	stored  *content // what was stored last; nil: unknown
	version string   // the resource version with that content

	undo undo // of changes by other clients
}

// An undo decides when to undo what another client has done.
type undo struct {
	pause retry.BackOff // while it is done again and again
	found time.Time     // when it was last found
	at    time.Time     // when to undo it; zero: there is nothing to undo
}

// New returns a Publisher. It does nothing until [Publisher.Run] is called.
func New(config Config) *Publisher {
	p := &Publisher{
		config:    config,
		converter: converter{driver: config.Driver, evict: config.Evict},
		wakeUp:    make(chan struct{}, 1),
		planner: planner{
			prefix:   sliceNames(config.Node, config.Driver),
			driver:   config.Driver,
			node:     config.Node,
			groupBy:  config.GroupBy,
			separate: config.Separate,
		},
		slots: map[string]*slot{},
		pause: retry.BackOff{First: firstPause, Limit: maxPause, FullJitter: true},
	}
	prefix := p.planner // number only reads the prefix, which never changes
	p.cache = newSliceCache(func(name string) bool { _, ok := prefix.number(name); return ok }, p.wake)
	return p
}

// Update makes inv the newest Inventory. It never blocks.
func (p *Publisher) Update(inv *inventory.Inventory) {
	p.mu.Lock()
	if p.newest != inv {
		p.newest = inv
		if p.changed.IsZero() {
			p.changed = time.Now()
		}
	}
	p.mu.Unlock()
	p.wake()
}

func (p *Publisher) wake() {
	select {
	case p.wakeUp <- struct{}{}:
	default: // it is signaled already
	}
}

// Run publishes until ctx ends. It may be called once. Before the first Update it changes nothing,
// and when it ends, the slices stay.
func (p *Publisher) Run(ctx context.Context) {
	p.log = klog.FromContext(ctx).WithValues("driver", p.config.Driver, "pool", p.config.Node)
	p.errors = retry.ErrorLog{Log: p.log, Interval: errorInterval}
	var watching sync.WaitGroup
	watching.Go(func() { p.runWatch(ctx) })
	defer watching.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Stop()
		if again := p.step(ctx); !again.IsZero() {
			timer.Reset(time.Until(again))
		}
		select {
		case <-ctx.Done():
		case <-p.wakeUp:
		case <-timer.C:
		}
	}
}

// step sends at most one request that changes something, and returns when to call it again at the
// latest; zero: when something has changed.
func (p *Publisher) step(ctx context.Context) time.Time {
	p.mu.Lock()
	inv := p.newest
	p.mu.Unlock()
	observed, synced := p.cache.all()
	if inv == nil || !synced {
		return time.Time{}
	}
	now := time.Now()
	if at := latest(p.notBefore, p.limiter.next()); p.waiting && at.After(now) {
		return at // whatever has changed
	}
	want := p.planner.plan(inv, observed, p.noTaints)
	next := p.choose(now, &want, observed)
	p.waiting = next != nil
	switch {
	case next == nil:
		p.finish(inv, &want, observed)
		return time.Time{}
	case next.isSurplus:
		p.finish(inv, &want, observed)
	default:
		p.pending(&want, observed)
	}
	at := latest(p.notBefore, next.at)
	if next.operation != readNode {
		at = latest(at, p.limiter.next())
	}
	if at.After(now) {
		return at
	}
	p.send(ctx, next, observed)
	p.waiting = false
	return time.Now()
}

// An action is a request to send.
type action struct {
	operation string
	name      string // of the slice
	content   content
	at        time.Time // not earlier
	spec      resourcev1.ResourceSliceSpec
	version   string // resource version of the slice that the request changes; empty before it is sent
	isSurplus bool   // the slice does not belong to the pool, whose own slices are complete
}

const (
	readNode    = "read" // the Node
	createSlice = "create"
	updateSlice = "update"
	deleteSlice = "delete"
)

// A content is what a slice contains. Two contents with equal fields make equal slices, which is
// faster to compare than slices.
type content struct {
	devices    []*inventory.Device
	generation int64
	count      int
	owner      types.UID
}

func (c *content) equal(other *content) bool {
	return other != nil && c.generation == other.generation && c.count == other.count && c.owner == other.owner &&
		equalPointers(c.devices, other.devices)
}

func equalPointers(a, b []*inventory.Device) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// choose returns the next request, or nil if the API server has what it should have.
func (p *Publisher) choose(now time.Time, want *pool, observed map[string]*resourcev1.ResourceSlice) *action {
	stale := p.node == "" || p.deletions != p.cache.deletions()
	var next *action
	for number := range want.slices {
		a := p.compare(now, want, number, observed)
		if a == nil {
			continue
		}
		if stale { // a recreated Node must own the slices
			return &action{operation: readNode}
		}
		if next == nil || a.at.Before(next.at) {
			next = a
		}
	}
	if len(want.surplus) == 0 {
		p.others.at = time.Time{}
	} else if p.others.at.IsZero() {
		p.others.start(now)
	}
	if next != nil {
		return next
	}
	for _, name := range want.surplus {
		a := &action{operation: deleteSlice, name: name, isSurplus: true}
		a.at = latest(p.slot(name).notBefore, p.others.at)
		if next == nil || a.at.Before(next.at) {
			next = a
		}
	}
	return next
}

// compare returns the request that makes a slice what it should be, or nil if it is that already.
func (p *Publisher) compare(
	now time.Time, want *pool, number int, observed map[string]*resourcev1.ResourceSlice,
) *action {
	name := p.planner.name(number)
	slot, slice := p.slot(name), observed[name]
	c := content{devices: want.slices[number], generation: want.generation, count: len(want.slices), owner: p.node}
	isStored := c.equal(slot.stored)
	if isStored && slice != nil && slice.ResourceVersion == slot.version {
		slot.undo.at = time.Time{}
		return nil
	}
	if !c.equal(slot.refused) {
		slot.refused, slot.err, slot.notBefore = nil, nil, time.Time{}
		slot.pause.Reset()
	}
	if !isStored {
		slot.undo.at = time.Time{}
	}
	a := &action{operation: updateSlice, name: name, content: c}
	if a.at = latest(slot.notBefore, slot.undo.at, slot.written.Add(slicePause)); a.at.After(now) {
		return a // compare the slices then
	}
	a.spec = p.planner.spec(want, number, &p.converter)
	switch {
	case slice == nil:
		a.operation = createSlice
	case slice.Spec.Pool.Name != a.spec.Pool.Name: // cannot be changed
		a.operation = deleteSlice
	case sameSpec(&a.spec, &slice.Spec) && (p.node == "" || isOwned(slice, p.node)):
		slot.stored, slot.version, slot.undo.at = &c, slice.ResourceVersion, time.Time{}
		return nil
	}
	if isStored && slot.undo.at.IsZero() {
		slot.undo.start(now)
		a.at = slot.undo.at
	}
	return a
}

// start is called when another client has changed what was stored. The first change is undone at
// once. If it is repeated, for example by another driver of the same name, each further one is
// undone after a longer pause.
func (u *undo) start(now time.Time) {
	u.at = now
	if now.Sub(u.found) < undoReset {
		u.at = now.Add(u.pause.Next())
	} else {
		u.pause = retry.BackOff{First: firstUndo, Limit: maxUndo}
	}
	u.found = now
}

func (p *Publisher) slot(name string) *slot {
	s := p.slots[name]
	if s == nil {
		s = &slot{
			pause:  retry.BackOff{First: firstPause, Limit: maxPause, FullJitter: true},
			errors: retry.ErrorLog{Log: p.log, Interval: errorInterval},
		}
		p.slots[name] = s
	}
	return s
}

// send sends the request and takes over the answer.
func (p *Publisher) send(ctx context.Context, a *action, observed map[string]*resourcev1.ResourceSlice) {
	if a.operation == readNode {
		deletions := p.cache.deletions()
		node, err := p.config.Client.GetNode(ctx, p.config.Node)
		if err != nil {
			p.failed(ctx, a, fmt.Errorf("get Node %s: %w", p.config.Node, err))
			return
		}
		p.node, p.deletions = node.UID, deletions
		p.succeeded()
		return
	}

	start := time.Now()
	slot, existing := p.slot(a.name), observed[a.name]
	if existing != nil {
		a.version = existing.ResourceVersion
	}
	slot.written = start
	p.limiter.record(start)
	var stored *resourcev1.ResourceSlice
	var err error
	switch a.operation {
	case deleteSlice:
		precondition := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &existing.UID}}
		if err = p.config.Client.DeleteSlice(ctx, a.name, precondition); apierrors.IsNotFound(err) {
			err = nil
		}
	case createSlice:
		slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: a.name}, Spec: a.spec}
		keepTimes(&slice.Spec, observed)
		own(slice, p.config.Node, p.node)
		stored, err = p.config.Client.CreateSlice(ctx, slice)
	case updateSlice:
		slice := existing.DeepCopy()
		slice.Spec = a.spec
		keepTimes(&slice.Spec, observed)
		own(slice, p.config.Node, p.node)
		stored, err = p.config.Client.UpdateSlice(ctx, slice)
	}
	if ctx.Err() != nil {
		return
	}
	took := time.Since(start)
	if p.config.Observer != nil {
		p.config.Observer.SliceWritten(a.name, a.operation, took, err)
	}
	if err != nil {
		p.failed(ctx, a, fmt.Errorf("%s ResourceSlice %s: %w", a.operation, a.name, err))
		return
	}
	p.log.V(2).Info("Wrote ResourceSlice", "slice", a.name, "operation", a.operation, "devices", len(a.content.devices),
		"generation", a.content.generation, "took", took)
	p.succeeded()
	slot.refused, slot.err = nil, nil
	slot.errors.Clear()
	p.progress()
	if stored == nil {
		p.cache.forget(existing)
		delete(p.slots, a.name)
		return
	}
	slot.stored, slot.version, slot.undo.at = &a.content, stored.ResourceVersion, time.Time{}
	p.cache.stored(stored)
	if !p.noTaints && countTainted(&stored.Spec) < countTainted(&a.spec) {
		p.noTaints = true
		p.log.Error(nil, "The API server drops taints of devices: unhealthy devices are not offered at all. "+
			"Enable the feature gate DRADeviceTaints, and then restart the driver")
	}
}

func (p *Publisher) succeeded() {
	p.pause.Reset()
	p.notBefore, p.err = time.Time{}, nil
	if p.errors.Clear() {
		p.log.Info("The API server accepts requests again")
	}
}

// failed decides when to try again after a request that failed.
func (p *Publisher) failed(ctx context.Context, a *action, err error) {
	now, slot := time.Now(), p.slot(a.name)
	switch {
	case a.operation != readNode && (apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err)),
		a.operation == updateSlice && apierrors.IsNotFound(err):
		// The watch has not reported yet what another client, or an own request without an answer,
		// has done.
		p.log.V(2).Info("ResourceSlice has changed, listing", "slice", a.name, "err", err)
		list, listErr := p.config.Client.ListSlices(ctx, metav1.ListOptions{FieldSelector: p.selector()})
		if listErr != nil {
			p.failed(ctx, &action{operation: readNode}, fmt.Errorf("list ResourceSlices: %w", listErr))
			return
		}
		p.cache.replace(list)
		p.succeeded()
		observed, _ := p.cache.all()
		switch found := observed[a.name]; {
		case found == nil && apierrors.IsAlreadyExists(err):
			err = fmt.Errorf("%w, and it belongs to another node or driver: delete it", err)
		case found == nil || found.ResourceVersion != a.version:
			return
		default:
			err = fmt.Errorf("%w, and the list has no newer one", err)
		}
	case a.operation != readNode && isRefusal(err):
		p.succeeded()
	default:
		delay, _ := apierrors.SuggestsClientDelay(err)
		p.notBefore = now.Add(time.Duration(delay)*time.Second + p.pause.Next())
		p.err = err
		p.errors.Report(err, "A request to the API server failed, retrying")
		return
	}
	slot.refused, slot.err = &a.content, err
	slot.notBefore = now.Add(slot.pause.Next())
	slot.errors.Report(err, "The API server refuses a ResourceSlice, retrying")
}

// isRefusal reports whether the API server would answer the same to the same request.
func isRefusal(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err) ||
		apierrors.IsRequestEntityTooLargeError(err)
}

// pending notes that the API server does not have all slices of the Inventory.
func (p *Publisher) pending(want *pool, observed map[string]*resourcev1.ResourceSlice) {
	errs := []error{p.err}
	for number := range want.slices {
		errs = append(errs, p.slot(p.planner.name(number)).err)
	}
	err := errors.Join(errs...)
	if err == nil {
		err = errors.New("ResourceSlices are not written yet")
	}
	status := p.describe(want, observed, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = status
	if p.changed.IsZero() {
		p.changed = time.Now()
	}
}

// progress notes that a slice was written, so that Check does not fail in a storm in which the
// slices are never complete. It does not count while the API server refuses another slice.
func (p *Publisher) progress() {
	for _, slot := range p.slots {
		if slot.err != nil {
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.changed.IsZero() {
		p.changed = time.Now()
	}
}

// finish notes that the API server has all slices of the Inventory. Surplus ones may remain, which
// the scheduler ignores.
func (p *Publisher) finish(inv *inventory.Inventory, want *pool, observed map[string]*resourcev1.ResourceSlice) {
	status := p.describe(want, observed, nil)
	p.mu.Lock()
	p.status = status
	p.complete = true
	if p.newest == inv {
		p.changed = time.Time{}
	}
	p.mu.Unlock()
	if p.published == inv {
		return
	}
	if p.published == nil {
		p.log.V(1).Info("Published all devices", "devices", len(inv.Devices), "slices", len(want.slices),
			"generation", want.generation)
	}
	p.published = inv
	if p.config.Observer != nil {
		p.config.Observer.Published(inv)
	}
}

func latest(times ...time.Time) (last time.Time) {
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

func countTainted(spec *resourcev1.ResourceSliceSpec) (n int) {
	for i := range spec.Devices {
		if len(spec.Devices[i].Taints) > 0 {
			n++
		}
	}
	return n
}
