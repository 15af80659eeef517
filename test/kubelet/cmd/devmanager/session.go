package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"qatplugin/devtree"
	"qatplugin/test/kubelet/devicemanager"
)

const waitTimeout = 30 * time.Second

// session is the device manager and what its commands need.
type session struct {
	manager *devicemanager.Manager
	out     *lines // of the events, and of the replies to the program's input
	quit    func()

	mu      sync.Mutex
	pods    map[string]*v1.Pod
	lists   map[string][]devicemanager.Device // the last list of each resource that an event told
	changed chan struct{}                     // closed and made anew with each event
	last    map[string]devicemanager.Update   // the newest update of each resource
}

func newSession(out *lines, quit func()) *session {
	s := &session{out: out, quit: quit, pods: map[string]*v1.Pod{}, lists: map[string][]devicemanager.Device{}, changed: make(chan struct{}), last: map[string]devicemanager.Update{}}
	s.manager = devicemanager.New(devicemanager.Config{OnUpdate: s.update})
	return s
}

// update writes an event and wakes those who wait.
func (s *session) update(u devicemanager.Update) {
	s.mu.Lock()
	e := newEvent(u, s.lists[u.Resource])
	if u.Kind == devicemanager.Listed {
		s.lists[u.Resource] = u.Devices
	}
	s.last[u.Resource] = u
	s.mu.Unlock()
	s.out.write(e)
	s.wake()
}

