// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/kernelmode"
	"qatplugin/qat/internal/policy"
	"qatplugin/qat/internal/sysfs"
)

// The modes of a Plugin.
const (
	ModeDPDK   = "dpdk"   // list VFs for user space
	ModeKernel = "kernel" // list the processes of Intel's out-of-tree driver
)

// MinHealthInterval is the shortest HealthInterval. It is twice the time that
// the slowest driver requires between two heartbeats (500 ms, Gen2).
const MinHealthInterval = time.Second

// Config configures a Plugin. The zero value of a field selects its default.
type Config struct {
	Mode      string // ModeDPDK (default) or ModeKernel
	SysfsRoot string // where the host's sysfs is mounted; /sys
	DevRoot   string // where the host's /dev is mounted; /dev
	DryRun    bool   // log each write to sysfs instead of doing it

	// Of ModeDPDK.
	DPDKDriver       string        // driver that VFs are bound to, one of [DPDKDrivers]; vfio-pci
	VFIOInterface    string        // how containers get a VFIO device, one of [VFIOInterfaces]; auto
	KernelVFDrivers  []string      // families that are served, some of [KernelVFDrivers]; all
	AllocationPolicy string        // which free VFs a container gets, one of [Policies]; the kubelet chooses
	MaxNumDevices    int           // number of VFs that are listed at most; no limit
	NoBind           bool          // bind no VFs
	Steal            bool          // also bind VFs that another driver holds, or that driver_override reserves
	HealthInterval   time.Duration // time between heartbeats of a PF, at least [MinHealthInterval]; 5s. Negative: never
	Telemetry        bool          // keep the telemetry of PFs on while Watch runs
	Attributes       bool          // devices have Attributes and a Cause, for package draapi

	// Of ModeDPDK: what PFs are to be.
	ProvisioningDir   string // directory of the rules that PFs are provisioned by; none: PFs are left alone
	ProvisioningForce bool   // also remove VFs that containers hold
	NodeName          string // of this node, whose rules may be in files of its own; unknown

	// Of ModeDPDK. Holders asks the kubelet which pods hold which VFs: address → pod. With a
	// MaxNumDevices, Watch asks once when it starts, because these VFs get their places first.
	// Provisioning asks before it changes a PF. If Holders is nil, the kubelet is not asked.
	Holders func(context.Context) (map[string]string, error)
	HeldBy  string // what Holders names, for reasons, such as "claim"; "pod"

	// Of ModeKernel.
	EtcRoot string // directory of the configuration files <type>_dev<N>.conf; /etc
	ADFCtl  string // path or name of the program adf_ctl; adf_ctl

	// AuditInterval is the time between two full reads of the host that look
	// for changes that no event reported; 10m. Negative: never.
	AuditInterval time.Duration

	// Sources open the event sources, and OpenWatcher the source that watches
	// directories. They are opened before the first read of the host, and again, with back-off,
	// when they fail. If OpenWatcher is nil no directories are watched, and what user space writes
	// to attributes counts as drift when an audit finds it.
	Sources     []func() (events.Source, error)
	OpenWatcher func() (Watcher, error)

	// Journal records events, what they led to, and how the lists changed. It follows within
	// milliseconds. If Journal is nil, nothing is recorded.
	Journal *status.Journal

	// RecorderLimit is the number of decisions about VFs that the recorder of ModeDPDK keeps, each
	// of which takes about 1 KB; 2048. Negative: nothing is recorded.
	RecorderLimit int

	// Publishing is called right before Watch publishes a Tree, in the same goroutine, with the
	// Tree before it, which may be nil, and the time at which the first cause of the change was
	// noticed. It must take less than a microsecond. If Publishing is nil, it is not called.
	Publishing func(old, new *devtree.Tree, since time.Time)
}

// A Watcher is an event source that reports changes of directory entries.
// [events.Watcher] implements it.
type Watcher = hostwatch.Watcher

// DPDKDrivers returns the drivers that VFs can be bound to.
func DPDKDrivers() []string { return device.Drivers() }

// VFIOInterfaces returns the ways in which a container can get a VFIO device.
func VFIOInterfaces() []string { return device.Interfaces() }

// KernelVFDrivers returns the kernel drivers of all known VFs, which name the device families.
func KernelVFDrivers() []string { return device.KernelVFDrivers() }

// Policies returns the allocation policies.
func Policies() []string { return policy.Names() }

// complete fills in the defaults and checks all values.
func (c *Config) complete() error {
	setDefault(&c.Mode, ModeDPDK)
	setDefault(&c.SysfsRoot, "/sys")
	setDefault(&c.DevRoot, "/dev")
	setDefault(&c.EtcRoot, "/etc")
	setDefault(&c.ADFCtl, kernelmode.DefaultADFCtl)
	setDefault(&c.DPDKDriver, device.DriverVFIO)
	setDefault(&c.VFIOInterface, device.InterfaceAuto)
	setDefault(&c.HealthInterval, 5*time.Second)
	setDefault(&c.AuditInterval, 10*time.Minute)
	if len(c.KernelVFDrivers) == 0 {
		c.KernelVFDrivers = KernelVFDrivers()
	}
	if c.HealthInterval > 0 && c.HealthInterval < MinHealthInterval {
		return fmt.Errorf("health interval %v: must be at least %v, or negative (never)",
			c.HealthInterval, MinHealthInterval)
	}
	if c.MaxNumDevices < 0 {
		return fmt.Errorf("device limit %d: must be 0 (no limit) or more", c.MaxNumDevices)
	}
	for _, check := range []struct {
		what    string
		values  []string
		allowed []string
	}{
		{"mode", []string{c.Mode}, []string{ModeDPDK, ModeKernel}},
		{"DPDK driver", []string{c.DPDKDriver}, DPDKDrivers()},
		{"VFIO interface", []string{c.VFIOInterface}, VFIOInterfaces()},
		{"kernel VF driver", c.KernelVFDrivers, KernelVFDrivers()},
	} {
		for _, v := range check.values {
			if !slices.Contains(check.allowed, v) {
				return fmt.Errorf("%s %q: must be one of %s", check.what, v, strings.Join(check.allowed, ", "))
			}
		}
	}
	err := policy.Policy(c.AllocationPolicy).Check()
	if err != nil {
		return err
	}
	roots := []*string{&c.SysfsRoot, &c.DevRoot, &c.EtcRoot}
	if c.ProvisioningDir != "" {
		roots = append(roots, &c.ProvisioningDir)
	}
	for _, root := range roots {
		if *root, err = sysfs.ResolveRoot(*root); err != nil {
			return err
		}
	}
	return nil
}

func setDefault[T comparable](value *T, preset T) {
	var zero T
	if *value == zero {
		*value = preset
	}
}
