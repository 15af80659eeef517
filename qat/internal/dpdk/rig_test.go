// SPDX-License-Identifier: Apache-2.0

package dpdk

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
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
	"qatplugin/qat/internal/sysfs"
)

// Times of the plugin that tests depend on; packages bind and health own them.
const (
	firstBackOff   = time.Second
	longestBackOff = 5 * time.Minute
	nodeTimeout    = time.Second
	healthInterval = 5 * time.Second
)

// A rig runs the event loop of mode dpdk step by step on a look-alike host. It must be created in
// a testing/synctest bubble, whose clock is the plugin's.
//
// Each step returns when the plugin has nothing left to do at this time: no job runs, except
// those that wait in a held write, and nothing is marked.
//
// The host must not be served. Its kernel accepts each write and does nothing about it, unless a
// test refuses the write. To bind a VF on behalf of the kernel, a test calls [lookalike.Host.Bind].
type rig struct {
	t          *testing.T
	host       *lookalike.Host
	config     Config
	controller *controller
	watches    watchRecorder
	state      hostwatch.State
	tree       *devtree.Tree // published last

	mu   sync.Mutex // guards the fields below, which the plugin's jobs use too
	keys []Key      // marked and not handled yet
	log  []string
	held map[string]chan struct{} // file -> closed when the write may go on

	reads holds
}

// holds are the functions whose reads do not return.
type holds struct {
	mu    sync.Mutex
	held  map[string]chan struct{} // address → closed when the reads may go on
	begun map[string]int           // address → reads that have begun
}

// begin begins a read, which waits until the returned channel is closed; nil: it need not wait.
func (h *holds) begin(address string) chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begun[address]++
	return h.held[address]
}

func (h *holds) isHeld(address string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held[address] != nil
}

// holdReads makes reads of functions wait until release is called, which may be called again. VFs
// are not read by their links alone.
func (r *rig) holdReads(addresses ...string) (release func()) {
	h := &r.reads
	h.mu.Lock()
	defer h.mu.Unlock()
	held := make(chan struct{})
	for _, a := range addresses {
		h.held[a] = held
	}
	release = sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		close(held)
		for _, a := range addresses {
			delete(h.held, a)
		}
	})
	r.t.Cleanup(release)
	return release
}

// readsOf counts the reads of a function that have begun.
func (r *rig) readsOf(address string) int {
	r.reads.mu.Lock()
	defer r.reads.mu.Unlock()
	return r.reads.begun[address]
}

// newRig creates a rig that has not read the host yet. Config fields that are
// not set get the defaults of a plugin that binds VFs to vfio-pci, but for the
// HealthInterval, which stays 0: never.
func newRig(t *testing.T, h *lookalike.Host, cfg Config) *rig {
	t.Helper()
	r := &rig{
		t:       t,
		host:    h,
		watches: watchRecorder{},
		held:    map[string]chan struct{}{},
		reads:   holds{held: map[string]chan struct{}{}, begun: map[string]int{}},
	}
	if cfg.Recorder == nil {
		cfg.Recorder = NewRecorder(50, nil)
	}
	r.config = withDefaults(h, cfg, r)
	host := hostwatch.Host[Key]{
		Mark:    func(key Key, _ time.Time) { r.mark(key) },
		Watches: hostwatch.NewWatches(r.watches),
	}
	watched := &watchedReader{watches: host.Watches}
	read := func(a pci.Address, p *device.Progress) readResult {
		reader := r.config.Reader.Tracked(p)
		if held := r.reads.begin(a.String()); held != nil {
			_, _ = reader.Read(a) // so that p shows a file
			<-held
		}
		return watched.read(reader, a)
	}
	reread := func(known *device.Function) *device.Function {
		if r.reads.isHeld(known.Address.String()) {
			return nil
		}
		r.reads.begin(known.Address.String())
		return r.config.Reader.Reread(known)
	}
	r.controller = newController(t.Context(), r.config, host, read, reread)
	t.Cleanup(func() {
		r.controller.Close()
		checkRecording(t, r.controller) // whatever the test has done, its recording can be replayed
	})
	return r
}

