// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/follow"
)

// Times of the plugin that tests on a rig rely on.
const (
	firstBackOff   = bindBackOff
	longestBackOff = bindBackOffMax
	nodeTimeout    = bindPatience
	healthInterval = defaultHealthInterval
)

// rig runs the event loop of mode dpdk step by step on a look-alike host. It must be created
// in a testing/synctest bubble, and its clock is that of the bubble.
//
// Each step returns when the plugin has nothing left to do at the current time: nothing is
// marked, and no job runs except those that wait in a held write.
//
// The host must not be served. Its kernel accepts each write and does nothing about it, unless
// the test refuses the write. A test that wants a VF bound calls [lookalike.Host.Bind].
type rig struct {
	t       *testing.T
	host    *lookalike.Host
	plugin  *Plugin
	loop    *loop
	watches watchRecorder
	tree    *devtree.Tree // published last

	mu   sync.Mutex // guards the fields below, which the plugin's jobs use too
	log  []string
	held map[string]chan struct{} // file -> closed when the write may go on
}

// newRig creates a rig that has not read the host yet. It sets the roots, the watcher and the
// audit interval of the Config. A zero HealthInterval means never.
func newRig(t *testing.T, h *lookalike.Host, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, host: h, watches: watchRecorder{}, held: map[string]chan struct{}{}}
	cfg.SysfsRoot, cfg.DevRoot, cfg.AuditInterval = h.Sysfs(), h.Dev(), -1
	if cfg.HealthInterval == 0 {
		cfg.HealthInterval = -1
	}
	p, err := New(cfg)
	must(t, err)
	p.noteWrite = r.note
	r.plugin = p
	r.loop = newLoop(p, func(tree *devtree.Tree) { r.tree = tree })
	b := newBinder(t.Context(), p.host, r.loop.mark)
	p.configure(b)
	f := newFold(p.host, b, follow.NewDirectories(), p.cfg.KernelVFDrivers, p.cfg.MaxNumDevices)
	f.prefer = &p.preference
	f.health.interval, f.health.mark, f.health.answered = p.cfg.HealthInterval, r.loop.mark, f.faults.clear
	_, err = f.directories.Open(func() (Watcher, error) { return r.watches, nil })()
	must(t, err)
	r.loop.fold = f
	return r
}

// note is called with each write to sysfs before it is done, in the goroutine that does it.
func (r *rig) note(file, value string) {
	r.mu.Lock()
	r.log = append(r.log, value+" > "+file)
	held := r.held[file]
	delete(r.held, file)
	r.mu.Unlock()
	if held != nil {
		<-held
	}
}

// settle turns the loop until nothing is left to do at this time.
func (r *rig) settle() {
	r.t.Helper()
	for range 100 {
		r.acceptRequests()
		r.loop.turn(time.Now())
		synctest.Wait()
		select {
		case <-r.loop.mailbox.Wake():
		default:
			return
		}
	}
	r.t.Fatal("the plugin does not come to rest")
}

// acceptRequests replaces the FIFOs of the look-alike host by ordinary files. A FIFO refuses
// writes while nobody serves the host.
func (r *rig) acceptRequests() {
	r.t.Helper()
	fifos, err := filepath.Glob(filepath.Join(r.host.Sysfs(), "bus/pci/drivers/*/*bind"))
	must(r.t, err)
	for _, file := range append(fifos, filepath.Join(r.host.Sysfs(), "bus/pci/drivers_probe")) {
		if info, err := os.Lstat(file); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
			must(r.t, os.Remove(file))
			must(r.t, os.WriteFile(file, nil, 0o600))
		}
	}
}

// rescan reads the whole host, as at the start and after a loss of events.
func (r *rig) rescan() {
	r.t.Helper()
	r.loop.Resync("test")
	r.settle()
}

// read reads functions again, as after an event of each.
func (r *rig) read(addresses ...string) {
	r.t.Helper()
	for _, address := range addresses {
		r.loop.mark(r.address(address))
	}
	r.settle()
}

// event delivers an event.
func (r *rig) event(e *events.Event) {
	r.t.Helper()
	r.loop.Event(e)
	r.settle()
}

// pass lets time pass, during which the plugin wakes by itself as often as it wants to.
func (r *rig) pass(d time.Duration) {
	r.t.Helper()
	end := time.Now().Add(d)
	for {
		next := r.nextWake()
		if next.IsZero() || next.After(end) {
			break
		}
		r.wake()
	}
	time.Sleep(time.Until(end))
	r.settle()
}

// wake lets time pass until the plugin wakes by itself, and returns how long that took.
func (r *rig) wake() time.Duration {
	r.t.Helper()
	next, now := r.nextWake(), time.Now()
	if next.IsZero() {
		r.t.Fatal("the plugin would never wake by itself")
	}
	if !next.After(now) {
		r.t.Fatal("the plugin has done what is due, and would wake again at once")
	}
	time.Sleep(next.Sub(now))
	r.settle()
	return next.Sub(now)
}

// nextWake returns when the plugin would wake by itself to bind a VF or to poll the health of
// PFs; zero means never. The timers of the log and of the audit do not count.
func (r *rig) nextWake() time.Time {
	now := time.Now()
	_, bind := r.loop.fold.binder.due(now)
	return earlier(bind, r.loop.fold.health.next(now))
}

