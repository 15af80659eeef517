// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/kubeletapi/podresources"
	"qatplugin/kubeletapi/probe"
	"qatplugin/qat"
)

// minAuditInterval keeps the audit a check once in a while, not a scan loop.
const minAuditInterval = time.Second

// options are the values of the flags.
type options struct {
	qat                qat.Config
	bind               bool
	kubeletDir         string
	podResourcesSocket string
	useCDI             bool
	cdiDir             string
	healthAddress      string
	httpAddress        string
	statusSocket       string
	profiling          bool
	kubernetesEvents   bool
	loggingFormat      string // one of formatText and formatJSON
	version            bool
	unused             []string          // flags that were set and have no effect in this mode
	values             map[string]string // of all flags by name, as text
}

// modeOf returns the mode that a flag belongs to; "" if it applies to both.
func modeOf(flag string) string {
	switch flag {
	case "adf-ctl", "etc-root":
		return qat.ModeKernel
	case "dpdk-driver", "kernel-vf-drivers", "vfio-interface", "bind", "steal", "allocation-policy",
		"max-num-devices", "health-interval", "telemetry", "use-cdi", "cdi-dir", "provisioning-dir",
		"provisioning-force", "pod-resources-socket", "recorder-size":
		return qat.ModeDPDK
	}
	return ""
}

// defaultOptions are the options without any flags.
func defaultOptions() *options {
	return &options{
		qat: qat.Config{
			Mode:            qat.ModeDPDK,
			SysfsRoot:       "/sys",
			DevRoot:         "/dev",
			DPDKDriver:      qat.DPDKDrivers()[0],
			VFIOInterface:   qat.VFIOInterfaces()[0],
			KernelVFDrivers: qat.KernelVFDrivers(),
			HealthInterval:  5 * time.Second,
			EtcRoot:         "/etc",
			ADFCtl:          "adf_ctl",
			AuditInterval:   10 * time.Minute,
			RecorderLimit:   2048,
		},
		kubeletDir:         strings.TrimSuffix(pluginapi.DevicePluginPath, "/"),
		podResourcesSocket: podresources.DefaultSocket,
		cdiDir:             "/var/run/cdi",
		statusSocket:       "/run/qat_plugin/status.sock",
		loggingFormat:      formatText,
	}
}

