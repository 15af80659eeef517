// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The tests in this file check what the plugin relies on in the kernel and in the QAT driver. The
// plugin does not run.

func TestKernelUeventsOfVFCreationAndRemoval(t *testing.T) {
	p := loadPFs(t, "npf=1")[0]
	uevents := recordUevents(t)
	p.enableVFs(t)
	var want []string
	for _, vf := range p.vfs(t) {
		want = append(want, "add "+vf, "change "+vf)
	}
	want = append(want, "change "+p.address)
	if diff := cmp.Diff(want, actionsAndNames(uevents.take(t, 33))); diff != "" {
		t.Errorf("0 to 16 VFs (-want +got):\n%s", diff)
	}

	want = nil
	for _, vf := range p.vfs(t) {
		want = append(want, "remove "+vf)
	}
	p.disableVFs(t)
	if diff := cmp.Diff(want, actionsAndNames(uevents.take(t, 16))); diff != "" {
		t.Errorf("16 to 0 VFs, without a uevent of the PF (-want +got):\n%s", diff)
	}
}

func TestKernelSendsVFIOUeventsBeforeBindAndUnbind(t *testing.T) {
	p := loadPFs(t, "npf=1")[0]
	p.enableVFs(t)
	vf := p.vfs(t)[0]
	uevents := recordUevents(t)
	bindToVFIO(t, vf)
	got := uevents.take(t, 3)
	want := []string{"add vfio", "add vfio-dev", "bind pci vfio-pci"}
	if diff := cmp.Diff(want, actionsAndSubsystems(got)); diff != "" {
		t.Fatalf("bind (-want +got):\n%s", diff)
	}
	group := groupOf(vf)
	if got[0].path != "/devices/virtual/vfio/"+group || got[0].env["DEVNAME"] != "vfio/"+group {
		t.Errorf("uevent of the group has DEVPATH %s and DEVNAME %s", got[0].path, got[0].env["DEVNAME"])
	}
	if !strings.Contains(got[1].path, "/"+vf+"/vfio-dev/") {
		t.Errorf("uevent of the vfio-dev has DEVPATH %s, want one with the VF's address", got[1].path)
	}

	write(t, filepath.Join(pciDrivers, "vfio-pci/unbind"), vf)
	want = []string{"remove vfio-dev", "remove vfio", "unbind pci "}
	if diff := cmp.Diff(want, actionsAndSubsystems(uevents.take(t, 3))); diff != "" {
		t.Errorf("unbind (-want +got):\n%s", diff)
	}
}

