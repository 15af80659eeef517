// SPDX-License-Identifier: Apache-2.0

package device

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	pfA, pfB = "0000:6b:00.0", "0000:70:00.0"
	vfA1     = "0000:6b:00.1"
	guestVF  = "0000:00:05.0" // has no PF
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func address(t testing.TB, text string) pci.Address {
	t.Helper()
	a, ok := pci.Parse(text)
	if !ok {
		t.Fatalf("%q is not a PCI address", text)
	}
	return a
}

// newHost makes a host with vfio-pci and a 4xxx PF on NUMA node 1 whose services are sym and asym.
func newHost(t testing.TB, opts ...lookalike.Option) *lookalike.Host {
	t.Helper()
	dir, err := lookalike.MkdirTemp()
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h, err := lookalike.New(dir, opts...)
	must(t, err)
	must(t, h.LoadDriver(DriverVFIO))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym", NUMANode: 1}))
	return h
}

// newHostWithVF makes a host with a VF that is bound to driver; "" leaves it unbound.
func newHostWithVF(t testing.TB, driver string, opts ...lookalike.Option) *lookalike.Host {
	t.Helper()
	h := newHost(t, opts...)
	must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
	if driver != "" {
		must(t, h.LoadDriver(driver))
		must(t, h.Bind(vfA1, driver))
	}
	return h
}

func newReader(h *lookalike.Host, driver, vfioInterface string) *Reader {
	return NewReader(Config{Sysfs: h.Sysfs(), Dev: h.Dev(), Driver: driver, Interface: vfioInterface})
}

func vfioReader(h *lookalike.Host) *Reader { return newReader(h, DriverVFIO, InterfaceAuto) }

// read reads a function that must be there.
func read(t testing.TB, r *Reader, a string) *Function {
	t.Helper()
	f, err := r.Read(address(t, a))
	must(t, err)
	if f == nil {
		t.Fatalf("no QAT function at %s", a)
	}
	return f
}

// inode returns the inode number of a function's directory, or of one below it.
func inode(t testing.TB, h *lookalike.Host, a, sub string) uint64 {
	t.Helper()
	n, err := sysfs.Inode(filepath.Join(h.Path(a), sub))
	must(t, err)
	return n
}

// replaceByDir makes an attribute, link or directory an empty directory.
func replaceByDir(t testing.TB, path string) {
	t.Helper()
	must(t, os.RemoveAll(path))
	must(t, os.Mkdir(path, 0o755))
}

// replaceByFile makes a link or directory an empty file.
func replaceByFile(t testing.TB, path string) {
	t.Helper()
	must(t, os.RemoveAll(path))
	must(t, os.WriteFile(path, nil, 0o644))
}

// replaceByLoop makes a link or directory a link to itself.
func replaceByLoop(t testing.TB, path string) {
	t.Helper()
	must(t, os.RemoveAll(path))
	must(t, os.Symlink(filepath.Base(path), path))
}

// openDir opens the directory of a function.
func openDir(t testing.TB, h *lookalike.Host, a string) sysfs.Dir {
	t.Helper()
	dir, err := sysfs.OpenDir(h.Path(a))
	must(t, err)
	return dir
}

// hookedDir calls a function once, after the first read of one of some entries.
type hookedDir struct {
	directory
	entries map[string]bool
	hook    func()
}

// openHooked opens a function. The first read of one of the entries calls hook.
func openHooked(t testing.TB, h *lookalike.Host, a string, hook func(), entries ...string) (*Handle, error) {
	t.Helper()
	hooked := &hookedDir{directory: openDir(t, h, a), entries: map[string]bool{}, hook: hook}
	for _, name := range entries {
		hooked.entries[name] = true
	}
	r := vfioReader(h)
	return r.open(address(t, a), r.entry(address(t, a)), hooked, nil)
}

func (d *hookedDir) done(name string) {
	if d.entries[name] {
		d.entries = nil
		d.hook()
	}
}

func (d *hookedDir) Link(name string) (string, error) {
	defer d.done(name)
	return d.directory.Link(name)
}

func (d *hookedDir) Read(name string) (string, error) {
	defer d.done(name)
	return d.directory.Read(name)
}

// failingDir fails one operation, which it counts down to.
type failingDir struct {
	directory
	countdown int
	err       error
}

func (d *failingDir) fails() bool {
	d.countdown--
	return d.countdown == 0
}

func (d *failingDir) Inode(name string) (uint64, error) {
	if d.fails() {
		return 0, d.err
	}
	return d.directory.Inode(name)
}

func (d *failingDir) Read(name string) (string, error) {
	if d.fails() {
		return "", d.err
	}
	return d.directory.Read(name)
}

func (d *failingDir) Link(name string) (string, error) {
	if d.fails() {
		return "", d.err
	}
	return d.directory.Link(name)
}

func (d *failingDir) Exists(name string) (bool, error) {
	if d.fails() {
		return false, d.err
	}
	return d.directory.Exists(name)
}

func (d *failingDir) Names(sub string) ([]string, error) {
	if d.fails() {
		return nil, d.err
	}
	return d.directory.Names(sub)
}