// wake lets those who wait look again.
func (s *session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// command does what the line says. An empty line is no command and has no reply.
func (s *session) command(ctx context.Context, line string) *reply {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil
	}
	name, args := words[0], words[1:]
	r := &reply{Reply: name}
	known := map[string]struct {
		least, most int // number of arguments
		do          func(context.Context, *reply, []string) error
	}{
		"capacity": {0, 0, s.capacity},
		"devices":  {1, 1, s.devices},
		"wait":     {3, 4, s.wait},
		"allocate": {3, 3, s.allocate},
		"remove":   {1, 1, s.remove},
		"restart":  {0, 0, s.life(s.manager.Restart)},
		"stop":     {0, 0, s.life(s.manager.Stop)},
		"start":    {0, 0, s.life(s.manager.Start)},
		"quit":     {0, 0, func(context.Context, *reply, []string) error { s.quit(); return nil }},
	}
	c, ok := known[name]
	err := error(nil)
	switch {
	case !ok:
		err = fmt.Errorf("unknown command %q", name)
	case len(args) < c.least || len(args) > c.most:
		err = fmt.Errorf("%s: wrong number of arguments: %d", name, len(args))
	default:
		err = c.do(ctx, r, args)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func (s *session) life(do func() error) func(context.Context, *reply, []string) error {
	return func(context.Context, *reply, []string) error {
		defer s.wake()
		return do()
	}
}

func (s *session) capacity(_ context.Context, r *reply, _ []string) error {
	r.Resources, r.Removed = s.manager.Capacity()
	return nil
}

func (s *session) devices(_ context.Context, r *reply, args []string) error {
	devices, ok := s.manager.Devices(args[0])
	if !ok {
		return fmt.Errorf("no list of %q has come", args[0])
	}
	r.Devices = []device{}
	for _, d := range devices {
		r.Devices = append(r.Devices, device{ID: d.ID, Health: d.Health, NUMA: d.NUMANodes})
	}
	return nil
}

func (s *session) wait(ctx context.Context, r *reply, args []string) error {
	var want devicemanager.Count
	var err error
	if want.Capacity, err = strconv.ParseInt(args[1], 10, 64); err != nil {
		return fmt.Errorf("capacity: %w", err)
	}
	if want.Allocatable, err = strconv.ParseInt(args[2], 10, 64); err != nil {
		return fmt.Errorf("allocatable: %w", err)
	}
	timeout := waitTimeout
	if len(args) > 3 {
		if timeout, err = time.ParseDuration(args[3]); err != nil {
			return fmt.Errorf("timeout: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for first := true; ; first = false {
		s.mu.Lock()
		changed, last := s.changed, s.last[args[0]]
		s.mu.Unlock()
		got, ok := s.manager.Count(args[0])
		if ok && got == want {
			r.Resources = map[string]devicemanager.Count{args[0]: got}
			if !first {
				r.ReceivedUS = microseconds(last.Received)
			}
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if !ok {
				return fmt.Errorf("no plugin has registered %q: %w", args[0], ctx.Err())
			}
			return fmt.Errorf("%q counts %+v, not %+v: %w", args[0], got, want, ctx.Err())
		}
	}
}

func (s *session) allocate(ctx context.Context, r *reply, args []string) error {
	n, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return fmt.Errorf("number of devices: %w", err)
	}
	const container = "container"
	pod := devicemanager.Pod(args[0], devicemanager.Container(container, args[1], n))
	s.mu.Lock()
	if s.pods[args[0]] != nil {
		s.mu.Unlock()
		return fmt.Errorf("there is a pod %q", args[0])
	}
	s.pods[args[0]] = pod
	s.mu.Unlock()
	edits, err := s.admit(ctx, pod, container)
	if err == nil && edits == nil {
		err = fmt.Errorf("no plugin has registered %q", args[1])
	}
	if err != nil {
		return errors.Join(err, s.remove(ctx, r, args))
	}
	r.IDs = s.manager.Assigned(pod, container, args[1])
	r.Env, r.Annotations, r.CDI = edits.Env, edits.Annotations, edits.CDINames
	for _, n := range edits.DeviceNodes {
		r.Nodes = append(r.Nodes, node{Host: n.HostPath, Container: n.ContainerPath, Permissions: n.Permissions})
	}
	for _, m := range edits.Mounts {
		r.Mounts = append(r.Mounts, mount{Host: m.HostPath, Container: m.ContainerPath, ReadOnly: m.ReadOnly})
	}
	return nil
}

func (s *session) admit(ctx context.Context, pod *v1.Pod, container string) (*devtree.ContainerEdits, error) {
	if err := s.manager.Admit(pod); err != nil {
		return nil, err
	}
	return s.manager.StartContainer(ctx, pod, container)
}

func (s *session) remove(_ context.Context, _ *reply, args []string) error {
	s.mu.Lock()
	pod := s.pods[args[0]]
	delete(s.pods, args[0])
	s.mu.Unlock()
	if pod == nil {
		return fmt.Errorf("there is no pod %q", args[0])
	}
	s.manager.Remove(pod)
	return nil
}

// newEvent tells the update, a list by what differs from the one before.
func newEvent(u devicemanager.Update, before []devicemanager.Device) *event {
	e := &event{Event: u.Kind, Resource: u.Resource, Start: u.Start, ReceivedUS: microseconds(u.Received), AppliedUS: microseconds(u.Applied), UnixUS: u.Received.UnixMicro()}
	if u.Kind != devicemanager.Listed {
		return e
	}
	e.Capacity, e.Healthy = new(int), new(int)
	*e.Capacity = len(u.Devices)
	for _, d := range u.Devices {
		if d.Healthy() {
			*e.Healthy++
		}
	}
	e.Added, e.Removed, e.Changed = diff(before, u.Devices)
	return e
}

// diff compares two lists, both ascending by ID.
func diff(before, after []devicemanager.Device) (added, removed, changed []string) {
	for len(before) > 0 || len(after) > 0 {
		order := 0
		switch {
		case len(before) == 0:
			order = 1
		case len(after) == 0:
			order = -1
		default:
			order = cmp.Compare(before[0].ID, after[0].ID)
		}
		switch {
		case order < 0:
			removed, before = append(removed, before[0].ID), before[1:]
		case order > 0:
			added, after = append(added, after[0].ID), after[1:]
		default:
			if before[0].Health != after[0].Health {
				changed = append(changed, after[0].ID)
			}
			before, after = before[1:], after[1:]
		}
	}
	return added, removed, changed
}
