// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/dpdk"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/kernelmode"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
	"qatplugin/qat/internal/sysfs"
	"qatplugin/qat/internal/telemetry"
)

// A Plugin reports the QAT devices of a host. All its methods but Watch may be
// called from any goroutine, before and while Watch runs.
type Plugin struct {
	config     Config
	writer     *sysfs.Writer
	reader     *device.Reader
	allocator  *dpdk.Allocator
	preference *policy.Preference
	telemetry  *telemetry.Reader
	collection *telemetry.Switch // keeps the telemetry of PFs on; nil: it is left alone
	recorder   *dpdk.Recorder    // nil: nothing is recorded
	loop       *hostwatch.Loop

	provisioning *hostwatch.Loop // nil: no PF is provisioned
}

// New returns a Plugin that does nothing before Watch. An error names the value
// that is not allowed, and what is.
func New(config Config) (*Plugin, error) {
	if err := config.complete(); err != nil {
		return nil, err
	}
	writer := sysfs.NewWriter(config.SysfsRoot, config.DryRun)
	reader := device.NewReader(device.Config{
		Sysfs:     config.SysfsRoot,
		Dev:       config.DevRoot,
		Driver:    config.DPDKDriver,
		Interface: config.VFIOInterface,

		Attributes: config.Attributes,
	})
	p := &Plugin{
		config:     config,
		writer:     writer,
		reader:     reader,
		allocator:  dpdk.NewAllocator(reader, config.DPDKDriver),
		preference: policy.NewPreference(policy.Policy(config.AllocationPolicy)),
		recorder:   dpdk.NewRecorder(config.RecorderLimit, config.Journal),
		telemetry:  telemetry.NewReader(config.SysfsRoot),
		loop: hostwatch.New(hostwatch.Config{
			Sysfs:         config.SysfsRoot,
			Writer:        writer,
			Sources:       config.Sources,
			OpenWatcher:   config.OpenWatcher,
			AuditInterval: config.AuditInterval,
			Journal:       config.Journal,
			Publishing:    config.Publishing,
		}),
	}
	if config.Mode == ModeDPDK && config.ProvisioningDir != "" {
		p.provisioning = p.newProvisioningLoop()
	}
	if config.Mode == ModeDPDK && config.Telemetry {
		p.collection = telemetry.NewSwitch(config.SysfsRoot, writer)
	}
	return p, nil
}

// Watch publishes a Tree of the host's devices, and a new one whenever they change, until ctx
// ends. It is called once. It calls publish in the goroutine that called Watch, never concurrently.
// The error is always nil. When Watch returns, everything
// that it started has ended, apart from a read or write of sysfs that the kernel blocks.
func (p *Plugin) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	if p.collection != nil {
		defer p.collection.Close()
	}
	switch {
	case p.config.Mode == ModeKernel:
		hostwatch.Run(ctx, p.loop, p.newKernelMode, publish)
	case p.provisioning == nil:
		hostwatch.Run(ctx, p.loop, p.newDPDKMode, publish)
	default:
		wait := p.startProvisioning(ctx)
		hostwatch.Run(ctx, p.loop, p.newDPDKMode, publish)
		wait()
	}
	return nil
}

func (p *Plugin) newDPDKMode(ctx context.Context, host hostwatch.Host[dpdk.Key]) hostwatch.Mode[dpdk.Key] {
	return dpdk.New(ctx, dpdk.Config{
		Sysfs:          p.config.SysfsRoot,
		Dev:            p.config.DevRoot,
		Driver:         p.config.DPDKDriver,
		Reader:         p.reader,
		Allocator:      p.allocator,
		Writer:         p.writer,
		ServedDrivers:  p.config.KernelVFDrivers,
		Limit:          p.config.MaxNumDevices,
		InUse:          p.inUse(ctx),
		NoBind:         p.config.NoBind,
		Steal:          p.config.Steal,
		Attributes:     p.config.Attributes,
		HealthInterval: p.config.HealthInterval,
		Policy:         policy.Policy(p.config.AllocationPolicy),
		Preference:     p.preference,
		Recorder:       p.recorder,
		PFRead:         p.pfRead(),
	}, host)
}

