// Package lookalike makes an ordinary directory look like a Linux host with Intel QAT devices: a sysfs with PCI functions, drivers,
// IOMMU groups and debugfs, and a /dev with VFIO and UIO nodes. Unit tests, benchmarks and the demo stand on it: it needs no root
// and no hardware, since device nodes are plain files and links are relative.
//
// It guarantees the kernel's own order of steps: what appears before what when VFs are made, bound, unbound or removed is as the
// PCI core, the driver core, VFIO and the QAT driver do it (drivers/pci/iov.c, drivers/base/dd.c, drivers/vfio/vfio_main.c). For each step
// that a kernel announces, the function given to [Host.Uevents] gets the uevent message, byte for byte in the kernel's format, right
// after the step became visible.
//
// [Host.Serve] plays the kernel for programs that write to this sysfs. As an ordinary file cannot refuse a write or make the writer
// wait, it reacts a moment later and undoes what a kernel would have refused.
//
// Operations are serialized: each method returns when the host's change is complete. Functions given to Uevents and Observe are called
// in the midst of an operation and must not call the Host. Not imitated: reads that block or act (sriov_numvfs, heartbeat/status),
// the DRIVER line of uevent files, and link targets that nobody reads.
package lookalike

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Host is one look-alike host. Its methods may be called from any goroutine.
type Host struct {
	dir       string
	noIOMMU   bool
	iommufd   bool
	serial    int    // of temporary files
	seqnum    uint64 // of uevents
	uevents   func(message []byte)
	observer  func(Operation)
	failBinds map[string]error

	mu      sync.Mutex
	devices map[string]*function
	drivers map[string]bool
	removed map[string]PF // PFs that a user removed through sysfs; a rescan brings them back
	groups  ids           // IOMMU groups
	vfios   ids           // vfio-dev/vfioN
	uios    ids           // uio/uioN
	server  *server       // nil when nobody serves
	ready   chan struct{} // closed once served

	holdMu sync.Mutex // apart from mu: a holder lets go while a removal waits for it
	holds  map[string]chan struct{}
}

// Option changes what kind of host New makes.
type Option func(*Host)

// WithoutIOMMU makes a host whose functions have no IOMMU group; a bind to vfio-pci makes a noiommu one.
func WithoutIOMMU() Option { return func(h *Host) { h.noIOMMU = true } }

// WithIOMMUFD makes a host whose kernel also shows each VFIO device as /dev/vfio/devices/vfioN.
func WithIOMMUFD() Option { return func(h *Host) { h.iommufd = true } }

