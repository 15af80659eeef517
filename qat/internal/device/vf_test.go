// SPDX-License-Identifier: Apache-2.0

package device

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
)

func TestReadVF(t *testing.T) {
	h := newHostWithVF(t, DriverVFIO)
	got := read(t, vfioReader(h), vfA1)
	pf, group := address(t, pfA), 1
	family, _ := FamilyOf(0x8086, 0x4941)
	want := &Function{
		Address:     address(t, vfA1),
		Dir:         filepath.Join(h.Sysfs(), "devices/pci0000:6b/"+vfA1),
		Family:      family,
		IsVF:        true,
		Incarnation: inode(t, h, vfA1, "."),
		Driver:      DriverVFIO,
		NUMANode:    1,
		PF:          &pf,
		Group:       &group,
		Node:        Node{Name: "vfio/1"},

		registration: inode(t, h, vfA1, "vfio-dev"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Function (-want +got):\n%s", diff)
	}
}

func TestReadVFInGuest(t *testing.T) {
	h := newHost(t)
	must(t, h.AddVF(lookalike.VF{Address: guestVF, DeviceID: "4945", NUMANode: -1}))
	must(t, h.Bind(guestVF, DriverVFIO))
	f := read(t, vfioReader(h), guestVF)
	if f.PF != nil || f.NUMANode != -1 || f.Family.Name != "402xx" || !f.IsVF || f.Node.Missing != "" {
		t.Errorf("Function = %+v, want a usable VF of a 402xx without a PF or a NUMA node", f)
	}
}

func TestUnreadableNUMANodeIsUnknown(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, h *lookalike.Host){
		"missing":      func(t *testing.T, h *lookalike.Host) { must(t, h.RemoveAttr(vfA1, "numa_node")) },
		"not a number": func(t *testing.T, h *lookalike.Host) { must(t, h.SetAttr(vfA1, "numa_node", "none")) },
		"below -1":     func(t *testing.T, h *lookalike.Host) { must(t, h.SetAttr(vfA1, "numa_node", "-2")) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostWithVF(t, "")
			do(t, h)
			if got := read(t, vfioReader(h), vfA1).NUMANode; got != -1 {
				t.Errorf("NUMA node %d, want -1", got)
			}
		})
	}
	h := newHostWithVF(t, "")
	must(t, h.SetAttr(vfA1, "numa_node", "0"))
	if got := read(t, vfioReader(h), vfA1).NUMANode; got != 0 {
		t.Errorf("NUMA node %d, want 0", got)
	}
}

const releasing = "it is being removed or unbound"

