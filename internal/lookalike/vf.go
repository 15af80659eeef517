package lookalike

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"syscall"
)

// SetVFs makes n VFs of a PF (from 0), or removes them all (n = 0), in the kernel's order: of each VF the directory, the link in
// bus/pci/devices, `add`, virtfnN and physfn, `change`, and the probe of its own driver if that is loaded; at the end sriov_numvfs and one
// `change` of the PF. From one number to another it goes only through 0. The QAT driver turns every number into all of its VFs; this
// method makes as many as it is asked for, a write to sriov_numvfs that Serve sees makes all.
func (h *Host) SetVFs(pf string, n int) error {
	return h.do("set VFs of", pf, false, func(o *op) {
		if d := o.findPF(pf); d != nil {
			o.setVFs(d, n)
		}
	})
}

func (o *op) setVFs(d *function, n int) {
	o.Detail = strconv.Itoa(n)
	switch {
	case n < 0 || n > d.spec.TotalVFs: // sriov_numvfs_store
		o.fail(fmt.Errorf("%d of %d VFs: %w", n, d.spec.TotalVFs, syscall.ERANGE))
		return
	case n == d.numVFs:
		return
	case d.driver != d.spec.Driver:
		o.fail(fmt.Errorf("no driver that can make VFs is bound: %w", syscall.ENOENT))
		return
	case n > 0 && d.numVFs > 0:
		o.fail(fmt.Errorf("there are %d VFs, it goes through 0 only: %w", d.numVFs, syscall.EBUSY))
		return
	}
	o.heartbeat(d, false) // adf_sriov_configure takes the device down for a moment
	o.removeVFs(d)
	o.heartbeat(d, d.spec.State == "up" || n > 0)
	if n == 0 {
		o.showNumVFs(d)
		return
	}
	if d.spec.State != "up" { // and leaves it up
		d.spec.State = "up"
		if d.hasGroup() {
			o.show(d, "qat/state", "up")
		}
	}
	for i := range n {
		o.addVirtfn(d, i)
	}
	d.numVFs = n
	o.showNumVFs(d)
	o.emitFunction("change", d)
}

func (o *op) showNumVFs(d *function) { o.show(d, "sriov_numvfs", strconv.Itoa(d.numVFs)) }

// addVirtfn is pci_iov_add_virtfn.
func (o *op) addVirtfn(pf *function, index int) {
	h := o.h
	address, err := pf.vfAddress(index)
	if err != nil {
		o.fail(err)
		return
	}
	vf := &function{
		address: address, devpath: path.Join(path.Dir(pf.devpath), address), id: pf.spec.VFDeviceID, class: classQAT, numa: pf.numa,
		group: -1, vfio: -1, uio: -1, pf: pf, index: index,
	}
	o.appear(vf)
	if o.failed() {
		return
	}
	pf.vfs = append(pf.vfs, vf)
	slices.SortFunc(pf.vfs, func(a, b *function) int { return a.index - b.index })
	o.link(vf.dir(h), path.Join(pf.dir(h), fmt.Sprintf("virtfn%d", index)))
	o.link(pf.dir(h), path.Join(vf.dir(h), "physfn"))
	o.emitFunction("change", vf)
	if read(h.sys("bus/pci/drivers_autoprobe")) != "0" {
		o.probe(vf)
	}
}

// removeVirtfn is pci_iov_remove_virtfn.
func (o *op) removeVirtfn(vf *function) {
	h := o.h
	o.decided()
	if vf.pf != nil {
		o.unlink(path.Join(vf.pf.dir(h), fmt.Sprintf("virtfn%d", vf.index)))
		o.unlink(path.Join(vf.dir(h), "physfn"))
		vf.pf.vfs = slices.DeleteFunc(vf.pf.vfs, func(other *function) bool { return other == vf })
	}
	o.vanish(vf)
}

// removeVFs is sriov_disable: the VFs go one by one, and no event of the PF tells of it.
func (o *op) removeVFs(pf *function) {
	for _, vf := range slices.Backward(slices.Clone(pf.vfs)) {
		o.removeVirtfn(vf)
	}
	pf.numVFs = 0
}

// vfAddress is where VF number index is found: VF stride is 1, and they may reach into the next bus.
func (d *function) vfAddress(index int) (string, error) {
	domain, id, err := routing(d.address)
	if err != nil {
		return "", err
	}
	offset := 1
	if f, ok := familyOf(d.id); ok {
		offset = f.offset
	}
	if id += offset + index; id > 0xffff {
		return "", fmt.Errorf("VF %d of %s lies behind bus ff", index, d.address)
	}
	return addressOf(domain, id), nil
}

// VF describes one virtual function for AddVF.
type VF struct {
	Address  string
	DeviceID string // "" with a PF: the PF's VFs' ID; else 4941
	NUMANode int
	PF       string // address of its PF, whose link virtfnN it gets by its address; "" as in a guest
}

// AddVF plugs in one VF: in a guest, which sees no PF, or again after RemoveVF.
func (h *Host) AddVF(vf VF) error {
	return h.do("add VF", vf.Address, false, func(o *op) {
		_, id, err := routing(vf.Address)
		if err != nil {
			o.fail(err)
			return
		}
		if vf.PF == "" {
			if vf.DeviceID == "" {
				vf.DeviceID = "4941"
			}
			domain, _, _ := routing(vf.Address)
			d := &function{
				address: vf.Address, devpath: fmt.Sprintf("/devices/pci%s:%02x/%s", domain, id>>8, vf.Address),
				id: vf.DeviceID, class: classQAT, numa: vf.NUMANode, group: -1, vfio: -1, uio: -1,
			}
			o.appear(d)
			if read(h.sys("bus/pci/drivers_autoprobe")) != "0" {
				o.probe(d)
			}
			return
		}
		pf := o.findPF(vf.PF)
		if pf == nil {
			return
		}
		for i := range pf.spec.TotalVFs {
			if address, err := pf.vfAddress(i); err == nil && address == vf.Address {
				o.addVirtfn(pf, i)
				return
			}
		}
		o.fail(fmt.Errorf("is no VF of %s", vf.PF))
	})
}

// RemoveVF takes one VF away. What sriov_numvfs of its PF says stays.
func (h *Host) RemoveVF(address string) error {
	return h.do("remove VF", address, false, func(o *op) {
		switch d := o.find(address); {
		case d == nil:
		case d.spec != nil:
			o.fail(fmt.Errorf("it is a PF"))
		default:
			o.removeVirtfn(d)
		}
	})
}

// VFs are the addresses of a PF's VFs, in the order of their numbers.
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