// pfRead returns what mode dpdk must call when it has read a PF; nil: nothing.
func (p *Plugin) pfRead() func(pf pci.Address, debugfs string) {
	if p.collection == nil {
		return nil
	}
	return p.collection.Notify
}

// inUseTimeout is how long the first list waits for the kubelet at most.
const inUseTimeout = 2 * time.Second

// inUse returns the VFs that containers have. It asks the kubelet only if there is a limit: without
// one, all VFs are listed.
func (p *Plugin) inUse(ctx context.Context) []pci.Address {
	if p.config.MaxNumDevices == 0 || p.config.Holders == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, inUseTimeout)
	defer cancel()
	holders, err := p.holders(ctx)
	if err != nil {
		klog.InfoS("Cannot find out which VFs pods hold, so others may get their places under the device limit",
			"err", err)
		return nil
	}
	klog.V(1).InfoS("VFs that pods hold get the first places under the device limit", "devices", len(holders))
	return slices.Collect(maps.Keys(holders))
}

func (p *Plugin) newKernelMode(
	ctx context.Context, host hostwatch.Host[kernelmode.Key],
) hostwatch.Mode[kernelmode.Key] {
	return kernelmode.New(ctx, kernelmode.Config{
		Sysfs:         p.config.SysfsRoot,
		Dev:           p.config.DevRoot,
		Etc:           p.config.EtcRoot,
		ADFCtl:        p.config.ADFCtl,
		ADFCtlTimeout: kernelmode.DefaultADFCtlTimeout,
	}, host)
}

// IsKernelModeResource reports whether a resource, named without its namespace, is one of
// [ModeKernel], such as "cy1_dc0", and not one of [ModeDPDK], such as "cy".
func IsKernelModeResource(name string) bool { return kernelmode.IsResource(name) }

// PostAllocate completes what one container gets. Before that it reads each
// device once more; the error names a device that is gone or unusable.
//
// In ModeDPDK the variables QAT0, QAT1 and so on hold the addresses of the
// container's VFs. In ModeKernel QAT_SECTION_NAME_<resource>_0 and so on hold
// the sections of its processes, and QAT_SECTION_NAME holds the first section.
// Both follow the order in which the kubelet named the devices.
func (p *Plugin) PostAllocate(
	_ context.Context, resource string, devices []*devtree.Device, edits *devtree.ContainerEdits,
) error {
	if p.config.Mode == ModeKernel {
		return kernelmode.PostAllocate(p.config.DevRoot, resource, devices, edits)
	}
	return p.allocator.PostAllocate(devices, edits)
}

// CheckDevices reads each device once more, before a container gets them in another way than by
// PostAllocate. The error names a device that is gone ([devtree.ErrGone]) or unusable
// ([devtree.ErrUnfit]).
func (p *Plugin) CheckDevices(_ context.Context, devices []*devtree.Device) error {
	if p.config.Mode == ModeKernel {
		return kernelmode.Check(p.config.DevRoot, devices)
	}
	return p.allocator.Check(devices)
}

// PreferredAllocation chooses devices by the allocation policy. Without a
// policy it returns nil: the kubelet chooses.
func (p *Plugin) PreferredAllocation(
	_ context.Context, _ string, available, mustInclude []*devtree.Device, size int,
) ([]string, error) {
	return p.preference.Choose(available, mustInclude, size)
}

// CheckEventLoop makes the event loop turn once, and returns an error if that
// does not happen before ctx ends.
func (p *Plugin) CheckEventLoop(ctx context.Context) error { return p.loop.CheckEventLoop(ctx) }

// CheckFirstLook returns an error until the whole host has been read once.
func (p *Plugin) CheckFirstLook(ctx context.Context) error { return p.loop.CheckFirstLook(ctx) }

// CheckKernelHeard returns an error while the kernel's events are known to be
// missed, or before that is known.
func (p *Plugin) CheckKernelHeard(ctx context.Context) error { return p.loop.CheckKernelHeard(ctx) }
