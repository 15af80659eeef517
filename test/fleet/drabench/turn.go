// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/measure"
	"qatplugin/test/fleet/helper"
)

const (
	vfsPerPF    = 16
	changes     = 100                    // in each round
	pause       = 150 * time.Millisecond // between two changes, and up to twice that
	stormPeriod = 5 * time.Millisecond
	stormTime   = 3 * time.Second
	quiet       = 2 * time.Second // after a storm
)

// samples are what the rounds measured of a driver.
type samples struct {
	start, visible, late []time.Duration
	memory               []int // KiB
	changes, writes      int
	stormWrites          int
	stormed              time.Duration
}

// result is what was measured with one number of VFs.
type result struct {
	vfs     int
	samples []samples // of each driver
}

// turn measures a driver on a host of its own.
func turn(ctx context.Context, a *api, d *driver, vfs int, s *samples) (err error) {
	host, closeHost, err := newHost(vfs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeHost()) }()
	root := filepath.Join(host.Dir(), "kubelet")
	for _, dir := range []string{"plugins", "plugins_registry", "device-plugins"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	p, err := a.watchPool(ctx)
	if err != nil {
		return err
	}
	defer p.watch.Stop()
	args := append([]string{"-kubeconfig=" + a.kubeconfig, "-node-name=" + nodeName}, d.args...)
	running, err := measure.Start(d.program, args, []measure.Mount{
		{Target: "/var/lib"}, {Source: root, Target: "/var/lib/kubelet"},
		{Target: "/var/run/cdi"}, {Target: "/etc/cdi"},
		{Source: host.Sysfs(), Target: "/sys"},
		{Source: host.Dev(), Target: "/dev"}, // last, because the host's directory may be below /dev
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w; the driver's log ends with:\n%s", err, running.LastLines(5))
		}
		err = errors.Join(err, running.Stop())
	}()
	at, err := p.await(fmt.Sprintf("pool of %d devices", vfs), complete(vfs))
	if err != nil {
		return err
	}
	s.start = append(s.start, at.Sub(running.Started))
	p.settle(quiet)
	if !d.static {
		if err := measureChanges(host, p, s); err != nil {
			return err
		}
		if err := measureStorm(host, p, s); err != nil {
			return err
		}
	}
	kib, err := measure.Resident(running.PID)
	s.memory = append(s.memory, kib)
	return err
}

// newHost returns a look-alike host with bound VFs.
func newHost(vfs int) (*lookalike.Host, func() error, error) {
	dir, err := lookalike.MkdirTemp()
	if err != nil {
		return nil, nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	host, err := fillHost(dir, vfs)
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, served := host.Ready(), make(chan error, 1)
	go func() { served <- host.Serve(ctx) }()
	closeHost := func() error {
		cancel()
		return errors.Join(<-served, remove())
	}
	select {
	case <-ready:
		return host, closeHost, nil
	case <-time.After(timeout):
		return nil, nil, errors.Join(errors.New("the look-alike host is not ready"), closeHost())
	}
}

func fillHost(dir string, vfs int) (*lookalike.Host, error) {
	host, err := lookalike.New(dir)
	if err != nil {
		return nil, err
	}
	if err := host.LoadDriver("vfio-pci"); err != nil {
		return nil, err
	}
	for i := range vfs / vfsPerPF {
		pf := pfAddress(i)
		if err := host.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}); err != nil {
			return nil, err
		}
		if err := host.SetVFs(pf, vfsPerPF); err != nil {
			return nil, err
		}
		for _, vf := range host.VFs(pf) {
			if err := host.Bind(vf, "vfio-pci"); err != nil {
				return nil, err
			}
		}
	}
	return host, nil
}

func pfAddress(i int) string { return fmt.Sprintf("0000:%02x:00.0", i+1) }

// A toggle unbinds a VF and binds it again, by its driver link alone.
type toggle struct {
	device string // its name in a slice
	link   string
	away   bool
}

func newToggle(host *lookalike.Host) *toggle {
	vf := host.VFs(pfAddress(0))[3]
	return &toggle{device: helper.DeviceName(vf), link: filepath.Join(host.Path(vf), "driver")}
}

func (t *toggle) flip() error {
	from, to := t.link, t.link+".away"
	if t.away {
		from, to = to, from
	}
	t.away = !t.away
	return os.Rename(from, to)
}

// measureChanges changes a VF again and again, and waits for each change.
func measureChanges(host *lookalike.Host, p *pool, s *samples) error {
	t, writes := newToggle(host), p.writes
	for range changes {
		time.Sleep(pause + rand.N(pause))
		began := time.Now()
		if err := t.flip(); err != nil {
			return err
		}
		at, err := p.await(fmt.Sprintf("taint of %s: %t", t.device, t.away), tainted(t.device, t.away))
		if err != nil {
			return err
		}
		s.visible = append(s.visible, at.Sub(began))
	}
	p.settle(quiet)
	s.changes += changes
	s.writes += p.writes - writes
	return nil
}

// measureStorm changes a VF faster than slices can be written.
func measureStorm(host *lookalike.Host, p *pool, s *samples) error {
	t, writes := newToggle(host), p.writes
	began := time.Now()
	for time.Since(began) < stormTime || t.away {
		if err := t.flip(); err != nil {
			return err
		}
		time.Sleep(stormPeriod)
	}
	end := time.Now()
	s.stormed += end.Sub(began)
	last := p.settle(quiet)
	s.stormWrites += p.writes - writes
	s.late = append(s.late, max(0, last.Sub(end)))
	if !tainted(t.device, false)(p) {
		return fmt.Errorf("%s is tainted after the storm", t.device)
	}
	return nil
}

func median(values []time.Duration) time.Duration { return percentile(values, 0.5) }

// percentile returns the value below which this part of the values is.
func percentile(values []time.Duration, part float64) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*part))]
}
