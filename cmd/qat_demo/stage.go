package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// The two PFs of the demo's host.
const (
	cyPF = "0000:6b:00.0" // 4xxx, asymmetric and symmetric cryptography
	dcPF = "0000:e8:00.0" // 402xx, compression
	aVF  = "0000:6b:00.3"

	vfs       = 16
	namespace = "qat.intel.com/"
)

// stage is the host, the kubelet's end and the plugin.
type stage struct {
	o       *options
	dir     string
	host    *lookalike.Host
	kubelet *kubelettest.Kubelet
	plugin  *process
	record  *record

	stop   context.CancelFunc // ends serving
	served chan error
}

// newStage makes a host whose dc PF has its VFs already, and a kubelet. The plugin does not run yet.
func newStage(ctx context.Context, o *options) (*stage, error) {
	dir, err := lookalike.MkdirTemp()
	if err != nil {
		return nil, err
	}
	s := &stage{o: o, dir: dir, record: newRecord()}
	if err := s.set(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("set the stage in %s: %w", dir, err), s.close())
	}
	return s, nil
}

func (s *stage) set(ctx context.Context) error {
	var err error
	if s.host, err = lookalike.New(s.dir); err != nil {
		return err
	}
	err = errors.Join(
		s.host.LoadDriver("vfio-pci"),
		s.host.AddPF(lookalike.PF{Address: cyPF, DeviceID: "4940", NUMANode: 0, Services: "sym;asym"}),
		s.host.AddPF(lookalike.PF{Address: dcPF, DeviceID: "4944", NUMANode: 1, Services: "dc"}),
		s.host.SetVFs(dcPF, vfs),
		os.Mkdir(s.kubeletDir(), 0o755),
	)
	if err != nil {
		return err
	}
	s.host.Observe(s.record.operation)
	s.host.Uevents(s.record.uevent)

	// Serving ends with the stage, not with ctx: the plugin may still write while it is being stopped.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop, s.served = stop, make(chan error, 1)
	ready := s.host.Ready()
	go func() { s.served <- s.host.Serve(serving) }()
	select {
	case <-ready:
	case err := <-s.served:
		s.served <- err
		return err
	}
	s.kubelet, err = kubelettest.Start(s.kubeletDir(), kubelettest.OnList(s.record.list), kubelettest.OnClean(func([]string) { s.record.cleaned() }))
	return err
}

func (s *stage) kubeletDir() string { return filepath.Join(s.dir, "kubelet") }

func (s *stage) pluginLog() string { return filepath.Join(s.dir, "plugin.log") }

// write writes to the host's sysfs as a user would with echo, and waits until the host has done what was asked.
func (s *stage) write(ctx context.Context, file, value, operation string) error {
	from := s.record.len()
	if err := os.WriteFile(filepath.Join(s.host.Sysfs(), "bus/pci", file), []byte(value+"\n"), 0); err != nil {
		return err
	}
	return s.record.wait(ctx, func(ops []lookalike.Operation) bool {
		return slices.ContainsFunc(ops[from:], func(o lookalike.Operation) bool { return o.Requested && o.Name == operation })
	})
}

// close ends and removes everything that is still there.
func (s *stage) close() error {
	var errs []error
	if s.plugin != nil {
		s.plugin.kill()
	}
	if s.kubelet != nil {
		s.kubelet.Stop()
	}
	if s.stop != nil {
		s.stop()
		errs = append(errs, <-s.served)
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// record keeps what happened on the host and what the kubelet was told, with the times of both.
type record struct {
	mu      sync.Mutex
	ops     []lookalike.Operation
	uevents int
	lists   int
	clean   time.Time     // when the kubelet's newest life began to clean its directory, just before it made its socket
	changed chan struct{} // closed, and made anew, with each of them
}

func newRecord() *record { return &record{changed: make(chan struct{})} }

func (r *record) note(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *record) operation(o lookalike.Operation) { r.note(func() { r.ops = append(r.ops, o) }) }
func (r *record) uevent([]byte)                   { r.note(func() { r.uevents++ }) }
func (r *record) list(kubelettest.List)           { r.note(func() { r.lists++ }) }
func (r *record) cleaned()                        { now := time.Now(); r.note(func() { r.clean = now }) }

func (r *record) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops)
}

// since returns the operations from number from on.
func (r *record) since(from int) []lookalike.Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ops[from:])
}

func (r *record) cleanedAt() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clean
}

func (r *record) counts() (uevents, lists int, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.uevents, r.lists, r.changed
}

func (r *record) wait(ctx context.Context, cond func(ops []lookalike.Operation) bool) error {
	for {
		r.mu.Lock()
		ops, changed := r.ops, r.changed
		r.mu.Unlock()
		if cond(ops) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
