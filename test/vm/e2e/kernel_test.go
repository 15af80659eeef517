package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The tests of this file hold what the plugin's design relies on in the kernel itself: no program of ours runs.

func TestKernelTellsOfEachNewVFTwiceAndOfThePFLast(t *testing.T) {
	p := newHost(t, "npf=1")[0]
	events := listen(t)
	write(t, p.path("sriov_numvfs"), "16")
	var want []string
	for _, vf := range p.vfs(t) {
		want = append(want, "add "+vf, "change "+vf)
	}
	want = append(want, "change "+p.address)
	if diff := cmp.Diff(want, words(events.take(t, 33))); diff != "" {
		t.Errorf("0 to 16 (-want +got):\n%s", diff)
	}

	want = nil
	for _, vf := range p.vfs(t) {
		want = append(want, "remove "+vf)
	}
	write(t, p.path("sriov_numvfs"), "0")
	if diff := cmp.Diff(want, words(events.take(t, 16))); diff != "" {
		t.Errorf("16 to 0, with no event of the PF (-want +got):\n%s", diff)
	}
}

func TestKernelTellsOfVFIOBeforeItTellsOfTheBinding(t *testing.T) {
	p := newHost(t, "npf=1")[0]
	write(t, p.path("sriov_numvfs"), "16")
	vf := p.vfs(t)[0]
	events := listen(t)
	bind(t, vf)
	got := events.take(t, 3)
	group := base(filepath.Join(pciDevices, vf, "iommu_group"))
	want := []string{"add vfio", "add vfio-dev", "bind pci vfio-pci"}
	if diff := cmp.Diff(want, subsystems(got)); diff != "" {
		t.Fatalf("bind (-want +got):\n%s", diff)
	}
	if got[0].path != "/devices/virtual/vfio/"+group || got[0].env["DEVNAME"] != "vfio/"+group {
		t.Errorf("the group's event has DEVPATH %s and DEVNAME %s", got[0].path, got[0].env["DEVNAME"])
	}
	if !strings.Contains(got[1].path, "/"+vf+"/vfio-dev/") {
		t.Errorf("the vfio-dev's event has DEVPATH %s without the address", got[1].path)
	}

	write(t, filepath.Join(pciDrivers, "vfio-pci/unbind"), vf)
	got = events.take(t, 3)
	want = []string{"remove vfio-dev", "remove vfio", "unbind pci "}
	if diff := cmp.Diff(want, subsystems(got)); diff != "" {
		t.Errorf("unbind (-want +got):\n%s", diff)
	}
}

// subsystems writes each message as action, subsystem and, for a binding, driver.
func subsystems(events []uevent) []string {
	var out []string
	for _, e := range events {
		s := e.action + " " + e.env["SUBSYSTEM"]
		if strings.HasSuffix(e.action, "bind") {
			s += " " + e.env["DRIVER"]
		}
		out = append(out, s)
	}
	return out
}

