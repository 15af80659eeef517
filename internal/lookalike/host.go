// SPDX-License-Identifier: Apache-2.0

// Package lookalike builds a directory tree that behaves like a Linux host with Intel QAT
// devices: a sysfs with PCI functions, drivers, IOMMU groups and debugfs, and a /dev with
// VFIO and UIO nodes. It needs neither root nor hardware: device nodes are regular files,
// and links are relative. Unit tests, benchmarks and the demo run on it.
//
// Each operation changes the tree step by step, in the order in which the kernel does it
// (drivers/pci/iov.c, drivers/base/core.c, drivers/base/dd.c, drivers/vfio/vfio_main.c and
// drivers/crypto/intel/qat). For each step that the kernel announces, the function given
// to [Host.Uevents] gets the uevent message, byte for byte in the kernel's format, right
// after the step became visible.
//
// [Host.Serve] does what the kernel does when a program writes to sysfs. A regular file can
// neither refuse a write nor block the writer, so Serve reacts a moment later and reverts
// what the kernel would have refused.
//
// Operations are serialized: each method returns when its change is complete. Functions
// given to Uevents and Observe are called during an operation and must not call the Host.
//
// Not imitated: reads that block or have side effects (sriov_numvfs, heartbeat/status), the
// DRIVER line of uevent files, and the targets of links that nobody reads.
package lookalike

import (
	"path/filepath"
	"sync"
)

// Host is one look-alike host. Its methods may be called from any goroutine.
type Host struct {
	dir     string
	noIOMMU bool
	iommufd bool

	mu        sync.Mutex // held during an operation; guards the following fields
	uevents   func(message []byte)
	observer  func(Operation)
	seqnum    uint64               // SEQNUM of the last uevent
	tempFiles int                  // number of temporary files so far
	failBinds map[string]error     // by address
	devices   map[string]*function // by address
	drivers   map[string]bool      // the loaded ones
	removed   map[string]PF        // PFs removed through sysfs; a rescan adds them again
	groups    ids                  // IOMMU groups
	vfios     ids                  // N of vfio-dev/vfioN
	uios      ids                  // N of uio/uioN
	server    *server              // nil while not served
	ready     chan struct{}        // closed while served

	writesMu sync.Mutex     // not mu: an operation waits for what programs write
	writes   map[string]int // see Writes

	holdMu sync.Mutex // not mu: a holder lets go while a removal, which has mu, waits for it
	holds  map[string]chan struct{}
}

// Option changes what kind of host New makes.
type Option func(*Host)

// WithoutIOMMU makes a host whose functions have no IOMMU group. Binding a function to vfio-pci
// creates a noiommu group while the parameter enable_unsafe_noiommu_mode of vfio is Y, its default
// on this host.
func WithoutIOMMU() Option { return func(h *Host) { h.noIOMMU = true } }

// WithIOMMUFD makes a host that also has a node /dev/vfio/devices/vfioN for each VFIO device.
func WithIOMMUFD() Option { return func(h *Host) { h.iommufd = true } }

// New creates dir/sys and dir/dev of a host that has no QAT devices and no drivers.
func New(dir string, opts ...Option) (*Host, error) {
	h := &Host{
		dir:       dir,
		failBinds: map[string]error{},
		devices:   map[string]*function{},
		drivers:   map[string]bool{},
		removed:   map[string]PF{},
		groups:    ids{},
		vfios:     ids{},
		uios:      ids{},
		ready:     make(chan struct{}),
		holds:     map[string]chan struct{}{},
		writes:    map[string]int{},
	}
	for _, opt := range opts {
		opt(h)
	}
	err := h.do("boot", dir, func(o *op) {
		for _, d := range []string{
			"bus/pci/devices", "bus/pci/drivers", "class/iommu", "devices/virtual",
			"kernel/debug", "kernel/iommu_groups", "module",
		} {
			o.mkdir(h.sys(d))
		}
		o.mkdir(h.Dev())
		o.mkdir(h.scratch())
		o.create(h.sys("bus/pci/drivers_autoprobe"), "1")
		o.create(h.sys("bus/pci/rescan"), "")
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

// Dir returns the directory given to New.
func (h *Host) Dir() string { return h.dir }

// Sysfs returns the root of the look-alike sysfs, for -sysfs-root.
func (h *Host) Sysfs() string { return h.sys() }

// Dev returns the root of the look-alike /dev, for -dev-root.
func (h *Host) Dev() string { return h.dev() }

// Path returns the directory of a function, whether it exists or not:
// Sysfs()/bus/pci/devices/<address>.
func (h *Host) Path(address string) string { return h.sys("bus/pci/devices", address) }

func (h *Host) sys(elem ...string) string {
	return filepath.Join(append([]string{h.dir, "sys"}, elem...)...)
}

func (h *Host) dev(elem ...string) string {
	return filepath.Join(append([]string{h.dir, "dev"}, elem...)...)
}

// scratch returns the directory for files that are renamed into place when they are complete.
// It lies outside of what a program may watch.
func (h *Host) scratch() string { return filepath.Join(h.dir, "tmp") }

// ids allocates the lowest free number, as the kernel's IDA does.
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
