// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

func TestAddressesAreInOrder(t *testing.T) {
	h := newHost(t)
	must(t, h.AddPF(lookalike.PF{Address: "0001:00:00.0"}))
	must(t, h.AddVF(lookalike.VF{Address: guestVF}))
	must(t, os.WriteFile(filepath.Join(h.Sysfs(), "bus/pci/devices/not-an-address"), nil, 0o644))
	got, err := vfioReader(h).Addresses()
	must(t, err)
	want := []pci.Address{address(t, guestVF), address(t, pfA), address(t, "0001:00:00.0")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Addresses (-want +got):\n%s", diff)
	}
	must(t, os.RemoveAll(filepath.Join(h.Sysfs(), "bus/pci/devices")))
	if got, err := vfioReader(h).Addresses(); !sysfs.IsAbsent(err) {
		t.Errorf("Addresses = %v, %v without bus/pci/devices; want an error", got, err)
	}
}

func TestExists(t *testing.T) {
	r := vfioReader(newHost(t))
	for a, want := range map[string]bool{pfA: true, pfB: false} {
		if got, err := r.Exists(address(t, a)); got != want || err != nil {
			t.Errorf("Exists(%s) = %v, %v; want %v", a, got, err, want)
		}
	}
}

func TestDrivers(t *testing.T) {
	h := newHost(t)
	for driver, bound := range map[string][]string{
		DriverVFIO:   {"vfio-pci", "qat_vfio_pci"},
		DriverIGBUIO: {"igb_uio"},
	} {
		r := newReader(h, driver, InterfaceAuto)
		for _, name := range []string{"vfio-pci", "qat_vfio_pci", "igb_uio", "4xxxvf", ""} {
			if got, want := r.IsBound(name), slices.Contains(bound, name); got != want {
				t.Errorf("IsBound(%q) = %v where the driver is %s, want %v", name, got, driver, want)
			}
		}
	}
}

