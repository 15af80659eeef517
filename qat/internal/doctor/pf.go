// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/sysfs"
)

// checkSysfs checks that there are PCI functions, and that each of them can be read.
func checkSysfs(_ context.Context, f *facts) []status.Finding {
	dir := filepath.Join(f.host.Sysfs, "bus/pci/devices")
	if f.listErr != nil {
		return problem("mount the host's whole /sys at "+f.host.Sysfs+", or name its mount point with -sysfs-root",
			"the PCI functions cannot be listed: %v", f.listErr)
	}
	var findings []status.Finding
	for a, reason := range f.unread {
		findings = append(findings, warn("dmesg | grep "+a.String(), "%s: %s", a, reason)...)
	}
	slices.SortFunc(findings, func(a, b status.Finding) int { return strings.Compare(a.Found, b.Found) })
	if findings != nil {
		return findings
	}
	return ok("%d PCI functions in %s could be read", f.others+len(f.pfs)+len(f.vfs), dir)
}

// checkDevices checks that there are QAT devices.
func checkDevices(_ context.Context, f *facts) []status.Finding {
	dir := filepath.Join(f.host.Sysfs, "bus/pci/devices")
	switch {
	case len(f.pfs) > 0:
		var kinds []string
		selection(f.pfs).by(func(f *function) string { return f.Family.Name }, func(family string, pfs selection) {
			kinds = append(kinds, fmt.Sprintf("%s: %s", family, pfs))
		})
		return ok("PFs in %s: %s", dir, strings.Join(kinds, "; "))
	case len(f.vfs) > 0:
		return ok("VFs without a PF in %s, as in a guest: %s", dir, selection(f.vfs))
	case len(f.unread) > 0:
		return skip("not all PCI functions could be read: see sysfs")
	}
	return problem("enable QuickAssist in the firmware setup of the machine and look for it with: "+
		"lspci -nn | grep -i -E 'quickassist|co-processor'; in a guest, pass VFs through to it",
		"none of the %d PCI functions in %s is a known QAT device", f.others, dir)
}

// checkPFDriver checks that each PF has its driver.
func checkPFDriver(_ context.Context, f *facts) (findings []status.Finding) {
	if len(f.pfs) == 0 {
		return skip("there is no PF")
	}
	bare := choose(f.pfs, func(pf *function) bool { return pf.Driver == "" })
	noFirmware := choose(bare, func(pf *function) bool {
		missing, _ := f.missingFirmware(pf)
		return f.isLoaded(pf) && missing != nil
	})
	bare = choose(bare, func(pf *function) bool { return !slices.Contains(noFirmware, pf) })
	bare.by(func(pf *function) string { return pf.Family.PFDriver() }, func(driver string, pfs selection) {
		dir := filepath.Join(f.host.Sysfs, "bus/pci/drivers", driver)
		if !f.isLoaded(pfs[0]) {
			module := pfs[0].Family.PFModule()
			findings = append(findings, problem(
				fmt.Sprintf("modprobe %s; echo %[1]s > /etc/modules-load.d/%[1]s.conf", module),
				"%s: no driver, and %s does not exist: the module %s is not loaded", pfs, dir, module)...)
			return
		}
		findings = append(findings, problem(
			"see why the driver refuses the device, with: dmesg | grep "+pfs[0].Address.String()+
				"; then "+pfs.forEach("echo $a > /sys/bus/pci/drivers/"+driver+"/bind"),
			"%s: no driver, although %s exists", pfs, dir)...)
	})
	others := choose(f.pfs, func(pf *function) bool { return pf.Driver != "" && !pf.hasDriver() })
	others.by(func(pf *function) string { return pf.Driver + " instead of " + pf.Family.PFDriver() },
		func(drivers string, pfs selection) {
			findings = append(findings, problem(
				pfs.forEach("echo > /sys/bus/pci/devices/$a/driver_override; "+
					"echo $a > /sys/bus/pci/devices/$a/driver/unbind; echo $a > /sys/bus/pci/drivers_probe"),
				"%s: bound to %s (%s)", pfs, drivers, f.path(pfs[0].Address, "driver"))...)
		})
	switch {
	case findings != nil:
		return findings
	case len(noFirmware) > 0:
		return skip("%s: no driver, because the firmware is missing: see firmware", noFirmware)
	}
	var bound []string
	selection(f.pfs).by(func(pf *function) string { return pf.Driver }, func(driver string, pfs selection) {
		bound = append(bound, fmt.Sprintf("%s: %s", driver, pfs))
	})
	return ok("bound to %s", strings.Join(bound, "; "))
}

