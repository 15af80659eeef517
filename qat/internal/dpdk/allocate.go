// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/readpool"
)

// An Allocator checks the VFs that a container is about to get, and adds the container's
// environment variables. Any goroutine may use it.
type Allocator struct {
	reader *device.Reader
	driver string // the DPDK driver
	read   func(pci.Address, *device.Progress) (*device.Function, error)
	known  functionTable // VFs, as the controller last read them

	mu      sync.Mutex                       // guards reading
	reading map[pci.Address]*device.Progress // VFs that are being read

	withdrawals
}

// NewAllocator returns an Allocator of VFs that are bound to this driver.
func NewAllocator(reader *device.Reader, driver string) *Allocator {
	return newAllocator(reader, driver, func(a pci.Address, p *device.Progress) (*device.Function, error) {
		return reader.Tracked(p).Read(a)
	})
}

func newAllocator(
	reader *device.Reader, driver string, read func(pci.Address, *device.Progress) (*device.Function, error),
) *Allocator {
	return &Allocator{
		reader:      reader,
		driver:      driver,
		read:        read,
		reading:     map[pci.Address]*device.Progress{},
		withdrawals: newWithdrawals(),
	}
}

// remember records a VF as the controller read it.
func (c *Allocator) remember(vf *device.Function) { c.known.set(vf) }

// forget removes a VF that no longer exists.
func (c *Allocator) forget(vf pci.Address) { c.known.remove(vf) }

// PostAllocate sets the environment variables QAT0, QAT1 and so on to the addresses of the
// container's VFs, in the order in which the kubelet named them. Before that, it makes the checks
// of Check.
func (c *Allocator) PostAllocate(devices []*devtree.Device, edits *devtree.ContainerEdits) error {
	if err := c.Check(devices); err != nil {
		return err
	}
	if edits.Env == nil {
		edits.Env = make(map[string]string, len(devices))
	}
	for i, d := range devices {
		edits.Env["QAT"+strconv.Itoa(i)] = d.ID
	}
	return nil
}

// Check checks the VFs that a container is about to get once more, and records that they are
// allocated. It returns an error that names the VF if a VF is gone, is no longer usable as listed,
// cannot be read within a second, or belongs to a PF that is withdrawn.
func (c *Allocator) Check(devices []*devtree.Device) error {
	var array [16]pci.Address // for most containers
	vfs := array[:0]
	for _, d := range devices {
		a, ok := pci.Parse(d.ID)
		if !ok {
			return fmt.Errorf("allocate %q: not a PCI address", d.ID)
		}
		vfs = append(vfs, a)
		if vf := c.known.get(a); vf != nil && vf.Node.Name == nodeOf(d) && c.reader.IsUsable(vf) {
			continue
		}
		vf, err := c.readSoon(a)
		switch {
		case err != nil:
			return fmt.Errorf("allocate %s: %w", d.ID, err)
		case vf == nil:
			return fmt.Errorf("allocate %s: %w", d.ID, devtree.ErrGone)
		case !c.reader.IsBound(vf.Driver):
			return fmt.Errorf("allocate %s: %w: it is no longer bound to %s", d.ID, devtree.ErrUnfit, c.driver)
		case vf.Node.Missing != "":
			return fmt.Errorf("allocate %s: %w: %s", d.ID, devtree.ErrUnfit, vf.Node.Missing)
		case len(d.DeviceNodes) > 0 && nodeOf(d) != vf.Node.Name:
			return fmt.Errorf("allocate %s: %w: its device node is now /dev/%s", d.ID, devtree.ErrUnfit, vf.Node.Name)
		}
	}
	if err := c.allocate(vfs); err != nil {
		return err
	}
	klog.V(3).InfoS("Checked the devices of a container", "devices", len(devices))
	return nil
}

// readSoon reads a VF. It returns an error if the read takes longer than [readpool.Timeout],
// because the kubelet admits no other pod in the meantime, or if an earlier read of the VF has not
// returned.
func (c *Allocator) readSoon(a pci.Address) (*device.Function, error) {
	c.mu.Lock()
	p, reading := c.reading[a]
	if !reading {
		p = &device.Progress{}
		c.reading[a] = p
	}
	c.mu.Unlock()
	if reading {
		return nil, errNotReturned(a, p)
	}
	done := make(chan readResult, 1)
	go func() {
		vf, err := c.read(a, p)
		c.mu.Lock()
		delete(c.reading, a)
		c.mu.Unlock()
		done <- readResult{facts: vf, err: err}
	}()
	select {
	case result := <-done:
		return result.facts, result.err
	case <-time.After(readpool.Timeout):
		return nil, errNotReturned(a, p)
	}
}

// nodeOf returns the name below /dev of a listed VF's device node, or "" if it has none.
func nodeOf(d *devtree.Device) string {
	if len(d.DeviceNodes) == 0 {
		return ""
	}
	return strings.TrimPrefix(d.DeviceNodes[0].HostPath, "/dev/")
}