func TestKernelUeventsOfPFHotplug(t *testing.T) {
	p := loadPFs(t, "npf=1")[0]
	uevents := recordUevents(t)
	write(t, p.control("present"), "0")
	write(t, p.control("present"), "1")
	want := []string{"unbind " + p.address, "remove " + p.address, "add " + p.address, "bind " + p.address}
	if diff := cmp.Diff(want, actionsAndNames(uevents.take(t, 4))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Linux 6.12 sends remove of the vfio-dev at once, Linux 6.1 only when the VF is closed. Until then
// only the missing links to the PF and to the driver show that the VF is being removed
// (drivers/vfio/vfio_main.c, vfio_unregister_group_dev; drivers/pci/iov.c, pci_iov_remove_virtfn;
// drivers/base/dd.c, __device_release_driver).
func TestKernelKeepsHeldVFUntilItIsClosed(t *testing.T) {
	p := loadPFs(t, "npf=1")[0]
	p.enableVFs(t)
	vf := p.vfs(t)[0]
	bindToVFIO(t, vf)
	closeVF := openVF(t, vf)
	uevents := recordUevents(t)
	removed := make(chan error, 1)
	go func() { removed <- tryWrite(p.control("present"), "0") }()
	poll(t, pollInterval, "the kernel to remove virtfn0", func() bool { return linkBase(p.path("virtfn0")) == "" })
	got := uevents.take(t, 0)
	t.Logf("uevents while the VF is held: %v", got)
	if len(got) > 1 || len(got) == 1 && actionsAndSubsystems(got)[0] != "remove vfio-dev" {
		t.Errorf("uevents while the VF is held: %v, want at most remove of the vfio-dev", got)
	}
	for link, want := range map[string]bool{"iommu_group": true, "physfn": false, "driver": false} {
		if got := linkBase(filepath.Join(pciDevices, vf, link)) != ""; got != want {
			t.Errorf("the held VF has the link %s: %v, want %v", link, got, want)
		}
	}
	closed := time.Now()
	closeVF()
	if err := <-removed; err != nil {
		t.Error(err)
	}
	t.Logf("the PF was gone %v after the VF was closed", time.Since(closed).Round(time.Millisecond))
	// remove of the vfio-dev and of the vfio group, unbind and remove of the VF; remove of the
	// other 15 VFs; unbind and remove of the PF.
	if got = append(got, uevents.take(t, 21-len(got))...); len(got) != 21 {
		t.Errorf("%d uevents in all, want 21: %v", len(got), got)
	}
}

func TestSysfsOfEachFamily(t *testing.T) {
	type facts struct {
		Driver, Device, VFDevice, VFDriver string
		VFs                                int
		NUMANode, Heartbeat                string
		HasQATGroup                        bool
	}
	for family, want := range map[string]facts{
		"4xxx":     {"4xxx", "0x4940", "4941", "", 16, "1", "0", true},
		"402xx":    {"4xxx", "0x4944", "4945", "", 16, "1", "0", true},
		"6xxx":     {"6xxx", "0x4948", "4949", "", 16, "1", "0", true},
		"c6xx":     {"c6xx", "0x37c8", "37c9", "c6xxvf", 16, "1", "0", false},
		"dh895xcc": {"dh895xcc", "0x0435", "443", "dh895xccvf", 32, "1", "0", false},
		"c4xxx":    {"c4xxx", "0x18a0", "18a1", "c4xxxvf", 128, "1", "0", false},
	} {
		t.Run(family, func(t *testing.T) {
			p := loadPFs(t, "npf=1 numa=1 family="+family)[0]
			write(t, p.path("sriov_numvfs"), "1") // any number creates all VFs
			vfs := p.vfs(t)
			got := facts{
				Driver:      driverOf(p.address),
				Device:      read(t, p.path("device")),
				VFDevice:    read(t, p.path("sriov_vf_device")),
				VFs:         len(vfs),
				NUMANode:    read(t, p.path("numa_node")),
				Heartbeat:   read(t, p.heartbeat("status")),
				HasQATGroup: len(glob(t, p.path("qat"))) > 0,
			}
			if len(vfs) > 0 {
				got.VFDriver = driverOf(vfs[0])
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestKernelAndDriverRejectWrites(t *testing.T) {
	pfs := loadPFs(t, "npf=3 family=4xxx,6xxx,4xxx domains=0,0,1")
	gen4, gen6, noIOMMU := pfs[0], pfs[1], pciDevices+"/0001:75:00.0"
	gen4.enableVFs(t)
	write(t, gen6.path("qat/state"), "down")
	for _, test := range []struct {
		name, path, value string
		want              error
	}{
		{"another number of VFs", gen4.path("sriov_numvfs"), "8", unix.EBUSY},
		{"services while up", gen4.path("qat/cfg_services"), "dc", unix.EINVAL},
		{"idle power management while up", gen4.path("qat/pm_idle_enabled"), "0", unix.EINVAL},
		{"idle power management that is neither on nor off", gen6.path("qat/pm_idle_enabled"), "2", unix.EINVAL},
		{"automatic reset that is neither on nor off", gen4.path("qat/auto_reset"), "maybe", unix.EINVAL},
		{"unknown state", gen4.path("qat/state"), "sideways", unix.EINVAL},
		{"unknown service", gen6.path("qat/cfg_services"), "sym;tea", unix.EINVAL},
		{"duplicate service", gen6.path("qat/cfg_services"), "sym;sym", unix.EINVAL},
		{"dcc with another service", gen6.path("qat/cfg_services"), "dcc;sym", unix.EINVAL},
		{"four services", gen6.path("qat/cfg_services"), "sym;asym;dc;decomp", unix.EINVAL},
		{"VFs without an IOMMU", noIOMMU + "/sriov_numvfs", "16", unix.EINVAL},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := tryWrite(test.path, test.value); !errors.Is(err, test.want) {
				t.Errorf("write %q to %s: %v, want %v", test.value, test.path, err, test.want)
			}
		})
	}

	for _, busy := range []string{"in_use", "in_reset"} {
		write(t, gen4.control(busy), "1")
		for _, write := range [][2]string{{"qat/state", "down"}, {"qat/state", "up"}, {"sriov_numvfs", "0"}} {
			if err := tryWrite(gen4.path(write[0]), write[1]); !errors.Is(err, unix.EBUSY) {
				t.Errorf("write %q to %s with %s: %v, want %v", write[1], write[0], busy, err, unix.EBUSY)
			}
		}
		write(t, gen4.control(busy), "0")
	}
}

// The driver forgets what was written to qat/ with the PF, and so does the PCI core with
// sriov_drivers_autoprobe (drivers/pci/iov.c, sriov_init).
func TestDriverKeepsSettingsUntilPFIsRemoved(t *testing.T) {
	p := loadPFs(t, "npf=1")[0]
	type settings struct{ State, Services, AutoReset, PMIdle, Autoprobe string }
	check := func(after string, want settings) {
		t.Helper()
		got := settings{
			State:     read(t, p.path("qat/state")),
			Services:  read(t, p.path("qat/cfg_services")),
			AutoReset: read(t, p.path("qat/auto_reset")),
			PMIdle:    read(t, p.path("qat/pm_idle_enabled")),
			Autoprobe: read(t, p.path("sriov_drivers_autoprobe")),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", after, diff)
		}
	}
	defaults := settings{State: "up", Services: "asym;sym", AutoReset: "off", PMIdle: "1", Autoprobe: "1"}
	check("loading the driver", defaults)

	write(t, p.path("qat/auto_reset"), "on") // possible while the device is up
	write(t, p.path("sriov_drivers_autoprobe"), "0")
	write(t, p.path("qat/state"), "down")
	write(t, p.path("qat/cfg_services"), "dc")
	write(t, p.path("qat/pm_idle_enabled"), "0")
	changed := settings{State: "down", Services: "dc", AutoReset: "on", PMIdle: "0", Autoprobe: "0"}
	check("changing all settings", changed)

	// Any write to sriov_numvfs that changes the number starts the device.
	changed.State = "up"
	p.enableVFs(t)
	check("creating VFs", changed)
	p.disableVFs(t)
	check("removing VFs", changed)

	write(t, p.control("present"), "0")
	write(t, p.control("present"), "1")
	check("a hot-plug of the PF", defaults)
}

// pci_device_can_probe (drivers/pci/pci-driver.c) makes an exception for driver_override.
func TestKernelProbesNoNewVFWithoutAutoprobe(t *testing.T) {
	p := loadPFs(t, "npf=1 family=c6xx")[0]
	write(t, p.path("sriov_drivers_autoprobe"), "0")
	p.enableVFs(t)
	vfs := p.vfs(t)
	for _, vf := range vfs {
		if driver := driverOf(vf); driver != "" {
			t.Errorf("%s is bound to %s", vf, driver)
		}
	}
	for _, override := range []string{"", "c6xxvf"} {
		write(t, filepath.Join(pciDevices, vfs[0], "driver_override"), override+"\n")
		write(t, "/sys/bus/pci/drivers_probe", vfs[0])
		if got := driverOf(vfs[0]); got != override {
			t.Errorf("driver after a probe with driver_override %q: %q", override, got)
		}
	}
}

func TestDriverShowsServicesInFixedOrder(t *testing.T) {
	pfs := loadPFs(t, "npf=2 family=4xxx,6xxx")
	for _, p := range pfs {
		write(t, p.path("qat/state"), "down")
	}
	for _, test := range []struct {
		pf          *pf
		write, want string
	}{
		{pfs[0], "sym;asym", "asym;sym"},
		{pfs[0], "dc;sym", "sym;dc"},
		{pfs[0], "dcc", "dcc"},
		{pfs[1], "dc;sym;asym", "asym;sym;dc"},
		{pfs[1], "decomp;sym", "sym;decomp"},
	} {
		write(t, test.pf.path("qat/cfg_services"), test.write)
		if got := read(t, test.pf.path("qat/cfg_services")); got != test.want {
			t.Errorf("cfg_services after writing %q = %q, want %q", test.write, got, test.want)
		}
	}
	write(t, "/sys/module/qat_sim/parameters/services_as_written", "1")
	write(t, pfs[0].path("qat/cfg_services"), "sym;asym")
	if got := read(t, pfs[0].path("qat/cfg_services")); got != "sym;asym" {
		t.Errorf("cfg_services of an older driver = %q, want it as written", got)
	}
}

func TestReadingHeartbeatStatusPerformsCheck(t *testing.T) {
	p := loadPFs(t, "npf=1")[0]
	status := p.heartbeat("status")
	const wait = 250 * time.Millisecond // the driver checks at most once in 200 ms
	var got []string
	got = append(got, read(t, status))
	got = append(got, read(t, status))
	<-time.After(wait)
	got = append(got, read(t, status))
	write(t, p.control("hb_fail"), "1")
	<-time.After(wait)
	got = append(got, read(t, status))
	if diff := cmp.Diff([]string{"0", "-1", "0", "-1"}, got); diff != "" {
		t.Errorf("good, too soon, good, failed (-want +got):\n%s", diff)
	}
	write(t, p.path("qat/state"), "down")
	if found := glob(t, status); len(found) != 0 {
		t.Error("a PF that is down has a heartbeat directory")
	}
}

func TestDriverSendsNoUeventOfStateChange(t *testing.T) {
	p := loadPFs(t, "npf=1")[0]
	uevents := recordUevents(t)
	write(t, p.path("qat/state"), "down")
	write(t, p.path("qat/cfg_services"), "dc")
	write(t, p.path("qat/state"), "up")
	write(t, p.control("error_event"), "BEGIN_RECOVERY")
	got := uevents.take(t, 1)
	if len(got) != 1 || got[0].action != "change" || got[0].env["ERROR_EVENT"] != "BEGIN_RECOVERY" ||
		got[0].env["DEVICE_ONLINE"] != "0" {
		t.Errorf("uevents = %v, want only that of the error recovery", got)
	}
}

func TestVFIODenylistRejectsGen2VFs(t *testing.T) {
	p := loadPFs(t, "npf=1 family=c6xx vf_drivers=0")[0]
	p.enableVFs(t)
	vf := p.vfs(t)[3]
	bindToVFIO(t, vf)
	if driver := driverOf(vf); driver != "" {
		t.Errorf("bound to %s despite the denylist", driver)
	}
	reloadVFIO(t, "disable_denylist=1")
	write(t, "/sys/bus/pci/drivers_probe", vf)
	if driver := driverOf(vf); driver != "vfio-pci" {
		t.Errorf("driver without the denylist = %q, want vfio-pci", driver)
	}
}

// reloadVFIO reloads vfio-pci with the parameters, and without any when the test ends.
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

func TestEachVFHasItsOwnIOMMUGroup(t *testing.T) {
	p := loadPFs(t, "npf=1")[0]
	p.enableVFs(t)
	var want []string
	for _, vf := range p.vfs(t) {
		bindToVFIO(t, vf)
		want = append(want, groupOf(vf))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, vfioGroups(t)); diff != "" {
		t.Errorf("nodes in /dev/vfio (-want +got):\n%s", diff)
	}
	if n := len(slices.Compact(want)); n != 16 {
		t.Errorf("16 VFs have %d IOMMU groups", n)
	}
}
