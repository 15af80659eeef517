// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"syscall"
)

// SetVFs creates n VFs of a PF that has none, or removes all of them (n = 0), in the kernel's
// order. For each VF that is: the directory, the link in bus/pci/devices, `add`, virtfnN and
// physfn, `change`, and the probe of its kernel driver if that is loaded; at the end
// sriov_numvfs and one `change` of the PF. To get from one number to another, remove all VFs
// first. SetVFs creates as many VFs as asked for, whereas a write to sriov_numvfs creates all
// VFs of the PF, as the QAT driver does.
func (h *Host) SetVFs(pf string, n int) error {
	return h.doPF("set VFs of", pf, func(o *op, d *function) { o.setVFs(d, n) })
}

func (o *op) setVFs(pf *function, n int) {
	o.Value = strconv.Itoa(n)
	switch {
	case n < 0 || n > pf.spec.TotalVFs: // sriov_numvfs_store
		o.fail(fmt.Errorf("%d of %d VFs: %w", n, pf.spec.TotalVFs, syscall.ERANGE))
		return
	case n == pf.numVFs:
		return
	case pf.driver != pf.spec.Driver:
		o.fail(fmt.Errorf("no driver that supports SR-IOV is bound: %w", syscall.ENOENT))
		return
	case n > 0 && pf.numVFs > 0:
		o.fail(fmt.Errorf("there are %d VFs; write 0 first: %w", pf.numVFs, syscall.EBUSY))
		return
	}
	o.setUpFiles(pf, false) // adf_sriov_configure takes the device down for a moment
	o.removeVFs(pf)
	o.setUpFiles(pf, pf.spec.State == "up" || n > 0)
	if n == 0 {
		o.showNumVFs(pf)
		return
	}
	if pf.spec.State != "up" { // and leaves it up
		pf.spec.State = "up"
		if pf.hasQATGroup() {
			o.show(pf, "qat/state", "up")
		}
	}
	for i := range n {
		o.addVirtfn(pf, i, nil)
	}
	pf.numVFs = n
	o.showNumVFs(pf)
	o.emitPCI("change", pf)
}

func (o *op) showNumVFs(pf *function) { o.show(pf, "sriov_numvfs", strconv.Itoa(pf.numVFs)) }

// addVirtfn is pci_iov_add_virtfn.
func (o *op) addVirtfn(pf *function, index int, groupOf *function) {
	h := o.h
	address, err := pf.vfAddress(index)
	if err != nil {
		o.fail(err)
		return
	}
	vf := &function{
		address: address,
		devpath: path.Join(path.Dir(pf.devpath), address),
		id:      pf.spec.VFDeviceID,
		class:   classQAT,
		numa:    pf.numa,
		pf:      pf,
		index:   index,
		groupOf: groupOf,
	}
	o.addFunction(vf)
	if o.failed() {
		return
	}
	pf.vfs = append(pf.vfs, vf)
	slices.SortFunc(pf.vfs, func(a, b *function) int { return a.index - b.index })
	o.link(vf.dir(h), path.Join(pf.dir(h), fmt.Sprintf("virtfn%d", index)))
	o.link(pf.dir(h), path.Join(vf.dir(h), "physfn"))
	o.emitPCI("change", vf)
	o.autoprobe(vf)
}

// removeVirtfn is pci_iov_remove_virtfn.
func (o *op) removeVirtfn(vf *function) {
	h := o.h
	o.markVisible()
	if vf.pf != nil {
		o.unlink(path.Join(vf.pf.dir(h), fmt.Sprintf("virtfn%d", vf.index)))
		o.unlink(path.Join(vf.dir(h), "physfn"))
		vf.pf.vfs = slices.DeleteFunc(vf.pf.vfs, func(other *function) bool { return other == vf })
	}
	o.removeFunction(vf)
}

// removeVFs is sriov_disable: it removes the VFs one by one, without a uevent of the PF.
func (o *op) removeVFs(pf *function) {
	for _, vf := range slices.Backward(slices.Clone(pf.vfs)) {
		o.removeVirtfn(vf)
	}
	pf.numVFs = 0
}

// VF describes a virtual function for AddVF.
type VF struct {
	Address  string
	PF       string // address of its PF; "" as in a guest
	DeviceID string // without a PF: "" means 4941
	NUMANode int    // without a PF
	GroupOf  string // address of a function whose IOMMU group the VF shares; "": a group of its own
}

// AddVF adds one VF: in a guest, which sees no PF, or again after RemoveVF.
func (h *Host) AddVF(vf VF) error {
	return h.do("add VF", vf.Address, func(o *op) {
		domain, id, err := parseAddress(vf.Address)
		if err != nil {
			o.fail(err)
			return
		}
		if vf.PF == "" {
			if vf.DeviceID == "" {
				vf.DeviceID = "4941"
			}
			d := &function{
				address: vf.Address,
				devpath: rootDevpath(domain, id),
				id:      vf.DeviceID,
				class:   classQAT,
				numa:    vf.NUMANode,
				groupOf: h.devices[vf.GroupOf],
			}
			o.addFunction(d)
			o.autoprobe(d)
			return
		}
		pf := o.findPF(vf.PF)
		if pf == nil {
			return
		}
		for i := range pf.spec.TotalVFs {
			if address, err := pf.vfAddress(i); err == nil && address == vf.Address {
				o.addVirtfn(pf, i, h.devices[vf.GroupOf])
				return
			}
		}
		o.fail(fmt.Errorf("not a VF of %s", vf.PF))
	})
}

// RemoveVF removes one VF. The sriov_numvfs of its PF does not change.
func (h *Host) RemoveVF(address string) error {
	return h.doFunction("remove VF", address, func(o *op, d *function) {
		if d.spec != nil {
			o.fail(errors.New("it is a PF"))
			return
		}
		o.removeVirtfn(d)
	})
}

// VFs returns the addresses of a PF's VFs, in the order of their numbers.
func (h *Host) VFs(pf string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var addresses []string
	if d := h.devices[pf]; d != nil {
		for _, vf := range d.vfs {
			addresses = append(addresses, vf.address)
		}
	}
	return addresses
}
