package e2e

import (
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestAServiceChangeMovesVFsToAnotherResource(t *testing.T) {
	n := newNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	write(t, a.path("sriov_numvfs"), "16")
	write(t, b.path("sriov_numvfs"), "16")
	n.settle(t, a, b)
	for _, services := range []string{"dc", "sym;dc", "asym;sym"} {
		write(t, a.path("qat/state"), "down")
		n.settle(t, b)
		write(t, a.path("qat/cfg_services"), services)
		write(t, a.path("qat/state"), "up")
		write(t, a.path("sriov_numvfs"), "16")
		n.settle(t, a, b)
		checkAllocation(t, n, "qat.intel.com/"+a.resource(t), 1)
	}
}

func TestADriverUnboundByHandIsBoundAgain(t *testing.T) {
	n := newNode(t, "npf=2")
	a, b := n.pfs[0], n.pfs[1]
	write(t, a.path("sriov_numvfs"), "16")
	n.settle(t, a)
	vf := a.vfs(t)[5]
	began := monotonic()
	write(t, filepath.Join(pciDrivers, "vfio-pci/unbind"), vf)
	waitFor(t, "the plugin to bind it again", func() bool { return base(filepath.Join(pciDevices, vf, "driver")) == "vfio-pci" })
	write(t, b.path("sriov_numvfs"), "16") // once these are listed, the events before them have been too
	n.settle(t, a, b)
	t.Logf("unbound and bound again: %v", n.events.since(began)[:6])
}

func TestAnObserverFollowsADriverUnboundByHand(t *testing.T) {
	n := newNode(t, "npf=1", "-bind=false")
	p := n.pfs[0]
	write(t, p.path("sriov_numvfs"), "16")
	for _, vf := range p.vfs(t) {
		bind(t, vf)
	}
	n.settle(t, p)
	vf := p.vfs(t)[5]
	for range 3 {
		write(t, filepath.Join(pciDrivers, "vfio-pci/unbind"), vf)
		want := vfList(t, "", p)
		want["qat.intel.com/cy"] = slices.DeleteFunc(want["qat.intel.com/cy"], func(device string) bool { return device == vf })
		n.await(t, want)
		write(t, filepath.Join(pciDrivers, "vfio-pci/bind"), vf)
		n.settle(t, p)
	}
}

func TestGen2VFsComeFromTheirKernelDriver(t *testing.T) {
	reloadVFIO(t, "disable_denylist=1")
	n := newNode(t, "npf=2 family=c6xx,4xxx")
	for _, p := range n.pfs {
		write(t, p.path("sriov_numvfs"), "16")
	}
	n.settle(t, n.pfs...)
	checkAllocation(t, n, "qat.intel.com/generic", 2)
}

func TestVFsThatVFIORefusesHideNoOthers(t *testing.T) {
	n := newNode(t, "npf=2 family=c6xx,4xxx")
	for _, p := range n.pfs {
		write(t, p.path("sriov_numvfs"), "16")
	}
	n.settle(t, n.pfs[1])
	for _, vf := range n.pfs[0].vfs(t) {
		if driver := base(filepath.Join(pciDevices, vf, "driver")); driver == "vfio-pci" {
			t.Errorf("%s is bound in spite of the denylist", vf)
		}
	}
	// The cause goes: the driver is loaded anew, without the denylist.
	write(t, n.pfs[1].path("sriov_numvfs"), "0") // else the driver is in use
	n.settle(t)
	reloadVFIO(t, "disable_denylist=1")
	n.settle(t, n.pfs[0])
	write(t, n.pfs[0].path("sriov_numvfs"), "0") // before the driver is loaded with its denylist again
	n.settle(t)
}

// A workload holds a VF when its PF goes. The kernel waits for the workload; the VF must not be given to another meanwhile.
func TestAHeldVFIsNotGivenOutWhileItsPFGoes(t *testing.T) {
	n := newNode(t, "npf=1")
	p := n.pfs[0]
	write(t, p.path("sriov_numvfs"), "16")
	n.settle(t, p)
	vf := p.vfs(t)[0] // the kernel removes this one first, so the others wait behind it
	release := hold(t, vf)
	began := monotonic()
	gone := make(chan error, 1)
	go func() { gone <- tryWrite(p.control("present"), "0") }()
	waitFor(t, "the kernel to take away the link to the held VF", func() bool { return base(p.path("virtfn0")) == "" })
	if r := n.kubelet.try(t, "allocate greedy qat.intel.com/cy 16"); r.Error == "" {
		t.Errorf("all 16 VFs were allocated, the held %s of a removed PF among them", vf)
	} else {
		t.Logf("refused: %s", r.Error)
	}
	t.Logf("uevents while held: %v", n.events.since(began))
	release()
	if err := <-gone; err != nil {
		t.Error(err)
	}
	n.settle(t)
	write(t, p.control("present"), "1")
	write(t, p.path("sriov_numvfs"), "16")
	n.settle(t, p)
}

// waitFor waits for a change of the kernel's that no event tells.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !done(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}