// New makes dir/sys and dir/dev of a host without QAT devices and without drivers.
func New(dir string, opts ...Option) (*Host, error) {
	h := &Host{
		dir: dir, failBinds: map[string]error{}, devices: map[string]*function{}, drivers: map[string]bool{}, removed: map[string]PF{},
		groups: ids{}, vfios: ids{}, uios: ids{}, ready: make(chan struct{}), holds: map[string]chan struct{}{},
	}
	for _, opt := range opts {
		opt(h)
	}
	err := h.do("boot", dir, false, func(o *op) {
		for _, d := range []string{"bus/pci/devices", "bus/pci/drivers", "class/iommu", "devices/virtual", "kernel/debug", "kernel/iommu_groups", "module"} {
			o.mkdir(h.sys(d))
		}
		o.mkdir(h.Dev())
		o.mkdir(h.scratch())
		o.put(h.sys("bus/pci/drivers_autoprobe"), "1")
		o.put(h.sys("bus/pci/rescan"), "")
		o.fifo(h.sys("bus/pci/drivers_probe"))
		if !h.noIOMMU {
			o.mkdir(h.sys("devices/virtual/iommu/dmar0"))
			o.link(h.sys("devices/virtual/iommu/dmar0"), h.sys("class/iommu/dmar0"))
		}
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Dir is the directory given to New.
func (h *Host) Dir() string { return h.dir }

// Sysfs is the root of the look-alike sysfs, for -sysfs-root.
func (h *Host) Sysfs() string { return filepath.Join(h.dir, "sys") }

// Dev is the root of the look-alike /dev, for -dev-root.
func (h *Host) Dev() string { return filepath.Join(h.dir, "dev") }

// Path is the directory of a function, whether it is there or not: Sysfs()/bus/pci/devices/<address>.
func (h *Host) Path(address string) string { return h.sys("bus/pci/devices", address) }

// Operation is one complete change of the host.
type Operation struct {
	Name    string // what was done: "add PF", "set VFs", "bind", "unbind", "set state", ...
	Subject string // an address, a driver's name
	Detail  string // the value: a driver, a number, a state
	Asked   bool   // a program asked for it by writing to sysfs
	Err     error  // why it did not happen
	Started time.Time
	// Decided is just before the step from which a device plugin could know the outcome: the vfio-dev of the last VF is made, the
	// first link of the last VF is taken away, an attribute gets its new value. Steps after it change nothing for a reader.
	Decided time.Time
	Ended   time.Time
}

// Observe has f called at the end of each operation from now on, in order.
func (h *Host) Observe(f func(Operation)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.observer = f
}

// op is one operation under way. After the first error its steps do nothing.
type op struct {
	Operation
	h     *Host
	taken string // the attribute whose writing asked for the operation
}

func (h *Host) do(name, subject string, asked bool, steps func(*op)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := &op{h: h, Operation: Operation{Name: name, Subject: subject, Asked: asked, Started: time.Now()}}
	o.Decided = o.Started
	steps(o)
	o.Ended = time.Now()
	if o.Err != nil {
		o.Err = fmt.Errorf("%s %s: %w", name, subject, o.Err)
	}
	if h.observer != nil {
		h.observer(o.Operation)
	}
	return o.Err
}

// decided is called just before a step from which the outcome can be known; the last one counts.
func (o *op) decided() { o.Decided = time.Now() }

func (o *op) fail(err error) {
	if o.Err == nil {
		o.Err = err
	}
}

func (o *op) failed() bool { return o.Err != nil }

func (o *op) try(step func() error) {
	if o.Err == nil {
		o.Err = step()
	}
}

func (o *op) mkdir(path string) {
	o.try(func() error { return os.MkdirAll(path, 0o755) })
}

// put makes a new attribute.
func (o *op) put(path, value string) {
	o.try(func() error { return os.WriteFile(path, line(value), 0o644) })
}

// replace gives an attribute its value at one moment, so that no reader sees it empty or half written.
func (o *op) replace(path, value string) {
	o.h.serial++
	tmp := filepath.Join(o.h.scratch(), fmt.Sprint(o.h.serial))
	o.put(tmp, value)
	o.try(func() error { return os.Rename(tmp, path) })
}

func (o *op) fifo(path string) {
	o.try(func() error { return syscall.Mkfifo(path, 0o622) })
}

// link makes name a relative symbolic link to target, as all links of sysfs are.
func (o *op) link(target, name string) {
	o.try(func() error {
		rel, err := filepath.Rel(filepath.Dir(name), filepath.Dir(target)) // the kernel's always end in the target's own name
		if err != nil {
			return err
		}
		return os.Symlink(filepath.Join(rel, filepath.Base(target)), name)
	})
}

// unlink takes a file or link away; one that is not there is fine.
func (o *op) unlink(path string) {
	o.try(func() error {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}

// rmtree takes a directory away. What somebody makes in it at the same time (an editor, a shell) goes with it at the second attempt.
func (o *op) rmtree(path string) {
	o.try(func() error {
		err := os.RemoveAll(path)
		if errors.Is(err, syscall.ENOTEMPTY) {
			err = os.RemoveAll(path)
		}
		return err
	})
}

func (h *Host) sys(elem ...string) string {
	return filepath.Join(append([]string{h.dir, "sys"}, elem...)...)
}

func (h *Host) dev(elem ...string) string {
	return filepath.Join(append([]string{h.dir, "dev"}, elem...)...)
}

// scratch is where attributes are written before they are renamed into place: outside of what a program may watch.
func (h *Host) scratch() string { return filepath.Join(h.dir, "tmp") }

func line(value string) []byte {
	if value == "" {
		return nil
	}
	return []byte(value + "\n")
}

// ids hands out the lowest number that is free, as the kernel's IDA does.
type ids map[int]bool

func (s ids) take() int {
	n := 0
	for s[n] {
		n++
	}
	s[n] = true
	return n
}

func (s ids) free(n int) { delete(s, n) }