// checkFirmware checks that the firmware files exist of each PF that is not up. The driver loads
// them when it brings a PF up. If it fails, so does its probe, and the PF has no driver
// (drivers/crypto/intel/qat/qat_4xxx/adf_drv.c, adf_probe).
func checkFirmware(_ context.Context, f *facts) (findings []status.Finding) {
	idle := choose(f.pfs, func(pf *function) bool {
		return pf.Driver == "" && f.isLoaded(pf) || pf.hasDriver() && pf.IsDown()
	})
	unknown := ""
	idle.by(func(pf *function) string { return strings.Join(pf.Family.Firmware(), ", ") },
		func(files string, pfs selection) {
			missing, reason := f.missingFirmware(pfs[0])
			switch {
			case reason != "":
				unknown = reason
			case missing != nil:
				module := pfs[0].Family.PFModule()
				findings = append(findings, problem(
					fmt.Sprintf("install %s of linux-firmware in /lib/firmware; then modprobe -r %[2]s; modprobe %[2]s",
						files, module),
					"%s: %s not found in %s", pfs, strings.Join(missing, ", "), f.host.Firmware)...)
			}
		})
	switch {
	case findings != nil:
		return findings
	case unknown != "":
		return skip("%s: not up, and %s", idle, unknown)
	case len(idle) > 0:
		return ok("the files are in %s", f.host.Firmware)
	}
	up := choose(f.pfs, (*function).hasDriver)
	if len(up) == 0 {
		return skip("there is no PF with its driver")
	}
	return ok("the driver has loaded it: %s", up)
}

// isLoaded reports whether the driver of a PF is loaded, or whether that cannot be read.
func (f *facts) isLoaded(pf *function) bool {
	loaded, err := sysfs.Exists(filepath.Join(f.host.Sysfs, "bus/pci/drivers", pf.Family.PFDriver()))
	return loaded || err != nil
}

// missingFirmware returns the firmware files of a PF that do not exist, or why that is not
// known. It looks where the kernel looks (drivers/base/firmware_loader/main.c, fw_path), but for
// the directory of the parameter path of firmware_class.
func (f *facts) missingFirmware(pf *function) (missing []string, unknown string) {
	files := pf.Family.Firmware()
	if files == nil {
		return nil, "the files of the out-of-tree driver's firmware are not known"
	}
	if f.host.Firmware == "" {
		return nil, "the host's /lib/firmware is not visible here: look for " + strings.Join(files, ", ") + " in it"
	}
	if _, err := os.Stat(f.host.Firmware); err != nil {
		return nil, "the firmware cannot be looked for: " + err.Error()
	}
	if custom, _ := sysfs.ReadFile(filepath.Join(f.host.Sysfs, "module/firmware_class/parameters/path")); custom != "" {
		return nil, "the kernel also looks for the firmware in " + custom
	}
	release, _ := sysfs.ReadFile(filepath.Join(f.host.proc, "sys/kernel/osrelease"))
	for _, name := range files {
		if !slices.ContainsFunc([]string{"updates/" + release, "updates", release, "."}, func(dir string) bool {
			return slices.ContainsFunc([]string{"", ".zst", ".xz"}, func(suffix string) bool {
				_, err := os.Stat(filepath.Join(f.host.Firmware, dir, name+suffix))
				return err == nil
			})
		}) {
			missing = append(missing, name)
		}
	}
	return missing, ""
}

