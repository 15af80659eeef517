// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/provision/config"
)

// tester is the part of testing.TB and of rapid.T that a rig uses.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
}

// A rig runs the event loop with the mode on a model. It must be used in a testing/synctest bubble,
// whose clock is the plugin's.
type rig struct {
	*model
	t      tester
	dir    string // of the configuration
	force  bool
	noBind bool

	cancel context.CancelFunc // ends the plugin; nil: it does not run
	done   chan struct{}      // closed when it has ended

	queue *queue

	stateMu sync.Mutex        // guards all following fields
	skipped map[string]string // as Reconcile returned it last
	turns   int               // calls of Reconcile
}

// newRig returns a rig with a configuration directory that must exist. The plugin does not run.
func newRig(t tester, dir string) *rig {
	r := &rig{model: newModel(), t: t, dir: dir}
	r.configure("")
	return r
}

// configure changes the configuration: the list of rules, or none.
func (r *rig) configure(rules string) {
	r.t.Helper()
	file := filepath.Join(r.dir, "qat.yaml")
	err := os.Remove(file)
	if rules != "" {
		err = os.WriteFile(file, []byte("rules:\n"+rules), 0o600)
	}
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatalf("%v", err)
	}
	if r.queue != nil {
		r.queue.send(events.Event{Origin: events.Inotify, Action: events.Create, Path: []byte(r.dir)})
	}
}

// loaded returns the configuration.
func (r *rig) loaded() *config.Config {
	r.t.Helper()
	c, err := config.Load(r.dir, "", dpdkDriver)
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	return c
}

// A queue is an event source to which a test sends events.
type queue struct {
	mu   sync.Mutex // guards list
	list []events.Event
	wake chan struct{}
}

func (q *queue) send(e events.Event) {
	q.mu.Lock()
	q.list = append(q.list, e)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) Run(ctx context.Context, sink events.Sink) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.wake:
		}
		q.mu.Lock()
		list := q.list
		q.list = nil
		q.mu.Unlock()
		for i := range list {
			list[i].Time = time.Now()
			sink.Event(&list[i])
		}
	}
}

// start starts the plugin.
func (r *rig) start() {
	r.t.Helper()
	q := &queue{wake: make(chan struct{}, 1)}
	r.queue = q
	r.mu.Lock()
	r.crashed = false
	r.changed = func(a pci.Address) {
		q.send(events.Event{Origin: events.Inotify, Action: events.Write, Path: []byte("/nosys/" + a.String())})
	}
	r.mu.Unlock()
	loop := hostwatch.New(hostwatch.Config{
		Sysfs:         "/nosys",
		Writer:        r.model,
		AuditInterval: -1,
		Sources:       []func() (events.Source, error){func() (events.Source, error) { return q, nil }},
		Skipped:       "Not provisioned",
	})
	cfg := Config{
		Dir:        r.dir,
		Driver:     dpdkDriver,
		Sysfs:      "/nosys",
		Reader:     device.NewReader(device.Config{Sysfs: "/nosys", Dev: "/nodev", Driver: dpdkDriver}),
		Writer:     r.model,
		Withdrawer: r.model,
		NoBind:     r.noBind,
		Force:      r.force,
		Holders:    r.model.holders,
		FirstLook:  func() {},
	}
	load := func() (*config.Config, error) { return config.Load(r.dir, "", dpdkDriver) }
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan struct{})
	done := r.done
	go func() {
		defer close(done)
		hostwatch.Run(ctx, loop, func(ctx context.Context, h hostwatch.Host[Key]) hostwatch.Mode[Key] {
			return &recorder{newMode(ctx, cfg, h, r.model, load), r}
		}, func(*devtree.Tree) {})
	}()
}

// recorder records the state that a mode returns.
type recorder struct {
	*mode
	rig *rig
}

func (m *recorder) Reconcile(now time.Time, b *hostwatch.Batch[Key]) hostwatch.State {
	s := m.mode.Reconcile(now, b)
	m.rig.stateMu.Lock()
	defer m.rig.stateMu.Unlock()
	m.rig.skipped = maps.Clone(s.Skipped)
	m.rig.turns++
	return s
}

// stop ends the plugin. Its writes go on for as long as Close waits for them.
func (r *rig) stop() {
	if r.cancel != nil {
		r.cancel()
		<-r.done
		r.cancel = nil
	}
}

// crash ends the plugin between two writes. Mode dpdk ends with it.
func (r *rig) crash() {
	r.mu.Lock()
	r.crashed = true
	r.changed = nil
	clear(r.withdrawn)
	clear(r.allocated)
	maps.Copy(r.reported, r.held)
	r.mu.Unlock()
	r.stop()
}

// after waits for a time, and until the plugin has nothing left to do then.
func (r *rig) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// reason returns why a PF is not provisioned, or "".
func (r *rig) reason(a pci.Address) string {
	r.stateMu.Lock()
	defer r.stateMu.Unlock()
	return r.skipped[a.String()]
}

// written returns the writes to PFs so far, and forgets all of them. It leaves out the unbinding of
// VFs, which comes before their removal.
func (r *rig) written() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	writes := slices.DeleteFunc(r.writes, func(w string) bool { return strings.Contains(w, attrUnbind) })
	r.writes = nil
	return writes
}