// withDefaults completes a Config for a look-alike host.
func withDefaults(h *lookalike.Host, cfg Config, w *rig) Config {
	cfg.Sysfs, cfg.Dev = h.Sysfs(), h.Dev()
	if cfg.Driver == "" {
		cfg.Driver = device.DriverVFIO
	}
	if cfg.ServedDrivers == nil {
		cfg.ServedDrivers = device.KernelVFDrivers()
	}
	if cfg.Reader == nil {
		cfg.Reader = device.NewReader(device.Config{
			Sysfs:     cfg.Sysfs,
			Dev:       cfg.Dev,
			Driver:    cfg.Driver,
			Interface: device.InterfaceAuto,

			Attributes: cfg.Attributes,
		})
	}
	if cfg.Allocator == nil {
		cfg.Allocator = NewAllocator(cfg.Reader, cfg.Driver)
	}
	if cfg.Writer == nil {
		cfg.Writer = recordingWriter{sysfs.NewWriter(cfg.Sysfs, false), w}
	}
	if cfg.Preference == nil {
		cfg.Preference = policy.NewPreference(cfg.Policy)
	}
	return cfg
}

// recordingWriter notes each write in a rig before it is done.
type recordingWriter struct {
	*sysfs.Writer
	rig *rig
}

func (w recordingWriter) Write(file, value string) error {
	r := w.rig
	r.mu.Lock()
	r.log = append(r.log, value+" > "+file)
	held := r.held[file]
	delete(r.held, file)
	r.mu.Unlock()
	if held != nil {
		<-held
	}
	return w.Writer.Write(file, value)
}

func (r *rig) mark(key Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = append(r.keys, key)
}

// take returns what is marked.
func (r *rig) take() []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := r.keys
	r.keys = nil
	return keys
}

// settle reconciles until nothing is left to do at this time.
func (r *rig) settle() {
	r.t.Helper()
	r.reconcile(&hostwatch.Batch[Key]{})
}

// reconcile handles a batch, and what it leads to at this time.
func (r *rig) reconcile(b *hostwatch.Batch[Key]) {
	r.t.Helper()
	for range 100 {
		r.acceptRequests()
		b.Keys = r.take()
		r.state = r.controller.Reconcile(time.Now(), b)
		r.tree = r.state.Tree
		b = &hostwatch.Batch[Key]{}
		synctest.Wait()
		r.mu.Lock()
		rest := len(r.keys)
		r.mu.Unlock()
		if rest == 0 {
			return
		}
	}
	r.t.Fatal("the plugin does not come to rest")
}

// acceptRequests puts ordinary files in the place of the look-alike host's FIFOs, which refuse
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
	r.reconcile(&hostwatch.Batch[Key]{All: true})
}

// read reads functions as an event of each makes the plugin do.
func (r *rig) read(addresses ...string) {
	r.t.Helper()
	for _, address := range addresses {
		r.mark(Key{address: r.address(address)})
	}
	r.settle()
}

// readFully reads a function as an event that concerns more than its links makes the plugin do.
func (r *rig) readFully(address string) {
	r.t.Helper()
	r.mark(Key{kind: keyNUMANode, address: r.address(address)})
	r.settle()
}

// event delivers an event.
func (r *rig) event(e *events.Event) {
	r.t.Helper()
	if key, verdict := r.controller.Classify(e); verdict == hostwatch.Relevant {
		r.mark(key)
	}
	r.settle()
}

// pass lets time pass. The plugin wakes whenever it wants to meanwhile.
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

// nextWake is when the plugin would wake by itself to bind a VF or to poll the health of PFs; zero
// means never. The timers of the log and of the audit do not count.
func (r *rig) nextWake() time.Time { return r.controller.next() }

// list is what is published: resource -> IDs. An unhealthy device is its ID and "unhealthy".
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

// skipped is what is there and not listed: address -> reason.
func (r *rig) skipped() map[string]string { return r.state.Skipped }