// checkPFState checks that each PF is up.
func checkPFState(_ context.Context, f *facts) (findings []status.Finding) {
	bound := choose(f.pfs, (*function).hasDriver)
	noFirmware := choose(bound, func(pf *function) bool {
		missing, _ := f.missingFirmware(pf)
		return pf.IsDown() && missing != nil
	})
	down := choose(bound, func(pf *function) bool { return pf.IsDown() && !slices.Contains(noFirmware, pf) })
	down.by(func(pf *function) string { return pf.State }, func(state string, pfs selection) {
		findings = append(findings, problem(pfs.forEach("echo up > /sys/bus/pci/devices/$a/qat/state"),
			"%s: %s (%s)", pfs, state, f.path(pfs[0].Address, "qat/state"))...)
	})
	shown := choose(bound, func(pf *function) bool { return pf.State != "" })
	switch {
	case findings != nil:
		return findings
	case len(noFirmware) > 0:
		return skip("%s: not up, because the firmware is missing: see firmware", noFirmware)
	case len(bound) == 0:
		return skip("there is no PF with its driver")
	case len(shown) == 0:
		return skip("the driver does not show the state of its PFs in qat/state")
	}
	return ok("up: %s", shown)
}

// checkServices checks that the services of each PF are known.
func checkServices(_ context.Context, f *facts) []status.Finding {
	bound := choose(f.pfs, func(pf *function) bool { return pf.hasDriver() && pf.Family.Services })
	if len(bound) == 0 {
		return skip("there is no PF whose services can be configured")
	}
	unset := choose(bound, func(pf *function) bool { return pf.Resource == device.Generic })
	if len(unset) > 0 {
		return warn(unset.forEach("echo down > /sys/bus/pci/devices/$a/qat/state; "+
			"echo 'sym;asym' > /sys/bus/pci/devices/$a/qat/cfg_services; "+
			"echo up > /sys/bus/pci/devices/$a/qat/state")+"; or rules in -provisioning-dir",
			"%s: unknown services %q (%s), so their VFs are listed as %s", unset, unset[0].Services,
			f.path(unset[0].Address, "qat/cfg_services"), device.Generic)
	}
	var resources []string
	bound.by(func(pf *function) string { return pf.Resource }, func(resource string, pfs selection) {
		resources = append(resources, fmt.Sprintf("%s: %s", resource, pfs))
	})
	return ok("resources by qat/cfg_services: %s", strings.Join(resources, "; "))
}

// checkDebugfs checks that the heartbeat of the PFs can be read.
func checkDebugfs(_ context.Context, f *facts) []status.Finding {
	dir := filepath.Join(f.host.Sysfs, "kernel/debug")
	up := choose(f.pfs, func(pf *function) bool { return pf.hasDriver() && !pf.IsDown() })
	if len(up) == 0 {
		return skip("there is no PF that is up")
	}
	names, err := sysfs.Names(dir)
	names = slices.DeleteFunc(names, func(name string) bool { return name == "." || name == ".." })
	switch {
	case os.IsPermission(err):
		return skip("debugfs is for root: %v", err)
	case err != nil || len(names) == 0:
		return warn("mount -t debugfs none /sys/kernel/debug, and restart the plugin's pod",
			"%s is empty: debugfs is not mounted, so heartbeats cannot be checked", dir)
	}
	silent := choose(up, func(pf *function) bool {
		exists, err := sysfs.Exists(filepath.Join(pf.Debugfs, "heartbeat/status"))
		return err == nil && !exists
	})
	if len(silent) > 0 {
		return ok("%s has no heartbeat of %s: their health is not checked. Linux has it since 6.6", dir, silent)
	}
	return ok("%s has the heartbeat of %s", dir, up)
}
