package kernelmode

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

// A testHost is a look-alike host with the out-of-tree stack: configuration files, UIO devices below the functions, the stack's nodes, and
// a stand-in for adf_ctl.
type testHost struct {
	*lookalike.Host
	etc, bin string

	mu      sync.Mutex
	devices []*testDevice
	uios    int
	serial  int
	queue   ueventQueue
}

type testDevice struct {
	kind    string
	number  int
	address string
	node    int
	state   string
	uio     string
}

// failing is what testing.TB and rapid.T have in common.
type failing interface {
	Helper()
	Fatal(args ...any)
}

func check(t failing, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newTestHost(t testing.TB, opts ...lookalike.Option) *testHost {
	t.Helper()
	dir, err := lookalike.MkdirTemp()
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return makeTestHost(t, dir, opts...)
}

func makeTestHost(t failing, dir string, opts ...lookalike.Option) *testHost {
	t.Helper()
	h, err := lookalike.New(dir, opts...)
	check(t, err)
	th := &testHost{Host: h, etc: filepath.Join(dir, "etc"), bin: filepath.Join(dir, "bin"), queue: ueventQueue{wake: make(chan struct{}, 1)}}
	h.Uevents(th.queue.send)
	for _, d := range []string{th.etc, th.bin} {
		check(t, os.Mkdir(d, 0o755))
	}
	self, err := os.Executable()
	check(t, err)
	for _, name := range []string{standIn, standInChild} {
		check(t, os.Symlink(self, filepath.Join(th.bin, name)))
	}
	for _, node := range controlNodes() {
		check(t, os.WriteFile(filepath.Join(h.Dev(), node), nil, 0o600))
	}
	th.writeStatus(t)
	return th
}

func (h *testHost) config() Config {
	return Config{SysfsRoot: h.Sysfs(), DevRoot: h.Dev(), EtcRoot: h.etc, ADFCtl: filepath.Join(h.bin, standIn), AuditInterval: -1}
}

// statusText is what adf_ctl prints.
func (h *testHost) statusText() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "Checking status of all devices.\nThere is %d QAT acceleration device(s) in the system:\n", len(h.devices))
	for i, d := range h.devices {
		fmt.Fprintf(&b, " qat_dev%d - type: %s,  inst_id: %d,  node_id: %d,  bsf: %s,  #accel: 5 #engines: 10 state: %s\n", i, d.kind, d.number, d.node, d.address, d.state)
	}
	return b.String()
}

func (h *testHost) writeStatus(t failing) {
	t.Helper()
	h.put(t, filepath.Join(h.bin, fileStatus), h.statusText())
}

// put gives a file its text at one moment.
func (h *testHost) put(t failing, name, text string) {
	t.Helper()
	h.mu.Lock()
	h.serial++
	tmp := filepath.Join(h.Dir(), fmt.Sprintf("put%d", h.serial))
	h.mu.Unlock()
	check(t, os.WriteFile(tmp, []byte(text), 0o644))
	check(t, os.Rename(tmp, name))
}

// conf writes a device's configuration file.
func (h *testHost) conf(t failing, name string, sections ...string) {
	t.Helper()
	h.put(t, filepath.Join(h.etc, name+".conf"), "[GENERAL]\nServicesEnabled = cy;dc\n\n[KERNEL]\nNumberCyInstances = 1\nNumberDcInstances = 0\n"+strings.Join(sections, ""))
}

// sec is the text of a section; more lines may follow the three that each has.
func sec(name string, processes, cy, dc int, more ...string) string {
	return fmt.Sprintf("\n# for user space\n[%s]\nNumberCyInstances = %d\nNumberDcInstances = %d\nNumProcesses = %d\n%s\n", name, cy, dc, processes, strings.Join(more, "\n"))
}

const pinned = "LimitDevAccess = 1"

// addPF plugs in a C62x PF, which is down.
func (h *testHost) addPF(t failing, number int, address string) *testDevice {
	t.Helper()
	check(t, h.AddPF(lookalike.PF{Address: address, DeviceID: "37c8", TotalVFs: 4}))
	return h.device(t, &testDevice{kind: "c6xx", number: number, address: address, node: number % 2, state: "down"})
}

// addVFs makes the PF's VFs, which are down.
func (h *testHost) addVFs(t failing, pf string, n int) (list []*testDevice) {
	t.Helper()
	check(t, h.LoadDriver("c6xxvf"))
	check(t, h.SetVFs(pf, 4))
	for number, address := range h.VFs(pf)[:n] {
		list = append(list, h.device(t, &testDevice{kind: "c6xxvf", number: number, address: address, state: "down"}))
	}
	return list
}