func TestDriverState(t *testing.T) {
	remove := func(path string) func(h *lookalike.Host) error {
		return func(h *lookalike.Host) error { return os.Remove(filepath.Join(h.Sysfs(), path)) }
	}
	noiommu := func(h *lookalike.Host) error { return h.SetParameter("vfio", "enable_unsafe_noiommu_mode", "Y") }
	for name, tt := range map[string]struct {
		driver     string
		load       string
		parameters []string
		do         func(h *lookalike.Host) error
		want       DriverState
	}{
		"not loaded": {driver: DriverVFIO, load: DriverIGBUIO},
		"vfio-pci": {
			driver: DriverVFIO, load: DriverVFIO,
			want: DriverState{Loaded: true, Denylist: true, NeedsGroup: true},
		},
		"without its denylist": {
			driver: DriverVFIO, load: DriverVFIO, parameters: []string{"disable_denylist=1"},
			want: DriverState{Loaded: true, NeedsGroup: true},
		},
		"before Linux 5.9": {
			driver: DriverVFIO, load: DriverVFIO, do: remove(disableDenylist),
			want: DriverState{Loaded: true, NeedsGroup: true},
		},
		"in noiommu mode": {
			driver: DriverVFIO, load: DriverVFIO, do: noiommu,
			want: DriverState{Loaded: true, Denylist: true},
		},
		"built without noiommu mode": {
			driver: DriverVFIO, load: DriverVFIO, do: remove(noIOMMUMode),
			want: DriverState{Loaded: true, Denylist: true, NeedsGroup: true},
		},
		"igb_uio": {driver: DriverIGBUIO, load: DriverIGBUIO, want: DriverState{Loaded: true}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := lookalike.MkdirTemp()
			must(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			h, err := lookalike.New(dir)
			must(t, err)
			must(t, h.LoadDriver(tt.load, tt.parameters...))
			if tt.do != nil {
				must(t, tt.do(h))
			}
			if got := newReader(h, tt.driver, InterfaceAuto).DriverState(); got != tt.want {
				t.Errorf("DriverState = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestParametersOfLoadedVFIOAreWatchedByIncarnation(t *testing.T) {
	h := newHost(t)
	parameters := filepath.Join(h.Sysfs(), "module/vfio/parameters")
	n, err := sysfs.Inode(parameters)
	must(t, err)
	want := Watch{Dir: parameters, Incarnation: n}
	if got := vfioReader(h).HostWatches(); !slices.Contains(got, want) {
		t.Errorf("HostWatches = %v, want %v among them", got, want)
	}
}

func TestGroupMembers(t *testing.T) {
	h := newHostWithVF(t, "")
	must(t, h.AddVF(lookalike.VF{Address: "0000:6b:00.3", PF: pfA, GroupOf: vfA1}))
	must(t, h.AddVF(lookalike.VF{Address: "0000:6b:00.2", PF: pfA, GroupOf: vfA1}))
	r := vfioReader(h)
	group := *read(t, r, vfA1).Group
	want := []pci.Address{address(t, vfA1), address(t, "0000:6b:00.2"), address(t, "0000:6b:00.3")}
	if got, err := r.GroupMembers(group); err != nil || !slices.Equal(got, want) {
		t.Errorf("GroupMembers = %v, %v; want %v", got, err, want)
	}
	if got, err := r.GroupMembers(999); err != nil || len(got) > 0 {
		t.Errorf("GroupMembers of a group that does not exist = %v, %v; want none", got, err)
	}
	replaceByFile(t, filepath.Join(h.Sysfs(), "kernel/iommu_groups", strconv.Itoa(group), "devices"))
	if got, err := r.GroupMembers(group); err == nil {
		t.Errorf("GroupMembers of an unreadable group = %v, want an error", got)
	}
}

func TestDriverOfAnyFunction(t *testing.T) {
	h := newHost(t)
	must(t, h.AddPF(lookalike.PF{Address: pfB, DeviceID: "1572", VFDeviceID: "154c", Driver: "i40e"}))
	r := vfioReader(h)
	for a, want := range map[string]string{pfA: "4xxx", pfB: "i40e", "0000:ff:00.0": ""} {
		if got, err := r.Driver(address(t, a)); got != want || err != nil {
			t.Errorf("Driver(%s) = %q, %v; want %q", a, got, err, want)
		}
	}
	must(t, h.Unbind(pfB))
	if got, err := r.Driver(address(t, pfB)); got != "" || err != nil {
		t.Errorf("Driver of an unbound function = %q, %v; want none", got, err)
	}
}

func TestHostWatches(t *testing.T) {
	pciWatches := []string{"/s/bus/pci/devices", "/s/bus/pci/drivers", "/s/kernel/debug"}
	const parameters = "/s/module/vfio/parameters"
	tests := map[string]struct {
		driver, vfioInterface string
		want                  []string
	}{
		"vfio-pci, auto":  {DriverVFIO, InterfaceAuto, []string{parameters, "/d/vfio", "/d/vfio/devices", "/d"}},
		"vfio-pci, cdev":  {DriverVFIO, InterfaceCdev, []string{parameters, "/d/vfio", "/d/vfio/devices", "/d"}},
		"vfio-pci, group": {DriverVFIO, InterfaceGroup, []string{parameters, "/d/vfio"}},
		"igb_uio":         {DriverIGBUIO, InterfaceAuto, []string{"/d"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := NewReader(Config{Sysfs: "/s", Dev: "/d", Driver: test.driver, Interface: test.vfioInterface})
			var want []Watch
			for _, dir := range slices.Concat(pciWatches, test.want) {
				want = append(want, Watch{Dir: dir})
			}
			if diff := cmp.Diff(want, r.HostWatches()); diff != "" {
				t.Errorf("HostWatches (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOpenFindsQATFunctionsOnly(t *testing.T) {
	h := newHost(t)
	must(t, h.AddPF(lookalike.PF{
		Address:    pfB,
		DeviceID:   "1572",
		VFDeviceID: "154c",
		Driver:     lookalike.NoDriver,
	}))
	r := vfioReader(h)
	check := func(a, what string) {
		t.Helper()
		if handle, err := r.Open(address(t, a), nil); handle != nil || err != nil {
			t.Errorf("Open of %s = %v, %v; want nil, nil", what, handle, err)
		}
		if f, err := r.Read(address(t, a)); f != nil || err != nil {
			t.Errorf("Read of %s = %v, %v; want nil, nil", what, f, err)
		}
	}
	check("0000:ff:00.0", "an address without a function")
	check(pfB, "another device of Intel's")
	must(t, h.SetAttr(pfA, "vendor", "0x1af4"))
	must(t, h.RemoveAttr(pfA, "device")) // need not be read
	check(pfA, "a device of another vendor")
}

func TestOpenReportsWhatItCannotRead(t *testing.T) {
	tests := map[string]struct {
		do   func(t *testing.T, h *lookalike.Host)
		want string // part of the error
	}{
		"vendor that is not hexadecimal": {
			func(t *testing.T, h *lookalike.Host) { must(t, h.SetAttr(pfA, "vendor", "garbage")) },
			pfA + `/vendor: "garbage" is not a PCI ID`,
		},
		"device of more than 16 bits": {
			func(t *testing.T, h *lookalike.Host) { must(t, h.SetAttr(pfA, "device", "0x14940")) },
			pfA + `/device: "0x14940" is not a PCI ID`,
		},
		"unreadable vendor": {
			func(t *testing.T, h *lookalike.Host) { replaceByDir(t, filepath.Join(h.Path(pfA), "vendor")) },
			pfA + "/vendor: is a directory",
		},
		"missing device": {
			func(t *testing.T, h *lookalike.Host) { must(t, h.RemoveAttr(pfA, "device")) },
			pfA + "/device: no such file",
		},
		"entry that is a file": {
			func(t *testing.T, h *lookalike.Host) { replaceByFile(t, h.Path(pfA)) },
			pfA + ": not a directory",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			test.do(t, h)
			r := vfioReader(h)
			handle, err := r.Open(address(t, pfA), nil)
			if handle != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open = %v, %v; want nil, and an error with %q", handle, err, test.want)
			}
			if f, err := r.Read(address(t, pfA)); f != nil || err == nil {
				t.Errorf("Read = %v, %v; want nil and an error", f, err)
			}
		})
	}
}

func TestReadReturnsWhatItCouldReadWithTheError(t *testing.T) {
	pf := func(want Function) Function { // what is read of a PF in any case
		want.Family, _ = FamilyOf(0x8086, 0x4940)
		return want
	}
	vf := func(want Function) Function {
		want.Family, want.IsVF = FamilyOf(0x8086, 0x4941)
		return want
	}
	a, one := address(t, pfA), 1
	vfs := []pci.Address{address(t, vfA1)}
	tests := map[string]struct {
		function, entry string
		replace         func(t testing.TB, path string)
		want            Function // Address, Dir, Debugfs and Incarnation are those of the host
		err             error
	}{
		"driver link": {
			pfA, "driver", replaceByFile,
			pf(Function{NUMANode: -1}), unix.EINVAL,
		},
		"virtfn link": {
			pfA, "virtfn0", replaceByFile,
			pf(Function{NUMANode: 1, Driver: "4xxx", Resource: Generic}), unix.EINVAL,
		},
		"state": {
			pfA, "qat/state", replaceByDir,
			pf(Function{NUMANode: 1, Driver: "4xxx", Resource: Generic, VFs: vfs}), unix.EISDIR,
		},
		"services": {
			pfA, "qat/cfg_services", replaceByDir,
			pf(Function{NUMANode: 1, Driver: "4xxx", Resource: Generic, VFs: vfs, State: "up"}), unix.EISDIR,
		},
		"physfn link": {
			vfA1, "physfn", replaceByFile,
			vf(Function{NUMANode: 1, Driver: DriverVFIO}), unix.EINVAL,
		},
		"iommu_group link": {
			vfA1, "iommu_group", replaceByFile,
			vf(Function{NUMANode: 1, Driver: DriverVFIO, PF: &a}), unix.EINVAL,
		},
		"vfio-dev": {
			vfA1, "vfio-dev", replaceByLoop,
			vf(Function{NUMANode: 1, Driver: DriverVFIO, PF: &a, Group: &one}), unix.ELOOP,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHostWithVF(t, DriverVFIO)
			want := &test.want
			whole := read(t, vfioReader(h), test.function)
			want.Address, want.Incarnation = whole.Address, whole.Incarnation
			want.Dir, want.Debugfs = whole.Dir, whole.Debugfs
			test.replace(t, filepath.Join(h.Path(test.function), test.entry))
			f, err := vfioReader(h).Read(address(t, test.function))
			if !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.function+"/"+test.entry) {
				t.Errorf("Read: %v, want %v, and the name of the file", err, test.err)
			}
			if diff := cmp.Diff(want, f); diff != "" {
				t.Errorf("Function (-want +got):\n%s", diff)
			}
		})
	}
}

// A caller must be able to tell that a reading is incomplete for a reason that will pass.
func TestEachTransientErrorIsReported(t *testing.T) {
	for name, test := range map[string]struct{ function, driver, reader, vfioInterface string }{
		"PF":           {pfA, DriverVFIO, DriverVFIO, InterfaceAuto},
		"VF":           {vfA1, DriverVFIO, DriverVFIO, InterfaceAuto},
		"VF with cdev": {vfA1, DriverVFIO, DriverVFIO, InterfaceCdev},
		"VF with UIO":  {vfA1, DriverIGBUIO, DriverIGBUIO, InterfaceAuto},
		"unbound VF":   {vfA1, "", DriverVFIO, InterfaceAuto},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostWithVF(t, test.driver)
			if test.driver == "" { // the node that a workload holds open
				must(t, os.WriteFile(filepath.Join(h.Dev(), "vfio/1"), nil, 0o600))
			}
			r := newReader(h, test.reader, test.vfioInterface)
			a := address(t, test.function)
			for n := 1; ; n++ {
				dir := &failingDir{directory: openDir(t, h, test.function), countdown: n, err: unix.ENOMEM}
				handle, err := r.open(a, r.entry(a), dir, nil)
				if handle != nil {
					_, err = handle.Read()
					handle.Close()
				}
				if dir.countdown > 0 {
					break // it was read without the n-th operation
				}
				if !sysfs.IsTransient(err) {
					t.Errorf("operation %d failed with ENOMEM, and Read with %v", n, err)
				}
			}
		})
	}
}

// The kernel sends the remove event after the entry in bus/pci/devices is gone. The directory may
// still be there.
func TestFunctionWithoutEntryIsGone(t *testing.T) {
	h := newHostWithVF(t, DriverVFIO)
	r := vfioReader(h)
	handle, err := r.Open(address(t, vfA1), nil)
	must(t, err)
	defer handle.Close()
	must(t, os.Remove(h.Path(vfA1)))
	if f, err := handle.Read(); f != nil || err != nil {
		t.Errorf("Read = %v, %v without an entry in bus/pci/devices; want nil, nil", f, err)
	}
	if f, err := r.Read(address(t, vfA1)); f != nil || err != nil {
		t.Errorf("a new Read = %v, %v; want nil, nil", f, err)
	}
}

func TestFunctionCanGoWhileItIsRead(t *testing.T) {
	for name, test := range map[string]struct{ function, entry string }{
		"VF after its vendor":    {vfA1, "vendor"},
		"VF after its device ID": {vfA1, "device"},
		"VF after its driver":    {vfA1, "driver"},
		"VF after its PF":        {vfA1, "physfn"},
		"PF after its driver":    {pfA, "driver"},
		"PF after its state":     {pfA, "qat/state"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostWithVF(t, DriverVFIO)
			removed := false
			handle, err := openHooked(t, h, test.function, func() {
				removed = true
				if test.function == pfA {
					must(t, h.RemovePF(pfA))
				} else {
					must(t, h.RemoveVF(vfA1))
				}
			}, test.entry)
			var f *Function
			if handle != nil {
				defer handle.Close()
				f, err = handle.Read()
			}
			if f != nil || err != nil || !removed {
				t.Errorf("Function %+v, error %v, removed %v; want nil, nil, true", f, err, removed)
			}
		})
	}
}

func TestFunctionReplacedWhileItIsReadIsGone(t *testing.T) {
	h := newHostWithVF(t, DriverVFIO)
	handle, err := vfioReader(h).Open(address(t, vfA1), nil)
	must(t, err)
	defer handle.Close()
	real, err := filepath.EvalSymlinks(h.Path(vfA1))
	must(t, err)
	must(t, os.Rename(real, real+".gone")) // keeps its inode from being used again
	must(t, h.RemoveVF(vfA1))
	must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
	if f, err := handle.Read(); f != nil || err != nil {
		t.Errorf("Read = %+v, %v of a VF that another one replaced; want nil, nil", f, err)
	}
	if f := read(t, vfioReader(h), vfA1); f.Driver != "" || f.Incarnation != inode(t, h, vfA1, ".") {
		t.Errorf("a new Read = %+v, want the new VF", f)
	}
}

func TestReadSeesChangesAfterOpen(t *testing.T) {
	h := newHostWithVF(t, "")
	r := vfioReader(h)
	pf, err := r.Open(address(t, pfA), nil)
	must(t, err)
	defer pf.Close()
	vf, err := r.Open(address(t, vfA1), nil)
	must(t, err)
	defer vf.Close()
	must(t, h.SetAttr(pfA, "qat/cfg_services", "dc"))
	must(t, h.Bind(vfA1, DriverVFIO))
	if f, err := pf.Read(); err != nil || f.Resource != "dc" {
		t.Errorf("PF: %+v, %v; want resource dc", f, err)
	}
	if f, err := vf.Read(); err != nil || f.Driver != DriverVFIO || f.Node.Name == "" {
		t.Errorf("VF: %+v, %v; want that it is bound", f, err)
	}
}

func TestWatches(t *testing.T) {
	const debugA = "kernel/debug/qat_4xxx_" + pfA
	tests := map[string]struct {
		do       func(h *lookalike.Host) error
		function string
		want     []string // below the root of sysfs if it begins with kernel/, else below its directory
	}{
		"VF":               {nil, vfA1, []string{"."}},
		"PF with services": {nil, pfA, []string{".", debugA, "qat"}},
		"PF without a driver": {
			func(h *lookalike.Host) error { return h.Unbind(pfA) },
			pfA, []string{".", debugA},
		},
		"PF of Gen2": {
			func(h *lookalike.Host) error { return h.AddPF(lookalike.PF{Address: pfB, DeviceID: "37c8"}) },
			pfB, []string{"."},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHostWithVF(t, "")
			if test.do != nil {
				must(t, test.do(h))
			}
			handle, err := vfioReader(h).Open(address(t, test.function), nil)
			must(t, err)
			defer handle.Close()
			real, err := filepath.EvalSymlinks(h.Path(test.function))
			must(t, err)
			var want []Watch
			for _, name := range test.want {
				if strings.HasPrefix(name, "kernel/") {
					want = append(want, Watch{Dir: filepath.Join(h.Sysfs(), name)})
				} else {
					want = append(want, Watch{
						Dir:         filepath.Join(real, name),
						Incarnation: inode(t, h, test.function, name),
					})
				}
			}
			if diff := cmp.Diff(want, handle.Watches()); diff != "" {
				t.Errorf("Watches (-want +got):\n%s", diff)
			}
		})
	}
}

// noInodes is a directory whose entries have no inode numbers.
type noInodes struct{ directory }

func (d noInodes) Inode(name string) (uint64, error) {
	if name == "." {
		return d.directory.Inode(name)
	}
	return 0, unix.EIO
}

func TestReadFailsIfAWatchIsMissing(t *testing.T) {
	h := newHost(t)
	r := vfioReader(h)
	handle, err := r.open(address(t, pfA), r.entry(address(t, pfA)), noInodes{openDir(t, h, pfA)}, nil)
	must(t, err)
	defer handle.Close()
	if f, err := handle.Read(); f == nil || !errors.Is(err, unix.EIO) || len(handle.Watches()) != 2 {
		t.Errorf("Read = %+v, %v with watches %v; want EIO, as qat/ is not watched", f, err, handle.Watches())
	}
}

func TestEqual(t *testing.T) {
	h := newHostWithVF(t, DriverVFIO)
	a, b := read(t, vfioReader(h), vfA1), read(t, vfioReader(h), vfA1)
	if !a.Equal(b) || a == b || a.PF == b.PF {
		t.Error("two readings of an unchanged VF are not equal, or are not two")
	}
	must(t, h.Unbind(vfA1))
	if c := read(t, vfioReader(h), vfA1); a.Equal(c) {
		t.Error("readings of a VF before and after it is unbound are equal")
	}
	var none *Function
	if a.Equal(none) || none.Equal(a) || !none.Equal(nil) {
		t.Error("only nil equals nil")
	}
}

func TestReadClosesWhatItOpens(t *testing.T) {
	h := newHostWithVF(t, DriverVFIO)
	must(t, h.AddPF(lookalike.PF{Address: pfB}))
	must(t, h.SetAttr(pfB, "vendor", "garbage"))
	r := vfioReader(h)
	readAll := func() (descriptors int) {
		_, err := r.Addresses()
		must(t, err)
		read(t, r, pfA)
		read(t, r, vfA1)
		if _, err := r.Read(address(t, pfB)); err == nil {
			t.Error("no error for a vendor that is not hexadecimal")
		}
		names, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(names)
	}
	before := readAll()
	if after := readAll(); before != after {
		t.Errorf("%d open files, then %d; want the same", before, after)
	}
}

// readFiles is a directory that records which attributes are read.
type readFiles struct {
	directory
	names []string
}

func (d *readFiles) Read(name string) (string, error) {
	d.names = append(d.names, name)
	return d.directory.Read(name)
}

// What the kernel never changes of a function is read once for each incarnation of it.
func TestIdentityOfAKnownFunctionIsNotReadAgain(t *testing.T) {
	h := newHostWithVF(t, DriverVFIO)
	r := vfioReader(h)
	for a, constant := range map[string][]string{
		pfA:  {"vendor", "device"},
		vfA1: {"vendor", "device", "iommu_group/name"},
	} {
		whole := read(t, r, a)
		other := *whole
		other.Incarnation--
		for name, test := range map[string]struct {
			known *Function
			want  []string
		}{
			"nothing is known":      {nil, constant},
			"another had its place": {&other, constant},
			"known":                 {whole, nil},
		} {
			dir := &readFiles{directory: openDir(t, h, a)}
			handle, err := r.open(address(t, a), r.entry(address(t, a)), dir, test.known)
			must(t, err)
			f, err := handle.Read()
			must(t, err)
			handle.Close()
			var got []string
			for _, file := range dir.names {
				if slices.Contains(constant, file) {
					got = append(got, file)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s, %s: constant files that are read (-want +got):\n%s", a, name, diff)
			}
			if diff := cmp.Diff(whole, f); diff != "" {
				t.Errorf("%s, %s: Function (-want +got):\n%s", a, name, diff)
			}
		}
	}
}

// A VF that is bound again may be in another IOMMU group, or in none.
func TestNodeOfAnotherGroupIsReadAgain(t *testing.T) {
	h := newHostWithVF(t, DriverVFIO)
	r := vfioReader(h)
	known := *read(t, r, vfA1)
	group := *known.Group + 1
	known.Group, known.Node.Name = &group, "vfio/noiommu-"+strconv.Itoa(group)
	handle, err := r.Open(address(t, vfA1), &known)
	must(t, err)
	defer handle.Close()
	f, err := handle.Read()
	must(t, err)
	if want := read(t, r, vfA1); !f.Equal(want) {
		t.Errorf("Read = %+v, want %+v", f, want)
	}
}