func TestNode(t *testing.T) {
	rm := func(path string) func(t *testing.T, h *lookalike.Host) {
		return func(t *testing.T, h *lookalike.Host) {
			t.Helper()
			if _, err := os.Lstat(filepath.Join(h.Dir(), path)); err != nil {
				t.Fatal(err)
			}
			must(t, os.RemoveAll(filepath.Join(h.Dir(), path)))
		}
	}
	unbound := func(change func(t *testing.T, h *lookalike.Host)) func(t *testing.T, h *lookalike.Host) {
		return func(t *testing.T, h *lookalike.Host) { // as while a workload holds the VF open
			rm("sys/bus/pci/devices/"+vfA1+"/driver")(t, h)
			rm("sys/bus/pci/devices/"+vfA1+"/vfio-dev")(t, h)
			if change != nil {
				change(t, h)
			}
		}
	}
	tests := map[string]struct {
		bound  string // the driver that holds the VF
		driver string // the DPDK driver; "" is vfio-pci
		opts   []lookalike.Option
		do     func(t *testing.T, h *lookalike.Host)
		want   Node
	}{
		"vfio-pci":             {bound: DriverVFIO, want: Node{Name: "vfio/1"}},
		"qat_vfio_pci":         {bound: driverQATVFIO, want: Node{Name: "vfio/1"}},
		"no driver":            {want: Node{}},
		"kernel driver":        {bound: "4xxxvf", want: Node{}},
		"vfio-pci for igb_uio": {bound: DriverVFIO, driver: DriverIGBUIO, want: Node{}},
		"igb_uio for vfio-pci": {bound: DriverIGBUIO, want: Node{}},
		"group node missing": {
			bound: DriverVFIO, do: rm("dev/vfio/1"),
			want: Node{Name: "vfio/1", Missing: "/dev/vfio/1 does not exist"},
		},
		"noiommu": {
			bound: DriverVFIO, opts: []lookalike.Option{lookalike.WithoutIOMMU()},
			want: Node{Name: "vfio/noiommu-0"},
		},
		"IOMMU group with a name": {
			bound: DriverVFIO, do: func(t *testing.T, h *lookalike.Host) {
				must(t, os.WriteFile(filepath.Join(h.Path(vfA1), "iommu_group/name"), []byte("other\n"), 0o644))
			},
			want: Node{Name: "vfio/1"},
		},
		"noiommu node missing": {
			bound: DriverVFIO, opts: []lookalike.Option{lookalike.WithoutIOMMU()}, do: rm("dev/vfio/noiommu-0"),
			want: Node{Name: "vfio/noiommu-0", Missing: "/dev/vfio/noiommu-0 does not exist"},
		},
		"no IOMMU group": {
			bound: DriverVFIO, do: rm("sys/bus/pci/devices/" + vfA1 + "/iommu_group"),
			want: Node{Missing: NoIOMMUGroup},
		},
		"no IOMMU group and no driver": {
			do: rm("sys/bus/pci/devices/" + vfA1 + "/iommu_group"), want: Node{},
		},
		"vfio-dev missing": {
			bound: DriverVFIO, do: rm("sys/bus/pci/devices/" + vfA1 + "/vfio-dev"),
			want: Node{
				Name:      "vfio/1",
				Missing:   "its driver has not registered a VFIO device: it is being bound or unbound",
				Releasing: true,
			},
		},
		"kernel without vfio-dev": {
			bound: DriverVFIO, do: func(t *testing.T, h *lookalike.Host) {
				rm("sys/bus/pci/devices/"+vfA1+"/vfio-dev")(t, h)
				rm("sys/class/vfio-dev")(t, h)
			},
			want: Node{Name: "vfio/1"},
		},
		"held while unbound": {
			bound: DriverVFIO, do: unbound(nil),
			want: Node{Name: "vfio/1", Missing: releasing, Releasing: true},
		},
		"held while unbound, without an IOMMU": {
			bound: DriverVFIO, opts: []lookalike.Option{lookalike.WithoutIOMMU()}, do: unbound(nil),
			want: Node{Name: "vfio/noiommu-0", Missing: releasing, Releasing: true},
		},
		"held, for igb_uio": {bound: DriverVFIO, driver: DriverIGBUIO, do: unbound(nil), want: Node{}},
		"unbound and released": {
			bound: DriverVFIO, do: unbound(rm("dev/vfio/1")), want: Node{},
		},
		"unbound in a shared group": { // the node may belong to the other function
			bound: DriverVFIO, do: unbound(func(t *testing.T, h *lookalike.Host) {
				must(t, os.Symlink("../x", filepath.Join(h.Path(vfA1), "iommu_group/devices", pfA)))
			}),
			want: Node{},
		},
		"unbound in an unreadable group": {
			bound: DriverVFIO, do: unbound(func(t *testing.T, h *lookalike.Host) {
				must(t, os.RemoveAll(filepath.Join(h.Path(vfA1), "iommu_group/devices")))
			}),
			want: Node{},
		},
		"bound in a shared group": {
			bound: DriverVFIO, do: func(t *testing.T, h *lookalike.Host) {
				must(t, os.Symlink("../x", filepath.Join(h.Path(vfA1), "iommu_group/devices", pfA)))
			},
			want: Node{Name: "vfio/1"},
		},
		"igb_uio": {bound: DriverIGBUIO, driver: DriverIGBUIO, want: Node{Name: "uio0"}},
		"uio node missing": {
			bound: DriverIGBUIO, driver: DriverIGBUIO, do: rm("dev/uio0"),
			want: Node{Name: "uio0", Missing: "/dev/uio0 does not exist"},
		},
		"uio device missing": {
			bound: DriverIGBUIO, driver: DriverIGBUIO, do: rm("sys/bus/pci/devices/" + vfA1 + "/uio"),
			want: Node{Missing: "its driver has not registered a UIO device"},
		},
		"igb_uio without an IOMMU": {
			bound: DriverIGBUIO, driver: DriverIGBUIO, opts: []lookalike.Option{lookalike.WithoutIOMMU()},
			want: Node{Name: "uio0"},
		},
		"no driver, for igb_uio": {driver: DriverIGBUIO, want: Node{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHostWithVF(t, test.bound, test.opts...)
			if test.do != nil {
				test.do(t, h)
			}
			if test.driver == "" {
				test.driver = DriverVFIO
			}
			got := read(t, newReader(h, test.driver, InterfaceAuto), vfA1).Node
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Node (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVFIOInterface(t *testing.T) {
	const cdev = "vfio/devices/vfio0"
	const needs = ": the kernel needs CONFIG_VFIO_DEVICE_CDEV and CONFIG_IOMMUFD"
	noGroup := Node{Name: "vfio/1", Missing: "/dev/vfio/1 does not exist"}
	tests := map[string]struct {
		vfioInterface string
		missing       []string // of vfio/1, vfio/devices/vfio0, iommu
		want          Node
	}{
		"auto prefers the group":       {InterfaceAuto, nil, Node{Name: "vfio/1"}},
		"auto without a group":         {InterfaceAuto, []string{"vfio/1"}, Node{Name: cdev}},
		"auto without a cdev":          {InterfaceAuto, []string{cdev, "iommu"}, Node{Name: "vfio/1"}},
		"auto without either":          {InterfaceAuto, []string{"vfio/1", cdev}, noGroup},
		"auto without group and iommu": {InterfaceAuto, []string{"vfio/1", "iommu"}, noGroup},
		"group":                        {InterfaceGroup, nil, Node{Name: "vfio/1"}},
		"group without a group":        {InterfaceGroup, []string{"vfio/1"}, noGroup},
		"cdev":                         {InterfaceCdev, nil, Node{Name: cdev}},
		"cdev without a group":         {InterfaceCdev, []string{"vfio/1"}, Node{Name: cdev}},
		"cdev without a cdev": {
			InterfaceCdev, []string{cdev},
			Node{Name: cdev, Missing: "/dev/" + cdev + " does not exist" + needs},
		},
		"cdev without iommu": {
			InterfaceCdev, []string{"iommu"},
			Node{Name: cdev, Missing: "/dev/iommu does not exist" + needs},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHostWithVF(t, DriverVFIO, lookalike.WithIOMMUFD())
			must(t, os.WriteFile(filepath.Join(h.Dev(), "iommu"), nil, 0o644))
			for _, name := range test.missing {
				must(t, os.Remove(filepath.Join(h.Dev(), name)))
			}
			got := read(t, newReader(h, DriverVFIO, test.vfioInterface), vfA1).Node
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Node (-want +got):\n%s", diff)
			}
			if want := strings.HasPrefix(test.want.Name, "vfio/devices/"); got.IsCdev() != want {
				t.Errorf("IsCdev() = %v of node %q, want %v", got.IsCdev(), got.Name, want)
			}
		})
	}
}

func TestCdevWithoutVFIODevice(t *testing.T) {
	h := newHostWithVF(t, DriverVFIO, lookalike.WithIOMMUFD())
	r := newReader(h, DriverVFIO, InterfaceCdev)
	want := Node{Missing: "its driver has not registered a VFIO device"}
	replaceByDir(t, filepath.Join(h.Path(vfA1), "vfio-dev"))
	if got := read(t, r, vfA1).Node; got != want {
		t.Errorf("empty vfio-dev: node %+v, want %+v", got, want)
	}
	must(t, os.Remove(filepath.Join(h.Path(vfA1), "vfio-dev")))
	if got := read(t, r, vfA1).Node; got != want {
		t.Errorf("no vfio-dev: node %+v, want %+v", got, want)
	}
	replaceByFile(t, filepath.Join(h.Path(vfA1), "vfio-dev"))
	must(t, os.Remove(filepath.Join(h.Dev(), "vfio/1")))
	for _, r := range []*Reader{r, vfioReader(h)} { // cdev, and auto without the group's node
		if f, err := r.Read(address(t, vfA1)); err == nil || f.Node != (Node{}) {
			t.Errorf("vfio-dev that is a file: %+v, %v; want an error", f, err)
		}
	}
}

func TestNodeIsTheFirstOfSeveral(t *testing.T) {
	h := newHostWithVF(t, DriverVFIO, lookalike.WithIOMMUFD())
	must(t, os.WriteFile(filepath.Join(h.Dev(), "iommu"), nil, 0o644))
	for i := range 9 {
		must(t, os.Mkdir(filepath.Join(h.Path(vfA1), "vfio-dev/vfio"+strconv.Itoa(9-i)), 0o755))
	}
	if got := read(t, newReader(h, DriverVFIO, InterfaceCdev), vfA1).Node; got != (Node{Name: "vfio/devices/vfio0"}) {
		t.Errorf("node %+v, want vfio/devices/vfio0", got)
	}
	h = newHostWithVF(t, DriverIGBUIO)
	for i := range 9 {
		must(t, os.Mkdir(filepath.Join(h.Path(vfA1), "uio/uio"+strconv.Itoa(9-i)), 0o755))
	}
	if got := read(t, newReader(h, DriverIGBUIO, InterfaceAuto), vfA1).Node; got != (Node{Name: "uio0"}) {
		t.Errorf("node %+v, want uio0", got)
	}
}

func TestUnreadableUIODirectoryIsAnError(t *testing.T) {
	h := newHostWithVF(t, DriverIGBUIO)
	replaceByFile(t, filepath.Join(h.Path(vfA1), "uio"))
	f, err := newReader(h, DriverIGBUIO, InterfaceAuto).Read(address(t, vfA1))
	if err == nil || f.Node != (Node{}) || f.Driver != DriverIGBUIO {
		t.Errorf("Read = %+v, %v; want an error, and the rest", f, err)
	}
}

// A VF may lose its device while a workload holds it open. The kernel then sends the remove event
// of vfio-dev, and nothing else until the workload closes the VF.
func TestVFRemovedWhileHeldIsReleasing(t *testing.T) {
	h := newHostWithVF(t, DriverVFIO)
	f := read(t, vfioReader(h), vfA1)
	waiting := make(chan struct{})
	h.Uevents(func(message []byte) {
		if bytes.HasPrefix(message, []byte("remove@")) && bytes.Contains(message, []byte("/vfio-dev/")) {
			close(waiting)
		}
	})
	release := h.Hold(vfA1)
	removed := make(chan error, 1)
	go func() { removed <- h.RemoveVF(vfA1) }()
	<-waiting
	must(t, os.RemoveAll(filepath.Join(f.Dir, "vfio-dev"))) // the look-alike host removes it after the event
	got := read(t, vfioReader(h), vfA1)
	want := Node{Name: "vfio/" + strconv.Itoa(*f.Group), Missing: releasing, Releasing: true}
	if got.Node != want || got.Driver != "" || got.PF != nil {
		t.Errorf("Function = %+v; want no driver, no PF and node %+v", got, want)
	}
	release()
	must(t, <-removed)
	if f, err := vfioReader(h).Read(address(t, vfA1)); f != nil || err != nil {
		t.Errorf("Read after the removal = %+v, %v; want nil, nil", f, err)
	}
}

// The kernel adds physfn, then lets drivers take the VF. Whatever happens between two reads, a VF
// that is read as bound is read with its PF.
func TestBoundVFIsReadWithItsPF(t *testing.T) {
	h := newHostWithVF(t, "")
	physfn := filepath.Join(h.Path(vfA1), "physfn")
	target, err := os.Readlink(physfn)
	must(t, err)
	must(t, os.Remove(physfn))
	handle, err := openHooked(t, h, vfA1, func() {
		must(t, os.Symlink(target, physfn))
		must(t, h.Bind(vfA1, DriverVFIO))
	}, "driver", "physfn")
	must(t, err)
	defer handle.Close()
	f, err := handle.Read()
	must(t, err)
	if f.Driver != "" || f.PF == nil {
		t.Errorf("driver %q, PF %v; want that the driver is read first", f.Driver, f.PF)
	}
}

// A driver that takes the VF after the driver link was read makes the node of the group. The VF is
// not being released then.
func TestVFBoundDuringReadIsNotReleasing(t *testing.T) {
	h := newHostWithVF(t, "")
	handle, err := openHooked(t, h, vfA1, func() { must(t, h.Bind(vfA1, DriverVFIO)) }, "driver")
	must(t, err)
	defer handle.Close()
	f, err := handle.Read()
	must(t, err)
	if f.Driver != "" || f.Node != (Node{}) {
		t.Errorf("driver %q, node %+v; want neither", f.Driver, f.Node)
	}
}
