// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

const addressA, addressB = "0000:3b:00.0", "0000:d8:00.0"

// A testHost is a look-alike host with the out-of-tree stack: configuration
// files, UIO devices below the functions, control nodes, and a fake adf_ctl.
type testHost struct {
	*lookalike.Host
	etc, bin string
	uevents  chan []byte

	mu      sync.Mutex // guards all following fields, and the fields of the devices
	devices []*testDevice
	serial  int
}

type testDevice struct {
	kind    string
	number  int
	address string
	node    int
	state   string
	uio     string // "" if there is none
}

// failer is what testing.TB and rapid.T have in common.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// must fails the test for an error that is not what the test is about.
func must(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newTestHost returns a host without an IOMMU, so that PFs can be used.
func newTestHost(t testing.TB) *testHost {
	t.Helper()
	return makeTestHost(t, tempDir(t), lookalike.WithoutIOMMU())
}

func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := lookalike.MkdirTemp()
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func makeTestHost(t failer, dir string, opts ...lookalike.Option) *testHost {
	t.Helper()
	host, err := lookalike.New(dir, opts...)
	must(t, err)
	h := &testHost{
		Host:    host,
		etc:     filepath.Join(dir, "etc"),
		bin:     filepath.Join(dir, "bin"),
		uevents: make(chan []byte, 1<<12), // like the kernel, the host does not wait for a reader
	}
	h.Uevents(h.send)
	for _, d := range []string{h.etc, h.bin} {
		must(t, os.Mkdir(d, 0o755))
	}
	self, err := os.Executable()
	must(t, err)
	for _, name := range []string{fakeADFCtl, fakeChild} {
		must(t, os.Symlink(self, filepath.Join(h.bin, name)))
	}
	for _, node := range controlNodes {
		must(t, os.WriteFile(filepath.Join(h.Dev(), node), nil, 0o600))
	}
	h.writeStatus(t)
	return h
}

// newHostWithDevice returns a host with one device that is up and one process.
func newHostWithDevice(t testing.TB) (*testHost, *testDevice) {
	t.Helper()
	h := newTestHost(t)
	d := h.addPF(t, 0, addressA)
	h.up(t, d)
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	return h, d
}

func (h *testHost) send(message []byte) { h.uevents <- slices.Clone(message) }

func (h *testHost) reader() *reader { return &reader{sysfs: h.Sysfs(), dev: h.Dev(), etc: h.etc} }

func (h *testHost) program() string { return filepath.Join(h.bin, fakeADFCtl) }

// fresh returns the Tree and the skips that follow from the host alone.
func (h *testHost) fresh(t failer) (*devtree.Tree, skips) {
	t.Helper()
	entries, skipped, err := parseStatus([]byte(h.statusText()))
	must(t, err)
	files := configs{dir: h.etc, files: map[string]*configFile{}}
	s, err := h.reader().snapshot(entries, files.update(time.Now()))
	must(t, err)
	tree, more := buildTree(&devtree.Tree{}, s)
	for name, reason := range more {
		skipped.add(name, reason)
	}
	return tree, skipped
}

// statusText is what adf_ctl prints.
func (h *testHost) statusText() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	b.WriteString("Checking status of all devices.\n")
	fmt.Fprintf(&b, "There is %d QAT acceleration device(s) in the system:\n", len(h.devices))
	for i, d := range h.devices {
		fmt.Fprintf(&b, " qat_dev%d - type: %s,  inst_id: %d,  node_id: %d,", i, d.kind, d.number, d.node)
		fmt.Fprintf(&b, "  bsf: %s,  #accel: 5 #engines: 10 state: %s\n", d.address, d.state)
	}
	return b.String()
}

func (h *testHost) writeStatus(t failer) {
	t.Helper()
	h.put(t, filepath.Join(h.bin, fileStatus), h.statusText())
}

// put replaces a file at one moment.
func (h *testHost) put(t failer, name, text string) {
	t.Helper()
	temporary := filepath.Join(h.Dir(), fmt.Sprintf("put%d", h.next()))
	must(t, os.WriteFile(temporary, []byte(text), 0o644))
	must(t, os.Rename(temporary, name))
}

func (h *testHost) next() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serial++
	return h.serial
}

func (h *testHost) confPath(name string) string { return filepath.Join(h.etc, name+".conf") }

// conf writes a device's configuration file.
func (h *testHost) conf(t failer, name string, sections ...string) {
	t.Helper()
	const kernel = "[GENERAL]\nServicesEnabled = cy;dc\n" +
		"\n[KERNEL]\nNumberCyInstances = 1\nNumberDcInstances = 0\n"
	h.put(t, h.confPath(name), kernel+strings.Join(sections, ""))
}

