package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/qat"
)

// minAuditInterval keeps the audit what it is, a look once in a while, and no scan loop.
const minAuditInterval = time.Second

// options are the flags' values.
type options struct {
	qat        qat.Config
	bind       bool
	kubeletDir string
}

// parseFlags reads the command line. The error is [flag.ErrHelp] after -h, whose text went to out, or one line that names the flag, the
// value and what is allowed.
func parseFlags(args []string, out io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("qat_plugin", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
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
	flags.StringVar(&o.kubeletDir, "kubelet-dir", strings.TrimSuffix(pluginapi.DevicePluginPath, "/"), "`directory` of kubelet.sock and of the plugins' sockets")
	flags.Var(&interval{&o.qat.HealthInterval, qat.MinHealthInterval}, "health-interval",
		"`time` between two heartbeats asked of a PF, 1s or more; 0 is never")
	flags.Var(&interval{&o.qat.AuditInterval, minAuditInterval}, "audit-interval",
		"`time` between two full looks that check what events told, 1s or more; 0 is never")
	klog.InitFlags(flags)

	o.qat.DPDKDriver, o.qat.KernelVFDrivers = qat.DPDKDrivers()[0], qat.KernelVFDrivers()
	o.qat.VFIOInterface, o.qat.SysfsRoot, o.qat.DevRoot = qat.VFIOInterfaces()[0], "/sys", "/dev"
	o.qat.HealthInterval, o.qat.AuditInterval = 5*time.Second, 10*time.Minute
	flags.VisitAll(func(f *flag.Flag) {
		switch f.Value.(type) {
		case *choice, *choices, *count, *directory, *interval:
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
	case o.kubeletDir == "":
		return nil, errors.New(`flag -kubelet-dir, value "": allowed is the path of a directory`)
	}
	o.qat.ObserveOnly = !o.bind
	for _, t := range []*time.Duration{&o.qat.AuditInterval, &o.qat.HealthInterval} {
		if *t == 0 {
			*t = -1
		}
	}
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

// allowed begins the errors of the flag types below; package flag puts the flag's name and the value before it.
const allowed = "allowed is "

func wrong(what string) error { return errors.New(allowed + what) }

type choice struct {
	value   *string
	allowed []string
}

func (c *choice) String() string { return deref(c.value) }
func (c *choice) Set(text string) error {
	if !slices.Contains(c.allowed, text) {
		return wrong(strings.Join(c.allowed, " or "))
	}
	*c.value = text
	return nil
}

type choices struct {
	value   *[]string
	allowed []string
}

func (c *choices) String() string { return strings.Join(deref(c.value), ",") }
func (c *choices) Set(text string) error {
	var list []string
	for word := range strings.SplitSeq(text, ",") {
		word = strings.TrimSpace(word)
		if !slices.Contains(c.allowed, word) {
			return wrong("a list, separated by commas, of " + strings.Join(c.allowed, ","))
		}
		list = append(list, word)
	}
	*c.value = list
	return nil
}

type policy struct{ value *qat.Policy }

func (p *policy) String() string { return string(deref(p.value)) }
func (p *policy) Set(text string) error {
	if text != "" && !slices.Contains(qat.Policies(), text) {
		return wrong(strings.Join(qat.Policies(), " or ") + ", or nothing")
	}
	*p.value = qat.Policy(text)
	return nil
}

type count struct{ value *int }

func (c *count) String() string { return strconv.Itoa(deref(c.value)) }
func (c *count) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return wrong("a whole number, 0 (no limit) or more")
	}
	*c.value = n
	return nil
}

type directory struct{ value *string }

func (d *directory) String() string { return deref(d.value) }
func (d *directory) Set(text string) error {
	if info, err := os.Stat(text); err != nil || !info.IsDir() {
		return wrong("the path of a directory that exists")
	}
	*d.value = text
	return nil
}

type interval struct {
	value *time.Duration
	min   time.Duration
}

func (i *interval) String() string { return deref(i.value).String() }
func (i *interval) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d != 0 && d < i.min {
		return wrong(fmt.Sprintf("a time of %v or more, such as 10m, or 0 (never)", i.min))
	}
	*i.value = d
	return nil
}

// deref is the value, or the zero value for a flag that package flag made itself to compare defaults.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