func (h *testHost) device(t failing, d *testDevice) *testDevice {
	t.Helper()
	h.mu.Lock()
	h.devices = append(h.devices, d)
	h.mu.Unlock()
	h.writeStatus(t)
	return d
}

// remove takes the device out of the host.
func (h *testHost) remove(t failing, d *testDevice) {
	t.Helper()
	if d.uio != "" {
		check(t, os.Remove(filepath.Join(h.Dev(), d.uio)))
	}
	h.mu.Lock()
	h.devices = slices.DeleteFunc(h.devices, func(o *testDevice) bool { return o == d })
	h.mu.Unlock()
	h.writeStatus(t)
	check(t, h.RemovePF(d.address))
}

func (h *testHost) setState(t failing, d *testDevice, state string) {
	t.Helper()
	h.mu.Lock()
	d.state = state
	h.mu.Unlock()
	h.writeStatus(t)
}

// up starts a device.
func (h *testHost) up(t failing, list ...*testDevice) {
	t.Helper()
	for _, d := range list {
		h.setState(t, d, "up")
		h.addUIO(t, d)
	}
}

// down stops a device.
func (h *testHost) down(t failing, d *testDevice) {
	t.Helper()
	h.setState(t, d, "down")
	h.removeUIO(t, d)
}

func (h *testHost) addUIO(t failing, d *testDevice) {
	t.Helper()
	d.uio = fmt.Sprintf("uio%d", h.uios)
	h.uios++
	check(t, os.WriteFile(filepath.Join(h.Dev(), d.uio), nil, 0o600))
	check(t, os.MkdirAll(filepath.Join(h.Path(d.address), "uio", d.uio), 0o755))
	h.sendUIO(t, "add", d)
}

// removeUIO tells first and removes then, as the kernel does (drivers/base/core.c, device_del).
func (h *testHost) removeUIO(t failing, d *testDevice) {
	t.Helper()
	h.sendUIO(t, "remove", d)
	check(t, os.RemoveAll(filepath.Join(h.Path(d.address), "uio")))
	check(t, os.Remove(filepath.Join(h.Dev(), d.uio)))
	d.uio = ""
}

func (h *testHost) sendUIO(t failing, action string, d *testDevice) {
	t.Helper()
	real, err := filepath.EvalSymlinks(h.Path(d.address))
	check(t, err)
	devpath := strings.TrimPrefix(real, h.Sysfs()) + "/uio/" + d.uio
	h.queue.send([]byte(action + "@" + devpath + "\x00ACTION=" + action + "\x00DEVPATH=" + devpath + "\x00SUBSYSTEM=uio\x00DEVNAME=" + d.uio + "\x00"))
}

// runs is how often the stand-in ran.
func (h *testHost) runs(t testing.TB) int {
	t.Helper()
	info, err := os.Stat(filepath.Join(h.bin, fileRuns))
	if os.IsNotExist(err) {
		return 0
	}
	must(t, err)
	return int(info.Size())
}

// receive waits for a value, but not for ever.
func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(deadline):
		t.Fatalf("nothing came within %v", deadline)
		panic("unreachable")
	}
}

// ueventQueue holds the uevents of a host, and hands them to a plugin through the real parser. As the kernel's, it never makes the
// sender wait.
type ueventQueue struct {
	mu       sync.Mutex
	messages [][]byte
	wake     chan struct{}
}

func (q *ueventQueue) send(message []byte) {
	q.mu.Lock()
	q.messages = append(q.messages, slices.Clone(message))
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *ueventQueue) take() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.messages
	q.messages = nil
	return list
}

// Run makes the queue a source.
func (q *ueventQueue) Run(ctx context.Context, sink events.Sink) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.wake:
		}
		for _, message := range q.take() {
			e := events.Event{Time: time.Now()}
			if err := events.ParseUevent(&e, message); err != nil {
				return err
			}
			sink.Event(&e)
		}
	}
}

// withoutDir makes a reason the same on every host.
func (h *testHost) withoutDir(reason string) string { return strings.ReplaceAll(reason, h.etc+"/", "") }

// spoil makes a file of a directory of sysfs, which then cannot be read; also root sees that.
func (h *testHost) spoil(t failing, name string) {
	t.Helper()
	dir := filepath.Join(h.Sysfs(), name)
	check(t, os.RemoveAll(dir))
	check(t, os.WriteFile(dir, nil, 0o600))
}
