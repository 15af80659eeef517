// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// checkVFs checks that each PF that is up has VFs.
func checkVFs(_ context.Context, f *facts) (findings []status.Finding) {
	up := choose(f.pfs, func(pf *function) bool { return pf.hasDriver() && !pf.IsDown() })
	switch {
	case len(f.pfs) == 0 && len(f.vfs) > 0:
		return ok("VFs without a PF, as in a guest: %s", selection(f.vfs))
	case len(up) == 0:
		return skip("there is no PF that is up")
	}
	off := choose(up, func(pf *function) bool { return pf.totalVFs == "" || pf.totalVFs == "0" })
	if len(off) > 0 {
		findings = append(findings, problem("enable SR-IOV in the firmware setup of the machine",
			"%s: no SR-IOV (%s)", off, f.path(off[0].Address, "sriov_totalvfs"))...)
	}
	bare := choose(up, func(pf *function) bool { return len(pf.VFs) == 0 && !slices.Contains(off, pf) })
	bare.by(func(pf *function) string { return pf.totalVFs }, func(total string, pfs selection) {
		findings = append(findings, problem(
			pfs.forEach("echo "+total+" > /sys/bus/pci/devices/$a/sriov_numvfs")+"; or rules in -provisioning-dir",
			"%s: 0 of %s VFs (%s)", pfs, total, f.path(pfs[0].Address, "virtfn*"))...)
	})
	gone := choose(up, func(pf *function) bool {
		n, err := strconv.Atoi(pf.numVFs)
		return err == nil && len(pf.VFs) > 0 && len(pf.VFs) < n
	})
	if len(gone) > 0 {
		findings = append(findings, warn(
			gone.forEach("echo 0 > /sys/bus/pci/devices/$a/sriov_numvfs; "+
				"cat /sys/bus/pci/devices/$a/sriov_totalvfs > /sys/bus/pci/devices/$a/sriov_numvfs"),
			"%s: %d of %s VFs, so some were removed one by one (%s)", gone, len(gone[0].VFs), gone[0].numVFs,
			f.path(gone[0].Address, "sriov_numvfs"))...)
	}
	if findings != nil {
		return findings
	}
	var counts []string
	up.by(func(pf *function) string { return fmt.Sprintf("%d of %s", len(pf.VFs), pf.totalVFs) },
		func(count string, pfs selection) { counts = append(counts, fmt.Sprintf("%s: %s", count, pfs)) })
	return ok("VFs of each PF: %s", strings.Join(counts, "; "))
}

// checkDPDKDriver checks that the driver is loaded to which the plugin binds VFs.
func checkDPDKDriver(_ context.Context, f *facts) []status.Finding {
	dir := filepath.Join(f.host.Sysfs, "bus/pci/drivers", f.host.Driver)
	if !f.driver.Loaded {
		return problem(fmt.Sprintf("modprobe %s; echo %[1]s > /etc/modules-load.d/%[1]s.conf", f.host.Driver),
			"%s does not exist: the module %s is not loaded", dir, f.host.Driver)
	}
	return ok("%s exists", dir)
}

// checkVFDriver checks that no other driver has a VF, or reserves it.
func checkVFDriver(_ context.Context, f *facts) (findings []status.Finding) {
	if len(f.vfs) == 0 {
		return skip("there is no VF")
	}
	foreign := choose(f.vfs, func(vf *function) bool {
		return vf.Driver != "" && vf.Driver != vf.Family.VFDriver && !f.reader.IsBound(vf.Driver)
	})
	foreign.by(func(vf *function) string { return vf.Driver }, func(driver string, vfs selection) {
		findings = append(findings, warn(
			vfs.forEach("echo $a > /sys/bus/pci/devices/$a/driver/unbind")+"; or set the flag -steal",
			"%s: bound to %s, so the plugin leaves them alone (%s)", vfs, driver, f.path(vfs[0].Address, "driver"))...)
	})
	reserved := choose(f.vfs, func(vf *function) bool {
		return !f.reader.IsBound(vf.Driver) && vf.override != "" && !f.reader.IsBound(vf.override) &&
			!slices.Contains(foreign, vf)
	})
	reserved.by(func(vf *function) string { return vf.override }, func(driver string, vfs selection) {
		findings = append(findings, warn(
			vfs.forEach("echo > /sys/bus/pci/devices/$a/driver_override")+"; or set the flag -steal",
			"%s: reserved for %s, so the plugin leaves them alone (%s)", vfs, driver,
			f.path(vfs[0].Address, "driver_override"))...)
	})
	if findings != nil {
		return findings
	}
	var drivers []string
	selection(f.vfs).by(func(vf *function) string { return vf.Driver }, func(driver string, vfs selection) {
		text := fmt.Sprintf("%d bound to %s", len(vfs), driver)
		if driver == "" {
			text = fmt.Sprintf("%d without a driver", len(vfs))
		}
		if !f.reader.IsBound(driver) {
			text += ", which the plugin binds to " + f.host.Driver
		}
		drivers = append(drivers, text)
	})
	return ok("VFs: %s", strings.Join(drivers, "; "))
}

