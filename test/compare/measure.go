// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"qatplugin/internal/measure"
)

const (
	scanPeriod  = 5 * time.Second // of the published plugin
	changesEach = 2               // VFs are added and removed so often in each round
	allocations = 200             // in each round
	stormCycles = 20              // VFs are added and removed so often in a storm
)

// stormChanges is how many VFs a storm adds and removes.
const stormChanges = stormCycles * 2 * vfsPerPF

// samples are what the rounds measured. The keys are the rows of the table.
type samples map[string][]float64

func (s samples) add(row string, value float64) { s[row] = append(s[row], value) }

// median returns the middle of the samples of a row.
func (s samples) median(row string) (float64, bool) {
	values := slices.Sorted(slices.Values(s[row]))
	if len(values) == 0 {
		return 0, false
	}
	return (values[len(values)/2] + values[(len(values)-1)/2]) / 2, true
}

// sizeResult is what was measured with one number of VFs.
type sizeResult struct {
	vfs     int
	plugins []string
	samples []samples // of each plugin
	ends    []int     // how often each plugin ended by itself
}

// measureSize lets the plugins take their turns on one host.
func measureSize(n int, plugins []plugin, s *settings) (sizeResult, error) {
	r := sizeResult{vfs: n, ends: make([]int, len(plugins))}
	h, err := newHost(n)
	if err != nil {
		return r, err
	}
	for i := range plugins {
		r.plugins, r.samples = append(r.plugins, plugins[i].name), append(r.samples, samples{})
	}
	for round := range s.rounds {
		for i := range plugins {
			fmt.Fprintf(os.Stderr, "compare: %d VFs, round %d of %d: %s\n", n, round+1, s.rounds, plugins[i].name)
			ended, err := turn(h, &plugins[i], s, r.samples[i])
			if err != nil {
				return r, errors.Join(fmt.Errorf("%s: %w", plugins[i].name, err), h.close())
			}
			if ended {
				r.ends[i]++
			}
		}
	}
	return r, h.close()
}

// turn is one turn of a plugin. It reports whether the plugin ended by itself.
func turn(h *host, p *plugin, s *settings, results samples) (ended bool, err error) {
	if err := h.kubelet.Restart(); err != nil {
		return false, err
	}
	steps, args := comparison(s.idle), p.args
	if s.observed {
		o, err := newObserver()
		if err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, o.stop()) }()
		steps = observation(s.idle, o, p.observed)
		if p.serves {
			args = append(args, "-http-address="+o.address)
		}
	}
	running, err := p.start(h, args)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, running.Stop(), h.SetVFs(sparePF, 0)) }()
	for _, step := range steps {
		if err := step(h, running, results); err != nil {
			if !running.Alive() {
				fmt.Fprintln(os.Stderr, "compare:", err)
				return true, nil
			}
			return false, err
		}
	}
	return false, nil
}

// A step measures one or more rows.
type step = func(*host, *measure.Process, samples) error

// comparison returns the steps that compare two plugins.
func comparison(idle time.Duration) []step {
	return []step{
		measureStart, measureIdle(idle), measureAllocate, measureChanges, measureStorm, measureMemory, measureRestart,
	}
}

// observation returns the steps that measure what an observer costs. Without observed, nobody
// looks.
func observation(idle time.Duration, o *observer, observed bool) []step {
	steps := []step{measureStart, measureIdle(idle), measureMemory, measureEvents}
	if observed {
		start := func(*host, *measure.Process, samples) error { o.start(); return nil }
		end := func(*host, *measure.Process, samples) error { return o.stop() }
		steps = append(slices.Insert(steps, 1, start), end)
	}
	return steps
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func measureStart(h *host, p *measure.Process, s samples) error {
	l, err := h.awaitList(p, len(h.vfs))
	if err == nil {
		s.add(rowStart, milliseconds(l.Time.Sub(p.Started)))
	}
	return err
}

// measureIdle returns a step that measures a plugin for this time while the host does not change.
func measureIdle(idle time.Duration) step {
	return func(_ *host, p *measure.Process, s samples) error {
		time.Sleep(time.Second) // what the start left behind
		before, err := measure.UsageOf(p.PID)
		if err != nil {
			return err
		}
		time.Sleep(idle)
		after, err := measure.UsageOf(p.PID)
		if err == nil {
			s.add(rowIdleCPU, milliseconds(after.CPU-before.CPU)/idle.Seconds())
			s.add(rowWakeups, float64(after.Wakeups-before.Wakeups)/idle.Seconds())
		}
		return err
	}
}

func measureAllocate(h *host, _ *measure.Process, s samples) error {
	var took []time.Duration
	for i := range allocations {
		first := i * 4 % len(h.vfs)
		start := time.Now()
		if _, err := h.kubelet.Allocate(context.Background(), resource, h.vfs[first:first+4]); err != nil {
			return err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	s.add(rowAllocate, milliseconds(took[len(took)/2]))
	return nil
}

// measureChanges adds VFs, which the plugin binds, and removes them, each at a random time of the
// published plugin's scan period.
func measureChanges(h *host, p *measure.Process, s samples) error {
	for range changesEach {
		for _, change := range []struct {
			row string
			vfs int
		}{{rowAdd, vfsPerPF}, {rowRemove, 0}} {
			time.Sleep(rand.N(scanPeriod))
			start := time.Now()
			if err := h.SetVFs(sparePF, change.vfs); err != nil {
				return err
			}
			l, err := h.awaitList(p, len(h.vfs)+change.vfs)
			if err != nil {
				return err
			}
			s.add(change.row, milliseconds(l.Time.Sub(start)))
		}
	}
	return nil
}

// measureStorm adds and removes VFs again and again. It counts the lists.
func measureStorm(h *host, p *measure.Process, s samples) error {
	before, err := measure.UsageOf(p.PID)
	if err != nil {
		return err
	}
	lists := h.kubelet.Lists()[resource].Seq
	for range stormCycles {
		if err := h.SetVFs(sparePF, vfsPerPF); err != nil {
			return err
		}
		h.awaitBound(len(h.vfs)+vfsPerPF, 25*time.Millisecond)
		if err := h.SetVFs(sparePF, 0); err != nil {
			return err
		}
	}
	end := time.Now()
	time.Sleep(scanPeriod + time.Second) // the published plugin scans once more
	l, err := h.awaitList(p, len(h.vfs))
	if err != nil {
		return err
	}
	after, err := measure.UsageOf(p.PID)
	if err != nil {
		return err
	}
	s.add(rowStormLists, float64(l.Seq-lists))
	s.add(rowStormLate, max(0, milliseconds(l.Time.Sub(end))))
	s.add(rowStormCPU, milliseconds(after.CPU-before.CPU))
	return nil
}

func measureMemory(_ *host, p *measure.Process, s samples) error {
	kib, err := measure.Resident(p.PID)
	if err == nil {
		s.add(rowMemory, float64(kib)/1024)
	}
	return err
}

// measureRestart comes last: the published plugin ends at the first change after it.
func measureRestart(h *host, p *measure.Process, s samples) error {
	if err := h.kubelet.Restart(); err != nil {
		return err
	}
	start := time.Now()
	l, err := h.awaitList(p, len(h.vfs))
	if err == nil {
		s.add(rowRestart, milliseconds(l.Time.Sub(start)))
	}
	return err
}
