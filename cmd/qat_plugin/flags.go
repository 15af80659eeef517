package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/qat"
	"qatplugin/qat/kernelmode"
)

// minAuditInterval keeps the audit what it is, a look once in a while, and no scan loop.
const minAuditInterval = time.Second

// options are the flags' values.
type options struct {
	mode          string
	qat           qat.Config        // of modeDPDK
	kernel        kernelmode.Config // of modeKernel
	idle          []string          // flags that were given and say nothing in this mode
	bind          bool
	kubeletDir    string
	useCDI        bool
	cdiDir        string
	healthAddress string
	version       bool
}

// The modes: VFs for user space through VFIO or UIO, or the processes of Intel's out-of-tree kernel driver.
const (
	modeDPDK   = "dpdk"
	modeKernel = "kernel"
)

// ofMode are the flags that only one mode heeds.
func ofMode(flag string) (mode string, only bool) {
	switch flag {
	case "adf-ctl", "etc-root":
		return modeKernel, true
	case "dpdk-driver", "kernel-vf-drivers", "vfio-interface", "bind", "steal", "dry-run", "allocation-policy", "max-num-devices", "health-interval",
		"use-cdi", "cdi-dir":
		return modeDPDK, true
	}
	return "", false
}

// parseFlags reads the command line. The error is [flag.ErrHelp] after -h, whose text went to out, or one line that names the flag, the
// value and what is allowed.
func parseFlags(args []string, out io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("qat_plugin", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Var(&choice{&o.mode, []string{modeDPDK, modeKernel}}, "mode",
		"`mode`: dpdk lists VFs for user space, kernel lists the processes of Intel's out-of-tree QAT driver")
	flags.Var(&nonEmpty{&o.kernel.ADFCtl, "the name or path of a program"}, "adf-ctl", "`program` that tells the devices of the out-of-tree driver, in mode kernel")
	flags.Var(&directory{&o.kernel.EtcRoot}, "etc-root", "`directory` of the out-of-tree driver's configuration files, in mode kernel")
	flags.Var(&choice{&o.qat.DPDKDriver, qat.DPDKDrivers()}, "dpdk-driver", "`driver` that VFs are bound to: "+strings.Join(qat.DPDKDrivers(), " or "))
	flags.Var(&choices{&o.qat.KernelVFDrivers, qat.KernelVFDrivers()}, "kernel-vf-drivers",
		"VF `drivers` of the device families to serve, separated by commas: of "+strings.Join(qat.KernelVFDrivers(), ","))
	flags.Var(&choice{&o.qat.VFIOInterface, qat.VFIOInterfaces()}, "vfio-interface",
		"`interface` by which containers get VFIO devices: group (/dev/vfio/N), cdev (/dev/vfio/devices/vfioN and /dev/iommu), or auto, which is group where it is there")
	flags.BoolVar(&o.bind, "bind", true, "bind VFs to the DPDK driver; without it VFs are listed that others bound")
	flags.BoolVar(&o.qat.Steal, "steal", false, "bind also VFs that a driver other than their own kernel driver has")
	flags.BoolVar(&o.qat.DryRun, "dry-run", false, "say in the log what would be written to sysfs, and write nothing")
	flags.Var(&policy{&o.qat.Policy}, "allocation-policy",
		"`policy` by which the kubelet is told what VFs to take: balanced spreads over PFs, packed fills one before it opens the next; without one the kubelet chooses")
	flags.Var(&count{&o.qat.MaxNumDevices}, "max-num-devices", "list at most this `number` of VFs; 0 is no limit")
	flags.Var(&directory{&o.qat.SysfsRoot}, "sysfs-root", "`directory` where the host's sysfs is seen")
	flags.Var(&directory{&o.qat.DevRoot}, "dev-root", "`directory` where the host's /dev is seen; the kubelet is always told /dev/...")
	flags.Var(&nonEmpty{&o.kubeletDir, "the path of a directory"}, "kubelet-dir", "`directory` of kubelet.sock and of the plugins' sockets")
	flags.BoolVar(&o.useCDI, "use-cdi", false, "keep CDI specs of the VFs, as qat.intel.com/vf=ADDRESS, for runtimes that know CDI")
	flags.Var(&nonEmpty{&o.cdiDir, "the path of a directory"}, "cdi-dir", "`directory` of the CDI specs, with -use-cdi; it is made when it is not there")
	flags.Var(&interval{&o.qat.HealthInterval, qat.MinHealthInterval}, "health-interval",
		"`time` between two heartbeats asked of a PF, 1s or more; 0 is never")
	flags.Var(&interval{&o.qat.AuditInterval, minAuditInterval}, "audit-interval",
		"`time` between two full looks that check what events told, 1s or more; 0 is never")
	flags.Var(&hostPort{&o.healthAddress}, "health-address",
		"`address` HOST:PORT at which /livez and /readyz are served, such as :8081 for every interface; without it they are not")
	flags.BoolVar(&o.version, "version", false, "print the version and end")
	klog.InitFlags(flags)

	o.qat.DPDKDriver, o.qat.KernelVFDrivers = qat.DPDKDrivers()[0], qat.KernelVFDrivers()
	o.mode, o.kernel.ADFCtl, o.kernel.EtcRoot = modeDPDK, "adf_ctl", "/etc"
	o.cdiDir = "/var/run/cdi"
	o.kubeletDir = strings.TrimSuffix(pluginapi.DevicePluginPath, "/")
	o.qat.VFIOInterface, o.qat.SysfsRoot, o.qat.DevRoot = qat.VFIOInterfaces()[0], "/sys", "/dev"
	o.qat.HealthInterval, o.qat.AuditInterval = 5*time.Second, 10*time.Minute
	flags.VisitAll(func(f *flag.Flag) {
		switch f.Value.(type) {
		case *choice, *choices, *count, *directory, *interval, *nonEmpty:
			f.DefValue = f.Value.String()
		}
	})

	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(out, "qat_plugin tells the kubelet of the QuickAssist (QAT) virtual functions of this host, as they come and go.")
		fmt.Fprintln(out, "\nFlags:")
		flags.SetOutput(out)
		flags.PrintDefaults()
		return nil, err
	case err != nil:
		return nil, explain(flags, err)
	case flags.NArg() > 0:
		return nil, fmt.Errorf("argument %q: only flags are allowed, see -h", flags.Arg(0))
	}
	flags.Visit(func(f *flag.Flag) {
		if mode, only := ofMode(f.Name); only && mode != o.mode {
			o.idle = append(o.idle, f.Name)
		}
	})
	o.qat.ObserveOnly = !o.bind
	for _, t := range []*time.Duration{&o.qat.AuditInterval, &o.qat.HealthInterval} {
		if *t == 0 {
			*t = -1
		}
	}
	o.kernel.SysfsRoot, o.kernel.DevRoot, o.kernel.AuditInterval = o.qat.SysfsRoot, o.qat.DevRoot, o.qat.AuditInterval
	return o, nil
}

// explain makes one line of what package flag says of a wrong flag or value: `invalid value "x" for flag -name: cause`, or
// `invalid boolean value "x" for -name: cause`.
func explain(flags *flag.FlagSet, err error) error {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "invalid boolean value "), "invalid value ")
	value, rest, ok := strings.Cut(text, " for ")
	if !ok {
		return fmt.Errorf("%w; see -h for the flags", err)
	}
	name, cause, _ := strings.Cut(strings.TrimPrefix(rest, "flag "), ": ")
	if f := flags.Lookup(strings.TrimPrefix(name, "-")); f != nil && !strings.HasPrefix(cause, allowed) {
		kind, usage := flag.UnquoteUsage(f)
		if kind == "" {
			kind = "true or false"
		}
		cause = fmt.Sprintf("%sa %s: %s", allowed, kind, usage)
	}
	return fmt.Errorf("flag %s, value %s: %s", name, value, cause)
}