// list returns the IDs of the published devices by resource. The ID of an unhealthy device is
// followed by "unhealthy".
func (r *rig) list() map[string][]string {
	m := map[string][]string{}
	for resource := range r.tree.Resources() {
		m[resource.Name()] = []string{}
		for d := range resource.Devices() {
			id := d.ID
			if d.Health == devtree.Unhealthy {
				id += " unhealthy"
			}
			m[resource.Name()] = append(m[resource.Name()], id)
		}
	}
	return m
}

// skipped returns the functions that are there and not listed, each with the reason.
func (r *rig) skipped() map[string]string {
	m := map[string]string{}
	for _, reasons := range []map[Address]string{r.loop.fold.left, r.loop.fold.unreadable} {
		for a, why := range reasons {
			m[a.String()] = why
		}
	}
	return m
}

// resource returns the name of the resource that lists a device, "" when none does.
func (r *rig) resource(id string) string {
	for resource := range r.tree.Resources() {
		if resource.Device(id) != nil {
			return resource.Name()
		}
	}
	return ""
}

// reason returns why a function is not listed, or why it is listed as unhealthy.
func (r *rig) reason(address string) string {
	if d := r.device(address); d != nil {
		return d.Reason
	}
	return r.skipped()[address]
}

// device returns a device as it is published, nil when it is not.
func (r *rig) device(id string) *devtree.Device {
	return r.tree.Resource(r.resource(id)).Device(id)
}

// allocate allocates devices to a container, as they were published last. The host may have
// changed since the last step.
func (r *rig) allocate(ids ...string) error {
	var devices []*devtree.Device
	for _, id := range ids {
		d := r.device(id)
		if d == nil {
			r.t.Fatalf("%s is not listed", id)
		}
		devices = append(devices, d)
	}
	return r.plugin.PostAllocate(r.t.Context(), "", devices, &devtree.ContainerEdits{})
}

// writes returns all writes to sysfs so far, in order, each as "value > file".
func (r *rig) writes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// probes returns how often the kernel was asked to probe a function.
func (r *rig) probes(address string) (n int) {
	for _, w := range r.writes() {
		if w == address+" > "+probeFile {
			n++
		}
	}
	return n
}

const probeFile = "bus/pci/drivers_probe"

// hold makes the next write to a file wait until release is called.
func (r *rig) hold(file string) (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(chan struct{})
	r.held[file] = c
	resume := sync.OnceFunc(func() { close(c) })
	r.t.Cleanup(resume)
	return func() {
		r.t.Helper()
		resume()
		r.settle()
	}
}

// refuse makes writes to a file fail until accept is called.
func (r *rig) refuse(file string) {
	r.t.Helper()
	file = filepath.Join(r.host.Sysfs(), file)
	must(r.t, os.Remove(file))
	must(r.t, os.Symlink("/dev/full", file))
}

func (r *rig) accept(file string) {
	r.t.Helper()
	file = filepath.Join(r.host.Sysfs(), file)
	must(r.t, os.Remove(file))
	must(r.t, os.WriteFile(file, nil, 0o600))
}

// watched returns the directories that are watched, in order, relative to that of the host.
func (r *rig) watched() []string {
	var dirs []string
	for dir := range r.watches {
		dirs = append(dirs, strings.TrimPrefix(dir, r.host.Dir()+"/"))
	}
	slices.Sort(dirs)
	return dirs
}

func (r *rig) address(text string) Address {
	r.t.Helper()
	a, ok := ParseAddress(text)
	if !ok {
		r.t.Fatalf("%q is not a PCI address", text)
	}
	return a
}

// watchRecorder is a Watcher that records the set of watched directories.
type watchRecorder map[string]bool

func (w watchRecorder) Run(ctx context.Context, _ events.Sink) error {
	<-ctx.Done()
	return nil
}

func (w watchRecorder) Watch(dir string) error   { w[dir] = true; return nil }
func (w watchRecorder) Rewatch(dir string) error { w[dir] = true; return nil }
func (w watchRecorder) Unwatch(dir string)       { delete(w, dir) }

// inBubble runs a subtest in a testing/synctest bubble.
func inBubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// wantList fails the test unless exactly this is listed.
func (r *rig) wantList(want map[string][]string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.list()); diff != "" {
		r.t.Fatalf("lists (-want +got):\n%s", diff)
	}
}

// wantSkipped fails the test unless exactly these functions are skipped.
func (r *rig) wantSkipped(addresses ...string) {
	r.t.Helper()
	if got := slices.Sorted(maps.Keys(r.skipped())); !slices.Equal(got, addresses) {
		r.t.Fatalf("skipped: %q, want %q", got, addresses)
	}
}

// keepInode keeps the inode number of a directory in use until the test ends, so that what is
// created in its place is another incarnation. Sysfs does not reuse inode numbers, other file
// systems do.
func keepInode(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
}

// vfioNode returns the path of the node of a function's VFIO group.
func vfioNode(t *testing.T, h *lookalike.Host, address string) string {
	t.Helper()
	group, err := os.Readlink(filepath.Join(h.Path(address), "iommu_group"))
	must(t, err)
	return filepath.Join(h.Dev(), "vfio", filepath.Base(group))
}

// addVFs adds these VFs of a PF to a host and binds them to vfio-pci.
func addVFs(t *testing.T, h *lookalike.Host, pf string, addresses ...string) {
	t.Helper()
	for _, a := range addresses {
		must(t, h.AddVF(lookalike.VF{Address: a, PF: pf}))
		must(t, h.Bind(a, "vfio-pci"))
	}
}