// newFlagSet returns the flags, which set o.
func newFlagSet(o *options) *flag.FlagSet {
	flags := flag.NewFlagSet("qat_plugin", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	drivers, vfDrivers := qat.DPDKDrivers(), qat.KernelVFDrivers()

	flags.Var(&oneOf{&o.qat.Mode, []string{qat.ModeDPDK, qat.ModeKernel}}, "mode",
		"`mode`: dpdk lists VFs for user space, kernel lists the processes of Intel's out-of-tree QAT driver")
	flags.Var(&oneOf{&o.qat.DPDKDriver, drivers}, "dpdk-driver",
		"`driver` that VFs are bound to: "+strings.Join(drivers, " or "))
	flags.Var(&someOf{&o.qat.KernelVFDrivers, vfDrivers}, "kernel-vf-drivers",
		"comma-separated list of the kernel VF `drivers` whose device families are served: "+
			strings.Join(vfDrivers, ","))
	flags.Var(&oneOf{&o.qat.VFIOInterface, qat.VFIOInterfaces()}, "vfio-interface",
		"`interface` through which containers use a VFIO device: group (/dev/vfio/N), "+
			"cdev (/dev/vfio/devices/vfioN and /dev/iommu), or auto (the group if its node exists)")
	flags.BoolVar(&o.bind, "bind", true,
		"bind VFs to the DPDK driver; without it, only VFs that others bound are listed")
	flags.BoolVar(&o.qat.Steal, "steal", false,
		"also take over VFs that are bound to another driver than their kernel driver, "+
			"or that driver_override reserves")
	flags.BoolVar(&o.qat.DryRun, "dry-run", false, "log what would be written to sysfs, and write nothing")
	flags.Var(&optional{&o.qat.AllocationPolicy, qat.Policies()}, "allocation-policy",
		"`policy` for the VFs that a container should get: balanced spreads them over PFs, packed fills one PF "+
			"before it uses the next; empty leaves the choice to the kubelet")
	flags.Var(&count{&o.qat.MaxNumDevices, "no limit"}, "max-num-devices",
		"list at most this `number` of VFs; 0 means no limit")
	flags.Var(&interval{&o.qat.HealthInterval, qat.MinHealthInterval}, "health-interval",
		"`time` between two heartbeats of a PF, at least 1s; 0 disables them")
	flags.BoolVar(&o.qat.Telemetry, "telemetry", false,
		"keep the telemetry of PFs on: utilization, bandwidth and latency, which the device measures each second")
	flags.Var(&optionalDirectory{&o.qat.ProvisioningDir}, "provisioning-dir",
		"`directory` of qat.yaml or qat.conf, the rules by which PFs get their services and VFs; "+
			"empty leaves PFs alone")
	flags.BoolVar(&o.qat.ProvisioningForce, "provisioning-force", false,
		"change PFs without waiting for pods that hold their VFs; such pods lose them")
	flags.Var(&optionalPath{&o.podResourcesSocket}, "pod-resources-socket",
		"`socket` at which the kubelet says which pods hold VFs; empty never asks the kubelet")

	flags.Var(&nonEmpty{&o.qat.ADFCtl, "the name or path of a program"}, "adf-ctl",
		"`program` that lists the devices of the out-of-tree driver, in mode kernel")
	flags.Var(&directory{&o.qat.EtcRoot}, "etc-root",
		"`directory` of the out-of-tree driver's configuration files, in mode kernel")

	flags.Var(&directory{&o.qat.SysfsRoot}, "sysfs-root", "`directory` where the host's sysfs is mounted")
	flags.Var(&directory{&o.qat.DevRoot}, "dev-root",
		"`directory` where the host's /dev is mounted; paths given to the kubelet always start with /dev")
	flags.Var(&nonEmpty{&o.kubeletDir, "the path of a directory"}, "kubelet-dir",
		"`directory` of kubelet.sock and of the plugins' sockets")
	flags.BoolVar(&o.useCDI, "use-cdi", false,
		"maintain CDI specs of the VFs, which are then also the CDI devices qat.intel.com/vf=ADDRESS")
	flags.Var(&nonEmpty{&o.cdiDir, "the path of a directory"}, "cdi-dir",
		"`directory` of the CDI specs, with -use-cdi; it is created if it does not exist")
	flags.Var(&interval{&o.qat.AuditInterval, minAuditInterval}, "audit-interval",
		"`time` between two full reads of the host that check that no event was missed, at least 1s; 0 disables them")
	flags.Var((*probe.Address)(&o.healthAddress), "health-address",
		"`address` HOST:PORT at which /livez and /readyz are served, such as :8081; empty disables them")
	flags.Var((*probe.Address)(&o.httpAddress), "http-address",
		"`address` HOST:PORT at which the status page, metrics and events are served, such as :8080; "+
			"empty disables them")
	flags.Var(&optionalPath{&o.statusSocket}, "status-socket",
		"`socket` at which qatctl finds the status, if the directory exists; empty disables it")
	flags.BoolVar(&o.kubernetesEvents, "kubernetes-events", false,
		"report devices that fail, VFs that cannot be bound and missing uevents as Kubernetes Events of the Node")
	flags.Var(&count{&o.qat.RecorderLimit, "nothing is recorded"}, "recorder-size",
		"keep this `number` of decisions about VFs for a recording, of about 1 KB each; 0 records nothing")
	flags.BoolVar(&o.profiling, "profiling", false,
		"also serve /debug/pprof/ at -http-address and -status-socket")
	flags.Var(&oneOf{&o.loggingFormat, []string{formatText, formatJSON}}, "logging-format",
		"`format` of the log: text, or json, one object on each line as Kubernetes components write them")
	flags.BoolVar(&o.version, "version", false, "print the version and exit")
	klog.InitFlags(flags)
	return flags
}

// parseFlags parses the command line. The error is [flag.ErrHelp] after -h, for which it prints
// the usage to out, or one line that names the flag, the value and what is allowed.
func parseFlags(args []string, out io.Writer) (*options, error) {
	o := defaultOptions()
	flags := newFlagSet(o)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(out, "qat_plugin reports the QuickAssist (QAT) devices of this host to the kubelet,",
			"as they come and go.\n\nFlags:")
		flags.SetOutput(out)
		flags.PrintDefaults()
		return nil, err
	case err != nil:
		return nil, explain(flags, err)
	case flags.NArg() > 0:
		return nil, unexpected(flags, args)
	}
	if sameAddress(o.healthAddress, o.httpAddress) {
		return nil, fmt.Errorf("-http-address: invalid value %q: must differ from -health-address; "+
			"without -health-address, /livez and /readyz are also served at -http-address", o.httpAddress)
	}
	o.values = map[string]string{}
	flags.VisitAll(func(f *flag.Flag) { o.values[f.Name] = f.Value.String() })
	if err := checkFormat(o.loggingFormat, flags); err != nil {
		return nil, err
	}
	flags.Visit(func(f *flag.Flag) {
		if mode := modeOf(f.Name); mode != "" && mode != o.qat.Mode {
			o.unused = append(o.unused, f.Name)
		}
	})
	o.qat.NoBind = !o.bind
	for _, d := range []*time.Duration{&o.qat.AuditInterval, &o.qat.HealthInterval} {
		if *d == 0 {
			*d = -1 // never; 0 would select the default
		}
	}
	if o.qat.RecorderLimit == 0 || !o.servesStatus() { // nobody could read the recording
		o.qat.RecorderLimit = -1
	}
	return o, nil
}