// checkDenylist checks that vfio-pci accepts the VFs.
func checkDenylist(_ context.Context, f *facts) []status.Finding {
	refused := choose(slices.Concat(f.pfs, f.vfs), func(d *function) bool { return d.Family.Denylisted })
	const parameter = "module/vfio_pci/parameters/disable_denylist"
	switch {
	case len(f.pfs)+len(f.vfs) == 0:
		return skip("there is no QAT device")
	case len(refused) == 0:
		return ok("vfio-pci accepts the VFs of each family here")
	case !f.driver.Loaded:
		return skip("vfio-pci is not loaded: see dpdk-driver")
	case !f.driver.Denylist:
		return ok("vfio-pci is loaded with disable_denylist=1 (%s)", filepath.Join(f.host.Sysfs, parameter))
	}
	var families []string
	refused.by(func(d *function) string { return d.Family.Name }, func(family string, _ selection) {
		families = append(families, family)
	})
	return problem("echo 'options vfio-pci disable_denylist=1' > /etc/modprobe.d/vfio-pci.conf; "+
		"modprobe -r vfio-pci; modprobe vfio-pci",
		"vfio-pci refuses the VFs of %s: N in %s", strings.Join(families, ", "),
		filepath.Join(f.host.Sysfs, parameter))
}

// checkGroups checks that no VF shares its IOMMU group with a device that the host uses.
func checkGroups(_ context.Context, f *facts) (findings []status.Finding) {
	own := map[pci.Address]bool{} // VFs, which the plugin can bind
	for _, vf := range f.vfs {
		own[vf.Address] = true
	}
	seen := map[int]bool{}
	shared := 0
	for _, vf := range f.vfs {
		if vf.Group == nil || seen[*vf.Group] {
			continue
		}
		seen[*vf.Group] = true
		dir := filepath.Join(f.host.Sysfs, "kernel/iommu_groups", strconv.Itoa(*vf.Group), "devices")
		members, err := f.reader.GroupMembers(*vf.Group)
		if err != nil {
			findings = append(findings, warn("run as root", "the IOMMU group of %s: %v", vf.Address, err)...)
			continue
		}
		if len(members) > 1 {
			shared++
		}
		for _, member := range members {
			driver, err := f.reader.Driver(member)
			if own[member] || err != nil || device.LeavesGroup(driver) {
				continue
			}
			findings = append(findings, problem(
				"enable ACS in the firmware setup of the machine, or use another slot; or, if the host can do "+
					fmt.Sprintf("without it: echo %s > /sys/bus/pci/devices/%[1]s/driver/unbind", member),
				"%s is in one IOMMU group with %s, which %s uses, so it cannot be used (%s)",
				vf.Address, member, driver, dir)...)
			break
		}
	}
	switch {
	case findings != nil:
		return findings
	case len(seen) == 0:
		return skip("there is no VF with an IOMMU group")
	case shared > 0:
		return ok("%d IOMMU groups contain several functions, of which the plugin lists one at a time", shared)
	}
	return ok("each VF has an IOMMU group of its own (%s)", filepath.Join(f.host.Sysfs, "kernel/iommu_groups"))
}

