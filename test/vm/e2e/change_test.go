// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"slices"
	"testing"
)

func TestServiceChangeMovesVFsToAnotherResource(t *testing.T) {
	n := startNode(t, "npf=2", "-status-socket="+recorderSocket)
	a, b := n.pfs[0], n.pfs[1]
	a.enableVFs(t)
	b.enableVFs(t)
	n.waitForVFs(t, a, b)
	for _, services := range []string{"dc", "sym;dc", "asym;sym"} {
		write(t, a.path("qat/state"), "down")
		n.waitForVFs(t, b)
		write(t, a.path("qat/cfg_services"), services)
		write(t, a.path("qat/state"), "up")
		a.enableVFs(t)
		n.waitForVFs(t, a, b)
		n.checkAllocation(t, a.resource(t), 1)
	}
	n.checkRecording(t)
}

func TestUnboundVFIsBoundAgain(t *testing.T) {
	n := startNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	a.enableVFs(t)
	n.waitForVFs(t, a)
	vf := a.vfs(t)[5]
	start := monotonic()
	write(t, filepath.Join(pciDrivers, "vfio-pci/unbind"), vf)
	poll(t, pollInterval, "the plugin to bind the VF again", func() bool { return driverOf(vf) == "vfio-pci" })
	b.enableVFs(t) // once these VFs are listed, the events before them have been handled too
	n.waitForVFs(t, a, b)
	t.Logf("unbound and bound again: %v", n.uevents.since(start)[:6])
}

func TestUnboundVFIsNotListedWithBindFalse(t *testing.T) {
	n := startNode(t, "npf=1", "-bind=false")
	p := n.pfs[0]
	p.enableVFs(t)
	for _, vf := range p.vfs(t) {
		bindToVFIO(t, vf)
	}
	n.waitForVFs(t, p)
	vf := p.vfs(t)[5]
	for range 3 {
		write(t, filepath.Join(pciDrivers, "vfio-pci/unbind"), vf)
		want := vfLists(t, "Healthy", p)
		cy := want["qat.intel.com/cy"]
		want["qat.intel.com/cy"] = slices.DeleteFunc(cy, func(device string) bool { return device == vf })
		n.waitForLists(t, want)
		write(t, filepath.Join(pciDrivers, "vfio-pci/bind"), vf)
		n.waitForVFs(t, p)
	}
}

func TestGen2VFsAreTakenFromTheirKernelDriver(t *testing.T) {
	reloadVFIO(t, "disable_denylist=1")
	n := startNode(t, "npf=2 family=c6xx,4xxx")
	for _, p := range n.pfs {
		p.enableVFs(t)
	}
	n.waitForVFs(t, n.pfs...)
	n.checkAllocation(t, "qat.intel.com/generic", 2)
}

func TestVFsThatVFIORefusesDoNotHideOthers(t *testing.T) {
	n := startNode(t, "npf=2 family=c6xx,4xxx")
	gen2, gen4 := n.pfs[0], n.pfs[1]
	gen2.enableVFs(t)
	gen4.enableVFs(t)
	n.waitForVFs(t, gen4)
	for _, vf := range gen2.vfs(t) {
		if driverOf(vf) == "vfio-pci" {
			t.Errorf("%s is bound despite the denylist", vf)
		}
	}
	// They are bound once vfio-pci is loaded without its denylist.
	gen4.disableVFs(t) // else vfio-pci is in use
	n.waitForVFs(t)
	reloadVFIO(t, "disable_denylist=1")
	n.waitForVFs(t, gen2)
	gen2.disableVFs(t) // before the cleanup reloads vfio-pci
	n.waitForVFs(t)
}

// The removal of a PF waits for the workload that holds one of its VFs. Meanwhile the VF must not
// be allocated to another one.
func TestHeldVFIsNotAllocatedDuringPFRemoval(t *testing.T) {
	n := startNode(t, "npf=1")
	p := n.pfs[0]
	p.enableVFs(t)
	n.waitForVFs(t, p)
	vf := p.vfs(t)[0] // the kernel removes this one first, and the others after it
	closeVF := openVF(t, vf)
	start := monotonic()
	removed := make(chan error, 1)
	go func() { removed <- tryWrite(p.control("present"), "0") }()
	poll(t, pollInterval, "the kernel to remove virtfn0", func() bool { return linkBase(p.path("virtfn0")) == "" })
	if r := n.kubelet.try(t, "allocate pod qat.intel.com/cy 16"); r.Error == "" {
		t.Errorf("all 16 VFs were allocated, among them %s, which is being removed", vf)
	} else {
		t.Logf("allocation refused: %s", r.Error)
	}
	t.Logf("uevents while the VF is held: %v", n.uevents.since(start))
	closeVF()
	if err := <-removed; err != nil {
		t.Error(err)
	}
	n.waitForVFs(t)
	write(t, p.control("present"), "1")
	p.enableVFs(t)
	n.waitForVFs(t, p)
}