// sec is the text of a section. More lines may follow.
func sec(name string, processes, cy, dc int, more ...string) string {
	const format = "\n# for user space\n[%s]\n" +
		"NumberCyInstances = %d\nNumberDcInstances = %d\nNumProcesses = %d\n%s\n"
	return fmt.Sprintf(format, name, cy, dc, processes, strings.Join(more, "\n"))
}

const pinned = "LimitDevAccess = 1"

// addPF adds a C62x PF, which is down.
func (h *testHost) addPF(t failer, number int, address string) *testDevice {
	t.Helper()
	must(t, h.AddPF(lookalike.PF{Address: address, DeviceID: "37c8", TotalVFs: 4}))
	d := &testDevice{kind: "c6xx", number: number, address: address, node: number % 2, state: "down"}
	return h.list(t, d)
}

// addVFs adds n VFs of a PF, which are down.
func (h *testHost) addVFs(t failer, pf string, n int) (vfs []*testDevice) {
	t.Helper()
	must(t, h.LoadDriver("c6xxvf"))
	must(t, h.SetVFs(pf, 4))
	for number, address := range h.VFs(pf)[:n] {
		d := &testDevice{kind: "c6xxvf", number: number, address: address, state: "down"}
		vfs = append(vfs, h.list(t, d))
	}
	return vfs
}

// list makes adf_ctl list a device.
func (h *testHost) list(t failer, d *testDevice) *testDevice {
	t.Helper()
	h.mu.Lock()
	h.devices = append(h.devices, d)
	h.mu.Unlock()
	h.writeStatus(t)
	return d
}

// remove removes a device from the host.
func (h *testHost) remove(t failer, d *testDevice) {
	t.Helper()
	if d.uio != "" {
		must(t, os.Remove(filepath.Join(h.Dev(), d.uio)))
	}
	h.mu.Lock()
	h.devices = slices.DeleteFunc(h.devices, func(other *testDevice) bool { return other == d })
	h.mu.Unlock()
	h.writeStatus(t)
	must(t, h.RemovePF(d.address))
}

func (h *testHost) setState(t failer, d *testDevice, state string) {
	t.Helper()
	h.mu.Lock()
	d.state = state
	h.mu.Unlock()
	h.writeStatus(t)
}

// up starts devices.
func (h *testHost) up(t failer, devices ...*testDevice) {
	t.Helper()
	for _, d := range devices {
		h.setState(t, d, "up")
		h.addUIO(t, d)
	}
}

// down stops a device.
func (h *testHost) down(t failer, d *testDevice) {
	t.Helper()
	h.setState(t, d, "down")
	h.removeUIO(t, d)
}

func (h *testHost) addUIO(t failer, d *testDevice) {
	t.Helper()
	d.uio = fmt.Sprintf("uio%d", h.next())
	must(t, os.WriteFile(filepath.Join(h.Dev(), d.uio), nil, 0o600))
	must(t, os.MkdirAll(filepath.Join(h.Path(d.address), "uio", d.uio), 0o755))
	h.sendUIO(t, "add", d)
}

// removeUIO sends the event first, as the kernel does (drivers/base/core.c, device_del).
func (h *testHost) removeUIO(t failer, d *testDevice) {
	t.Helper()
	h.sendUIO(t, "remove", d)
	must(t, os.RemoveAll(filepath.Join(h.Path(d.address), "uio")))
	must(t, os.Remove(filepath.Join(h.Dev(), d.uio)))
	d.uio = ""
}

func (h *testHost) sendUIO(t failer, action string, d *testDevice) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(h.Path(d.address))
	must(t, err)
	devpath := strings.TrimPrefix(dir, h.Sysfs()) + "/uio/" + d.uio
	h.send([]byte(message(action, devpath, "SUBSYSTEM=uio", "DEVNAME="+d.uio)))
}

// message returns a uevent as the kernel sends it.
func message(action, devpath string, variables ...string) string {
	header := []string{action + "@" + devpath, "ACTION=" + action, "DEVPATH=" + devpath}
	return strings.Join(append(header, variables...), "\x00") + "\x00"
}

// breakDir replaces a directory of sysfs by a file, so that not even root can list it.
func (h *testHost) breakDir(t failer, name string) {
	t.Helper()
	dir := filepath.Join(h.Sysfs(), name)
	must(t, os.RemoveAll(dir))
	must(t, os.WriteFile(dir, nil, 0o600))
}

// uevent parses a message.
func uevent(t failer, message string) *events.Event {
	t.Helper()
	var e events.Event
	must(t, events.ParseUevent(&e, []byte(message)))
	return &e
}