// checkNodes checks that the nodes of bound VFs exist, and that containers can open them.
func checkNodes(_ context.Context, f *facts) []status.Finding {
	bound := choose(f.vfs, func(vf *function) bool { return f.reader.IsBound(vf.Driver) && vf.Group != nil })
	if len(bound) == 0 {
		return skip("no VF is bound to %s", f.host.Driver)
	}
	if broken := choose(bound, func(vf *function) bool { return vf.Node.Missing != "" }); len(broken) > 0 {
		return problem(broken.forEach("echo $a > /sys/bus/pci/devices/$a/driver/unbind")+
			"; the plugin then binds them again. In a container, mount the host's whole /dev at "+f.host.Dev,
			"%s: %s below %s", broken, broken[0].Node.Missing, f.host.Dev)
	}
	if !bound[0].Node.IsCdev() { // with the group, a container uses the node vfio as well
		node := filepath.Join(f.host.Dev, "vfio/vfio")
		switch info, err := os.Stat(node); {
		case err != nil:
			return problem("modprobe vfio; udevadm trigger --name-match=vfio/vfio", "%v", err)
		case info.Mode().Perm()&0o006 != 0o006: // drivers/vfio/container.c, vfio_dev: 0666
			return warn("chmod 0666 /dev/vfio/vfio, and remove the udev rule that changed it",
				"%s: %v, so containers that do not run as root cannot use VFIO", node, info.Mode().Perm())
		}
	}
	node := filepath.Join(f.host.Dev, bound[0].Node.Name)
	info, err := os.Stat(node)
	if err != nil {
		return skip("%v", err)
	}
	text := fmt.Sprintf("%s: %v", node, info.Mode().Perm())
	if info.Mode().Perm()&0o006 != 0o006 {
		text += ", as usual. For containers of other users than root, set device_ownership_from_security_context = " +
			"true in the CRI configuration of containerd or CRI-O"
	}
	return ok("%d nodes, such as %s", len(bound), text)
}

// checkNoIOMMU checks that VFIO does not work without an IOMMU.
func checkNoIOMMU(_ context.Context, f *facts) []status.Finding {
	const parameter = "module/vfio/parameters/enable_unsafe_noiommu_mode"
	file := filepath.Join(f.host.Sysfs, parameter)
	switch value, err := sysfs.ReadFile(file); {
	case sysfs.IsAbsent(err):
		return ok("%s does not exist", file)
	case err != nil:
		return skip("%v", err)
	case value == "Y":
		return warn("echo N > /sys/"+parameter+", and enable the IOMMU: boot with intel_iommu=on iommu=pt",
			"Y in %s: without an IOMMU, a program with a VF can write to all memory of the host", file)
	}
	return ok("N in %s", file)
}

// checkIOMMU checks that the kernel uses an IOMMU.
func checkIOMMU(_ context.Context, f *facts) []status.Finding {
	dir := filepath.Join(f.host.Sysfs, "kernel/iommu_groups")
	groups, err := sysfs.Names(dir)
	groups = slices.DeleteFunc(groups, func(group string) bool {
		if group == "." || group == ".." {
			return true
		}
		// VFIO makes groups in noiommu mode (drivers/vfio/group.c, vfio_noiommu_group_alloc).
		name, err := sysfs.ReadFile(filepath.Join(dir, group, "name"))
		return err == nil && name == "vfio-noiommu"
	})
	cmdline := filepath.Join(f.host.proc, "cmdline")
	text, _ := sysfs.ReadFile(cmdline)
	parameters := strings.Fields(text)
	has := func(parameter string) bool { return slices.Contains(parameters, parameter) }
	switch {
	case err != nil && !sysfs.IsAbsent(err):
		return skip("%v", err)
	case len(groups) > 0:
		return ok("%d IOMMU groups in %s", len(groups), dir)
	case f.driver.Loaded && !f.driver.NeedsGroup:
		return skip("no group of an IOMMU in %s, and VFIO works without one: see noiommu", dir)
	case has("intel_iommu=off") || has("iommu=off"):
		return problem("remove intel_iommu=off and iommu=off from the kernel's command line, add "+
			"intel_iommu=on iommu=pt, and boot again", "%s is empty: %s disables the IOMMU", dir, cmdline)
	case has("intel_iommu=on"):
		return problem("enable VT-d in the firmware setup of the machine; in a guest, give it a virtual IOMMU",
			"%s is empty, although %s has intel_iommu=on", dir, cmdline)
	}
	return problem("add intel_iommu=on iommu=pt to the kernel's command line and boot again, such as with: "+
		"grubby --update-kernel=ALL --args='intel_iommu=on iommu=pt'; in a guest, give it a virtual IOMMU",
		"%s is empty, and %s has no intel_iommu=on", dir, cmdline)
}