func TestKernelTakesAPFAwayAndBringsItBack(t *testing.T) {
	p := newHost(t, "npf=1")[0]
	events := listen(t)
	write(t, p.control("present"), "0")
	write(t, p.control("present"), "1")
	want := []string{"unbind " + p.address, "remove " + p.address, "add " + p.address, "bind " + p.address}
	if diff := cmp.Diff(want, words(events.take(t, 4))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// 6.12 tells of the vfio-dev's end at once, 6.1 only when the holder lets go; until then nothing but its missing links to PF and
// driver shows that the VF is on its way out (drivers/vfio/vfio_main.c, vfio_unregister_group_dev; drivers/pci/iov.c,
// pci_iov_remove_virtfn; drivers/base/dd.c, __device_release_driver).
func TestKernelKeepsAHeldVFUntilItIsReleased(t *testing.T) {
	p := newHost(t, "npf=1")[0]
	write(t, p.path("sriov_numvfs"), "16")
	vf := p.vfs(t)[0]
	bind(t, vf)
	release := hold(t, vf)
	events := listen(t)
	gone := make(chan error, 1)
	go func() { gone <- tryWrite(p.control("present"), "0") }()
	waitFor(t, "virtfn0 to go", func() bool { return base(p.path("virtfn0")) == "" })
	got := events.take(t, 0)
	t.Logf("while held: %v", got)
	if len(got) > 1 || len(got) == 1 && subsystems(got)[0] != "remove vfio-dev" {
		t.Errorf("while held: %v, want the end of the vfio-dev at most", got)
	}
	for link, want := range map[string]bool{"iommu_group": true, "physfn": false, "driver": false} {
		if got := base(filepath.Join(pciDevices, vf, link)) != ""; got != want {
			t.Errorf("the held VF has its link %s: %v, want %v", link, got, want)
		}
	}
	released := time.Now()
	release()
	if err := <-gone; err != nil {
		t.Error(err)
	}
	t.Logf("the PF was gone %v after the release", time.Since(released).Round(time.Millisecond))
	// vfio-dev and vfio remove, unbind, remove of the VF; remove of the other 15; unbind and remove of the PF.
	if got = append(got, events.take(t, 21-len(got))...); len(got) != 21 {
		t.Errorf("in all: %v", got)
	}
}

func TestKernelShowsPFsOfEachFamily(t *testing.T) {
	for _, test := range []struct {
		family, driver, pf, vf string
		vfs                    int
		qat                    bool // has the group qat/
		vfDriver               string
	}{
		{"4xxx", "4xxx", "0x4940", "4941", 16, true, ""},
		{"402xx", "4xxx", "0x4944", "4945", 16, true, ""},
		{"6xxx", "6xxx", "0x4948", "4949", 16, true, ""},
		{"c6xx", "c6xx", "0x37c8", "37c9", 16, false, "c6xxvf"},
		{"dh895xcc", "dh895xcc", "0x0435", "443", 32, false, "dh895xccvf"},
		{"c4xxx", "c4xxx", "0x18a0", "18a1", 128, false, "c4xxxvf"},
	} {
		t.Run(test.family, func(t *testing.T) {
			p := newHost(t, "npf=1 numa=1 family="+test.family)[0]
			write(t, p.path("sriov_numvfs"), "1") // any number means all
			vfs := p.vfs(t)
			type facts struct {
				Driver, Device, VF, NUMA, VFDriver, Heartbeat string
				VFs, QAT                                      int
			}
			want := facts{test.driver, test.pf, test.vf, "1", test.vfDriver, "0", test.vfs, 0}
			if test.qat {
				want.QAT = 1
			}
			got := facts{
				Driver: base(p.path("driver")), Device: read(t, p.path("device")), VF: read(t, p.path("sriov_vf_device")), NUMA: read(t, p.path("numa_node")),
				Heartbeat: read(t, p.heartbeat(test.driver)), VFs: len(vfs), QAT: len(glob(t, p.path("qat"))),
			}
			if len(vfs) > 0 {
				got.VFDriver = base(filepath.Join(pciDevices, vfs[0], "driver"))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestKernelAndDriverRefuse(t *testing.T) {
	pfs := newHost(t, "npf=3 family=4xxx,6xxx,4xxx domains=0,0,1")
	gen4, gen6, bare := pfs[0], pfs[1], "/sys/bus/pci/devices/0001:75:00.0"
	write(t, gen4.path("sriov_numvfs"), "16")
	write(t, gen6.path("qat/state"), "down")
	for _, test := range []struct {
		name, path, value string
		want              error
	}{
		{"another number of VFs", gen4.path("sriov_numvfs"), "8", unix.EBUSY},
		{"services while up", gen4.path("qat/cfg_services"), "dc", unix.EINVAL},
		{"an unknown state", gen4.path("qat/state"), "sideways", unix.EINVAL},
		{"an unknown service", gen6.path("qat/cfg_services"), "sym;tea", unix.EINVAL},
		{"a service twice", gen6.path("qat/cfg_services"), "sym;sym", unix.EINVAL},
		{"dcc with another", gen6.path("qat/cfg_services"), "dcc;sym", unix.EINVAL},
		{"four services", gen6.path("qat/cfg_services"), "sym;asym;dc;decomp", unix.EINVAL},
		{"VFs without an IOMMU", bare + "/sriov_numvfs", "16", unix.EINVAL},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := tryWrite(test.path, test.value); !errors.Is(err, test.want) {
				t.Errorf("write %q to %s: %v, want %v", test.value, test.path, err, test.want)
			}
		})
	}

	for _, busy := range []string{"in_use", "in_reset"} {
		write(t, gen4.control(busy), "1")
		for file, value := range map[string]string{"qat/state": "down", "sriov_numvfs": "0"} {
			if err := tryWrite(gen4.path(file), value); file == "qat/state" && !errors.Is(err, unix.EBUSY) {
				t.Errorf("write %s to %s with %s: %v, want %v", value, file, busy, err, unix.EBUSY)
			}
		}
		write(t, gen4.control(busy), "0")
	}
}

func TestDriverKeepsServicesAsASet(t *testing.T) {
	pfs := newHost(t, "npf=2 family=4xxx,6xxx")
	for _, p := range pfs {
		write(t, p.path("qat/state"), "down")
	}
	for _, test := range []struct {
		pf          *pf
		write, read string
	}{
		{pfs[0], "sym;asym", "asym;sym"},
		{pfs[0], "dc;sym", "sym;dc"},
		{pfs[0], "dcc", "dcc"},
		{pfs[1], "dc;sym;asym", "asym;sym;dc"},
		{pfs[1], "decomp;sym", "sym;decomp"},
	} {
		write(t, test.pf.path("qat/cfg_services"), test.write)
		if got := read(t, test.pf.path("qat/cfg_services")); got != test.read {
			t.Errorf("wrote %q, read %q, want %q", test.write, got, test.read)
		}
	}
	write(t, "/sys/module/qat_sim/parameters/services_as_written", "1")
	write(t, pfs[0].path("qat/cfg_services"), "sym;asym")
	if got := read(t, pfs[0].path("qat/cfg_services")); got != "sym;asym" {
		t.Errorf("an older driver shows %q, want the words as written", got)
	}
}

func TestDriverChecksTheHeartbeatWhenItIsRead(t *testing.T) {
	p := newHost(t, "npf=1")[0]
	var got []string
	look := func() { got = append(got, read(t, p.heartbeat("4xxx"))) }
	look()
	look()
	<-time.After(250 * time.Millisecond) // what the test is about: 200 ms must pass
	look()
	write(t, p.control("hb_fail"), "1")
	<-time.After(250 * time.Millisecond)
	look()
	if diff := cmp.Diff([]string{"0", "-1", "0", "-1"}, got); diff != "" {
		t.Errorf("good, too soon, good, failing (-want +got):\n%s", diff)
	}
	write(t, p.path("qat/state"), "down")
	if found := glob(t, p.heartbeat("4xxx")); len(found) != 0 {
		t.Error("a device that is down has a heartbeat directory")
	}
}

func TestDriverSendsNoUeventOfItsState(t *testing.T) {
	p := newHost(t, "npf=1")[0]
	events := listen(t)
	write(t, p.path("qat/state"), "down")
	write(t, p.path("qat/cfg_services"), "dc")
	write(t, p.path("qat/state"), "up")
	write(t, p.control("error_event"), "BEGIN_RECOVERY")
	got := events.take(t, 1)
	if len(got) != 1 || got[0].action != "change" || got[0].env["ERROR_EVENT"] != "BEGIN_RECOVERY" || got[0].env["DEVICE_ONLINE"] != "0" {
		t.Errorf("got %v, want the recovery's event alone", got)
	}
}

func TestKernelRefusesGen2VFsToVFIO(t *testing.T) {
	p := newHost(t, "npf=1 family=c6xx vf_drivers=0")[0]
	write(t, p.path("sriov_numvfs"), "16")
	vf := p.vfs(t)[3]
	bind(t, vf)
	if driver := base(filepath.Join(pciDevices, vf, "driver")); driver != "" {
		t.Errorf("bound to %s in spite of the denylist", driver)
	}
	reloadVFIO(t, "disable_denylist=1")
	write(t, "/sys/bus/pci/drivers_probe", vf)
	if driver := base(filepath.Join(pciDevices, vf, "driver")); driver != "vfio-pci" {
		t.Errorf("driver %q, want vfio-pci with the denylist off", driver)
	}
}

// reloadVFIO loads vfio-pci with other parameters until the test ends, and then with none.
func reloadVFIO(t *testing.T, parameters string) {
	t.Helper()
	reload := func(parameters string) {
		if err := errors.Join(removeModule("vfio_pci"), insertModule("vfio_pci", parameters)); err != nil {
			t.Error(err)
		}
	}
	reload(parameters)
	t.Cleanup(func() { reload("") })
}

func TestKernelMakesOneGroupOfEachVF(t *testing.T) {
	p := newHost(t, "npf=1")[0]
	write(t, p.path("sriov_numvfs"), "16")
	var want []string
	for _, vf := range p.vfs(t) {
		bind(t, vf)
		want = append(want, base(filepath.Join(pciDevices, vf, "iommu_group")))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, groups(t)); diff != "" {
		t.Error(diff)
	}
	if n := len(slices.Compact(want)); n != 16 {
		t.Error(fmt.Sprint(n, " groups"))
	}
}