// resource is the name of the resource that a device is listed in, "" when it is not listed.
func (r *rig) resource(id string) string {
	for resource := range r.tree.Resources() {
		if resource.Device(id) != nil {
			return resource.Name()
		}
	}
	return ""
}

// reason is why a function is not listed, or why it is listed and unhealthy.
func (r *rig) reason(address string) string {
	if d := r.device(address); d != nil {
		return d.Reason
	}
	return r.skipped()[address]
}

// device is a device as it is published, nil when it is not.
func (r *rig) device(id string) *devtree.Device {
	return r.tree.Resource(r.resource(id)).Device(id)
}

// allocate completes what a container gets that asks for these devices. Call it without a step
// since the host changed to allocate what the kubelet was told before.
func (r *rig) allocate(ids ...string) error {
	var devices []*devtree.Device
	for _, id := range ids {
		d := r.device(id)
		if d == nil {
			r.t.Fatalf("%s is not listed", id)
		}
		devices = append(devices, d)
	}
	return r.config.Allocator.PostAllocate(devices, &devtree.ContainerEdits{})
}

// writes are all writes to sysfs so far, each as "value > file", in order.
func (r *rig) writes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// probes counts how often the kernel was asked to find a driver for the function.
func (r *rig) probes(address string) (n int) {
	for _, w := range r.writes() {
		if w == address+" > "+probeFile {
			n++
		}
	}
	return n
}

const probeFile = "bus/pci/drivers_probe"

// hold makes the next write to a file wait until release is called, and thereby the job that
// does it.
func (r *rig) hold(file string) (release func()) {
	c := make(chan struct{})
	r.holdUntil(file, c)
	return func() {
		r.t.Helper()
		close(c)
		r.settle()
	}
}

// holdUntil makes the next write to a file wait until the channel is closed.
func (r *rig) holdUntil(file string, c chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[file] = c
}

// refuse makes writes to a file fail until it is accepted again.
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

// watched returns the watched directories, relative to the host's, sorted.
func (r *rig) watched() []string {
	var dirs []string
	for dir := range r.watches {
		dirs = append(dirs, strings.TrimPrefix(dir, r.host.Dir()+"/"))
	}
	slices.Sort(dirs)
	return dirs
}

func (r *rig) address(text string) pci.Address {
	r.t.Helper()
	a, ok := pci.Parse(text)
	if !ok {
		r.t.Fatalf("%q is not a PCI address", text)
	}
	return a
}

// A watchRecorder keeps the directories that it is asked to watch, and how often each watch was
// renewed.
type watchRecorder map[string]int

func (w watchRecorder) Run(ctx context.Context, _ events.Sink) error {
	<-ctx.Done()
	return nil
}

func (w watchRecorder) Watch(dir string) error   { w[dir] = 0; return nil }
func (w watchRecorder) Rewatch(dir string) error { w[dir]++; return nil }
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

// keepInode prevents that what is created in place of a directory gets the same inode number. Sysfs
// never uses one again; other file systems do.
func keepInode(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
}

// vfioNode is the file of the VFIO group of a function.
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

// writesByVF sorts the writes by the VF that each names.
func (r *rig) writesByVF(vfs []string) map[string][]string {
	m := map[string][]string{}
	for _, w := range r.writes() {
		for _, vf := range vfs {
			if strings.Contains(w, vf) {
				m[vf] = append(m[vf], w)
			}
		}
	}
	return m
}

// replaceDir removes a directory and makes an empty one in its place.
func replaceDir(t *testing.T, dir string) {
	t.Helper()
	must(t, os.RemoveAll(dir))
	must(t, os.Mkdir(dir, 0o755))
}

// A dryWriter notes what would be written.
type dryWriter struct {
	mu      sync.Mutex
	written []string
}

func (w *dryWriter) DryRun() bool { return true }

func (w *dryWriter) Write(file, value string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written = append(w.written, value+" > "+file)
	return nil
}

// makeIOMMUNode makes the node that VFIO character devices are used with.
func makeIOMMUNode(t *testing.T, h *lookalike.Host) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(h.Dev(), "iommu"), nil, 0o600))
}
