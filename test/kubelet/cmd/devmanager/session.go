// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"qatplugin/devtree"
	"qatplugin/test/kubelet/devicemanager"
)

const waitTimeout = 30 * time.Second

// session is a device manager and the state of the commands.
type session struct {
	manager *devicemanager.Manager
	out     *lineWriter // for events and replies

	mu       sync.Mutex // guards all following fields
	pods     map[string]*v1.Pod
	lists    map[string][]devicemanager.Device // newest list of each resource
	received map[string]time.Time              // when the newest update of each resource was received
	changed  chan struct{}                     // closed by the next change
}

func newSession(out *lineWriter) *session {
	s := &session{
		out:      out,
		pods:     map[string]*v1.Pod{},
		lists:    map[string][]devicemanager.Device{},
		received: map[string]time.Time{},
		changed:  make(chan struct{}),
	}
	s.manager = devicemanager.New(s.update)
	return s
}

// update writes the event of an update and wakes waiting commands.
func (s *session) update(u devicemanager.Update) {
	s.mu.Lock()
	e := newEvent(u, s.lists[u.Resource])
	if u.Kind == devicemanager.Listed {
		s.lists[u.Resource] = u.Devices
	}
	s.received[u.Resource] = u.Received
	s.mu.Unlock()
	s.out.write(e)
	s.wake()
}

// wake wakes waiting commands.
func (s *session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// runCommands runs commands until the input ends or the command is quit.
func (s *session) runCommands(ctx context.Context, in io.Reader) {
	for scanner := bufio.NewScanner(in); scanner.Scan(); {
		words := strings.Fields(scanner.Text())
		if len(words) == 0 {
			continue
		}
		r := s.runCommand(ctx, words[0], words[1:])
		s.out.write(r)
		if r.Reply == "quit" && r.Error == "" {
			return
		}
	}
}

func (s *session) runCommand(ctx context.Context, name string, args []string) *reply {
	commands := map[string]struct {
		minArgs, maxArgs int
		run              func(context.Context, *reply, []string) error
	}{
		"capacity": {0, 0, s.capacity},
		"devices":  {1, 1, s.devices},
		"wait":     {3, 4, s.wait},
		"allocate": {3, 3, s.allocate},
		"remove":   {1, 1, s.remove},
		"restart":  {0, 0, s.startOrStop(s.manager.Restart)},
		"stop":     {0, 0, s.startOrStop(s.manager.Stop)},
		"start":    {0, 0, s.startOrStop(s.manager.Start)},
		"quit":     {0, 0, func(context.Context, *reply, []string) error { return nil }}, // see runCommands
	}
	r := &reply{Reply: name}
	command, ok := commands[name]
	err := error(nil)
	switch {
	case !ok:
		err = fmt.Errorf("unknown command %q", name)
	case len(args) < command.minArgs || len(args) > command.maxArgs:
		err = fmt.Errorf("%s: wrong number of arguments: %d", name, len(args))
	default:
		err = command.run(ctx, r, args)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func (s *session) startOrStop(f func() error) func(context.Context, *reply, []string) error {
	return func(context.Context, *reply, []string) error {
		defer s.wake()
		return f()
	}
}

func (s *session) capacity(_ context.Context, r *reply, _ []string) error {
	r.Resources, r.Removed = s.manager.Capacity()
	return nil
}

func (s *session) devices(_ context.Context, r *reply, args []string) error {
	devices, ok := s.manager.Devices(args[0])
	if !ok {
		return fmt.Errorf("no list of %q was received", args[0])
	}
	for _, d := range devices {
		r.Devices = append(r.Devices, device{ID: d.ID, Health: d.Health, NUMA: d.NUMANodes})
	}
	return nil
}

func (s *session) wait(ctx context.Context, r *reply, args []string) error {
	resource := args[0]
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
		changed, received := s.changed, s.received[resource]
		s.mu.Unlock()
		got, ok := s.manager.Count(resource)
		if ok && got == want {
			r.Resources = map[string]devicemanager.Count{resource: got}
			if !first {
				r.ReceivedUS = microseconds(received)
			}
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if !ok {
				return fmt.Errorf("no plugin has registered %q: %w", resource, ctx.Err())
			}
			return fmt.Errorf("%q has %+v, not %+v: %w", resource, got, want, ctx.Err())
		}
	}
}

func (s *session) allocate(ctx context.Context, r *reply, args []string) error {
	name, resource := args[0], args[1]
	n, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return fmt.Errorf("number of devices: %w", err)
	}
	const container = "container"
	pod := devicemanager.Pod(name, devicemanager.Container(container, resource, n))
	s.mu.Lock()
	if s.pods[name] != nil {
		s.mu.Unlock()
		return fmt.Errorf("pod %q exists already", name)
	}
	s.pods[name] = pod
	s.mu.Unlock()
	edits, err := s.admit(ctx, pod, container)
	if err == nil && edits == nil {
		err = fmt.Errorf("no plugin has registered %q", resource)
	}
	if err != nil {
		return errors.Join(err, s.remove(ctx, r, args))
	}
	r.IDs = s.manager.Assigned(pod, container, resource)
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
