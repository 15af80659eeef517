// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// result is what a step led to.
type result struct {
	knew  time.Duration // until the list reached the kubelet; negative if that was before the host was done
	took  time.Duration // until the last visible change of the host
	bound int           // VFs that the plugin bound
	list  map[string]int
}

// runSteps runs the steps one after another, until one fails.
func runSteps(ctx context.Context, f *fixture, t *timeline, steps []step) error {
	for i, s := range steps {
		if i > 0 && f.o.pace > 0 {
			select {
			case <-time.After(f.o.pace):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		t.begin(s)
		r, err := runStep(ctx, f, s)
		if err != nil {
			t.failed(err)
			return fmt.Errorf("step %q failed: %w", s.what, err)
		}
		t.end(s, r)
	}
	return nil
}

func runStep(ctx context.Context, f *fixture, s step) (*result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.o.timeout, fmt.Errorf("no result within %s", f.o.timeout))
	defer cancel()
	start, n, boundBefore := time.Now(), len(f.recorder.get().ops), f.bound()
	if err := s.do(ctx, f); err != nil {
		if errors.Is(err, ctx.Err()) {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	var arrived time.Time
	if s.want != nil {
		ctx, stop := f.untilPluginEnds(ctx)
		defer stop()
		err := f.kubelet.Wait(ctx, func(lists map[string]kubelettest.List) bool {
			var ok bool
			arrived, ok = match(lists, s.want)
			return ok
		})
		if err != nil {
			return nil, fmt.Errorf("%w; the kubelet has %s, want %s",
				context.Cause(ctx), listText(healthy(f.kubelet.Lists())), listText(s.want))
		}
	}
	bound := f.bound() // returns when the host is done, which may be after the kubelet knows
	visible := start
	if last := lastVisible(f.recorder.get().ops[n:], time.Now()); last.After(start) {
		visible = last
	}
	r := &result{took: visible.Sub(start), bound: bound - boundBefore, list: healthy(f.kubelet.Lists())}
	if s.since != nil {
		visible = s.since(f)
	}
	r.knew = arrived.Sub(visible)
	return r, nil
}

// lastVisible returns the time of the last visible change by these operations before a time, or
// zero if there is none.
func lastVisible(ops []lookalike.Operation, before time.Time) (last time.Time) {
	for _, o := range ops {
		if o.Err == nil && o.Visible.After(last) && o.Visible.Before(before) {
			last = o.Visible
		}
	}
	return last
}

// untilPluginEnds returns a context that also ends when the plugin does.
func (f *fixture) untilPluginEnds(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-f.plugin.ended:
			cancel(fmt.Errorf("the plugin has ended: %v", f.plugin.cmd.ProcessState))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// match reports whether the kubelet has exactly the lists wanted, empty ones included, and
// returns when the last of its lists arrived.
func match(lists map[string]kubelettest.List, want map[string]int) (last time.Time, ok bool) {
	have := healthy(lists)
	for name, n := range want {
		if m, listed := have[name]; !listed || m != n {
			return last, false
		}
	}
	for name, l := range lists {
		if _, wanted := want[short(name)]; !wanted || !l.Live {
			return last, false
		}
		if l.Time.After(last) {
			last = l.Time
		}
	}
	return last, true
}

// healthy returns the number of healthy devices of each resource.
func healthy(lists map[string]kubelettest.List) map[string]int {
	n := map[string]int{}
	for name, l := range lists {
		n[short(name)] = 0
		for _, d := range l.Devices {
			if d.Health == "Healthy" {
				n[short(name)]++
			}
		}
	}
	return n
}

func short(resource string) string { return strings.TrimPrefix(resource, namespace) }