// sameAddress reports whether two servers cannot listen at both addresses.
func sameAddress(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA == "0" { // one is empty, or any free port
		return false
	}
	any := func(host string) bool { return host == "" || net.ParseIP(host).IsUnspecified() }
	return portA == portB && (hostA == hostB || any(hostA) || any(hostB))
}

// explain turns an error of package flag, which has the form
// `invalid value "x" for flag -name: cause` or, for a boolean flag,
// `invalid boolean value "x" for -name: cause`, into `-name: invalid value "x": must be …`.
func explain(flags *flag.FlagSet, err error) error {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "invalid boolean value "), "invalid value ")
	value, quoteErr := strconv.QuotedPrefix(text)
	rest, ok := strings.CutPrefix(strings.TrimPrefix(text, value), " for ")
	if quoteErr != nil || !ok {
		return fmt.Errorf("%w; see -h for the flags", err)
	}
	name, cause, _ := strings.Cut(strings.TrimPrefix(rest, "flag "), ": ")
	if f := flags.Lookup(strings.TrimPrefix(name, "-")); f != nil && !strings.HasPrefix(cause, mustBe) {
		allowed := klogValues[f.Name]
		if isBool(f) {
			allowed = "true or false"
		}
		if allowed != "" {
			cause = mustBe + allowed
		}
	}
	return fmt.Errorf("%s: invalid value %s: %s", name, value, cause)
}

// klogValues says what klog's flags allow, as far as they refuse anything. Their own errors do not.
var klogValues = map[string]string{
	"v":                        "a whole number, such as 2",
	"vmodule":                  "a comma-separated list of PATTERN=N, such as controller=4",
	"stderrthreshold":          "INFO, WARNING, ERROR or FATAL",
	"alsologtostderrthreshold": "INFO, WARNING, ERROR or FATAL",
	"log_backtrace_at":         "FILE:LINE, such as main.go:42, or empty",
	"log_file_max_size":        "a whole number of megabytes, 0 (no limit) or more",
}

// unexpected returns the error for the first argument that is not a flag. A value that belongs to a
// boolean flag must follow an equals sign.
func unexpected(flags *flag.FlagSet, args []string) error {
	argument := flags.Arg(0)
	if i := len(args) - flags.NArg() - 1; i >= 0 {
		f := flags.Lookup(strings.TrimLeft(args[i], "-"))
		if _, err := strconv.ParseBool(argument); err == nil && f != nil && isBool(f) {
			return fmt.Errorf("unexpected argument %q: write -%s=%s", argument, f.Name, argument)
		}
	}
	return fmt.Errorf("unexpected argument %q: only flags are allowed, see -h", argument)
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}
