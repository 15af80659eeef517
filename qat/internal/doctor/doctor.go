// SPDX-License-Identifier: Apache-2.0

// Package doctor checks whether a host can offer QAT devices to containers, and says what to do if
// it cannot.
//
// [Run] first reads the facts about the QAT functions, and then makes all checks at the same time.
// Each has a time limit, because the kernel can block a read of sysfs for as long as it likes. A
// check that does not end in time is reported and delays no other one. Its goroutine ends when the
// kernel lets it.
//
// The checks change nothing. Unless [Host.DryRun] is set, the check "uevents" writes to uevent
// files. It asks the kernel for events to which nothing on a host reacts. No check reads
// heartbeat/status, because the driver counts each read of it as a heartbeat check.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"qatplugin/events"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
)

// Host says where the files of a host are. The zero value of a field selects its default.
type Host struct {
	Sysfs string // where the host's sysfs is mounted; /sys
	Dev   string // where the host's /dev is mounted; /dev

	// Firmware is the host's /lib/firmware, and KubeletDir the directory of kubelet.sock. Without
	// them, what they show is not checked.
	Firmware   string
	KubeletDir string

	Driver string // the DPDK driver; vfio-pci

	// Plugin is the state of the plugin that runs on the host; nil if none answers.
	Plugin *status.Snapshot

	DryRun bool // do not ask the kernel for a uevent

	proc string // where proc is mounted, for this process and the host's settings; /proc
}

// timeLimit is how long the devices may take to be read, and then each check.
const timeLimit = 3 * time.Second

// A check looks at one thing. It returns one finding, or one for each problem. The findings need no
// name.
type check struct {
	name  string
	needs requirement
	run   func(context.Context, *facts) []status.Finding
}

// A requirement is what must be so for a check to make sense.
type requirement uint8

const (
	nothing  requirement = iota
	devices              // the PCI functions could be listed
	dpdkMode             // and VFs are for user space
	vfio                 // by way of vfio-pci
)

// checks are in the order in which an administrator sets up a host.
func checks() []check {
	return []check{
		{"sysfs", nothing, checkSysfs},
		{"devices", devices, checkDevices},
		{"iommu", vfio, checkIOMMU},
		{"pf-driver", devices, checkPFDriver},
		{"firmware", devices, checkFirmware},
		{"pf-state", devices, checkPFState},
		{"services", dpdkMode, checkServices},
		{"vfs", dpdkMode, checkVFs},
		{"dpdk-driver", dpdkMode, checkDPDKDriver},
		{"denylist", vfio, checkDenylist},
		{"noiommu", vfio, checkNoIOMMU},
		{"vf-driver", dpdkMode, checkVFDriver},
		{"iommu-groups", vfio, checkGroups},
		{"vfio-nodes", vfio, checkNodes},
		{"memlock", vfio, checkMemlock},
		{"hugepages", nothing, checkHugepages},
		{"debugfs", devices, checkDebugfs},
		{"uevents", devices, checkUevents},
		{"inotify", nothing, checkInotify},
		{"kubelet", nothing, checkKubelet},
		{"plugin", nothing, checkPlugin},
	}
}

// Run makes all checks and returns what they found, in a fixed order. It takes milliseconds, or 6 s
// if the kernel blocks a read. It ends early if ctx ends.
func Run(ctx context.Context, host Host) []status.Finding {
	host.Sysfs = cmp.Or(host.Sysfs, "/sys")
	host.Dev = cmp.Or(host.Dev, "/dev")
	host.proc = cmp.Or(host.proc, "/proc")
	host.Driver = cmp.Or(host.Driver, device.DriverVFIO)
	listen := func() (events.Source, error) { return events.ListenUevents() }
	return run(ctx, gather(ctx, host, readFunction, listen), checks())
}

// run makes the checks.
func run(ctx context.Context, f *facts, checks []check) []status.Finding {
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	results := make([]chan []status.Finding, len(checks))
	for i, c := range checks {
		results[i] = make(chan []status.Finding, 1)
		if reason := f.missing(c.needs); reason != "" {
			results[i] <- skip("%s", reason)
			continue
		}
		go func() { results[i] <- c.run(ctx, f) }()
	}
	var all []status.Finding
	for i, c := range checks {
		for _, finding := range await(ctx, results[i]) {
			finding.Check = c.name
			all = append(all, finding)
		}
	}
	return all
}

// unfinishedGrace is how long a check may take to notice that its time is over.
const unfinishedGrace = 100 * time.Millisecond

// await returns the result of a check, or that it did not end in time.
func await(ctx context.Context, result <-chan []status.Finding) []status.Finding {
	select {
	case findings := <-result:
		return findings
	case <-ctx.Done():
	}
	select {
	case findings := <-result:
		return findings
	case <-time.After(unfinishedGrace):
		return warn("see dmesg for what the kernel waits for",
			"the check did not end in time: the kernel blocks a read, or the host is overloaded")
	}
}

// missing returns why a check cannot be made, or "" if it can.
func (f *facts) missing(needs requirement) string {
	switch {
	case needs >= devices && f.listErr != nil:
		return "the PCI functions cannot be listed: see sysfs"
	case needs >= dpdkMode && f.host.Plugin != nil && f.host.Plugin.Mode == "kernel":
		return "the plugin runs in mode kernel, in which the devices are not for DPDK"
	case needs >= vfio && f.host.Driver != device.DriverVFIO:
		return "the DPDK driver is " + f.host.Driver
	}
	return ""
}

func ok(format string, args ...any) []status.Finding {
	return []status.Finding{{Result: status.FindingOK, Found: fmt.Sprintf(format, args...)}}
}

func skip(format string, args ...any) []status.Finding {
	return []status.Finding{{Result: status.FindingSkipped, Found: fmt.Sprintf(format, args...)}}
}

func warn(remedy, format string, args ...any) []status.Finding {
	return []status.Finding{{Result: status.FindingWarning, Found: fmt.Sprintf(format, args...), Remedy: remedy}}
}

func problem(remedy, format string, args ...any) []status.Finding {
	return []status.Finding{{Result: status.FindingProblem, Found: fmt.Sprintf(format, args...), Remedy: remedy}}
}
