// SPDX-License-Identifier: Apache-2.0

package program

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
	"qatplugin/internal/flagvalue"
	"qatplugin/internal/status"
	"qatplugin/kubeletapi/probe"
	"qatplugin/qat"
)

const (
	// minAuditInterval keeps the audit a check once in a while, not a scan loop.
	minAuditInterval = time.Second

	// journalLimit is the number of events that the journal keeps, of about 200 bytes each.
	journalLimit = 1000
)

// Options are the values of the flags that mean the same in each program.
type Options struct {
	QAT              qat.Config
	KubernetesEvents bool
	ShowVersion      bool

	bind          bool
	healthAddress string
	httpAddress   string
	statusSocket  string
	profiling     bool
	loggingFormat string            // one of formatText and formatJSON
	values        map[string]string // of all flags by name, as text
}

// DefaultOptions returns the options without any flags. statusSocket is the default of
// -status-socket. The sources of the host's events are part of the options.
func DefaultOptions(statusSocket string) Options {
	return Options{
		QAT: qat.Config{
			Mode:            qat.ModeDPDK,
			SysfsRoot:       "/sys",
			DevRoot:         "/dev",
			DPDKDriver:      qat.DPDKDrivers()[0],
			VFIOInterface:   qat.VFIOInterfaces()[0],
			KernelVFDrivers: qat.KernelVFDrivers(),
			HealthInterval:  5 * time.Second,
			AuditInterval:   10 * time.Minute,
			RecorderLimit:   2048,
			Sources: []func() (events.Source, error){
				func() (events.Source, error) { return events.ListenUevents() },
			},
			OpenWatcher: func() (qat.Watcher, error) { return events.NewWatcher() },
		},
		statusSocket:  statusSocket,
		loggingFormat: formatText,
	}
}

// NewFlagSet returns the flags of a program that set o, and those of klog. The program adds its own
// flags.
func (o *Options) NewFlagSet(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	drivers, vfDrivers := qat.DPDKDrivers(), qat.KernelVFDrivers()

	flags.Var(flagvalue.OneOf(&o.QAT.DPDKDriver, drivers...), "dpdk-driver",
		"`driver` that VFs are bound to: "+strings.Join(drivers, " or "))
	flags.Var(flagvalue.SomeOf(&o.QAT.KernelVFDrivers, vfDrivers...), "kernel-vf-drivers",
		"comma-separated list of the kernel VF `drivers` whose device families are served: "+
			strings.Join(vfDrivers, ","))
	flags.Var(flagvalue.OneOf(&o.QAT.VFIOInterface, qat.VFIOInterfaces()...), "vfio-interface",
		"`interface` through which containers use a VFIO device: group (/dev/vfio/N), "+
			"cdev (/dev/vfio/devices/vfioN and /dev/iommu), or auto (the group if its node exists)")
	flags.BoolVar(&o.bind, "bind", true,
		"bind VFs to the DPDK driver; without it, only VFs that others bound are listed")
	flags.BoolVar(&o.QAT.Steal, "steal", false,
		"also take over VFs that are bound to another driver than their kernel driver, "+
			"or that driver_override reserves")
	flags.BoolVar(&o.QAT.DryRun, "dry-run", false, "log what would be written to sysfs, and write nothing")
	flags.Var(flagvalue.Count(&o.QAT.MaxNumDevices, "no limit"), "max-num-devices",
		"list at most this `number` of VFs; 0 means no limit")
	flags.Var(flagvalue.Interval(&o.QAT.HealthInterval, qat.MinHealthInterval), "health-interval",
		"`time` between two heartbeats of a PF, at least 1s; 0 disables them")
	flags.BoolVar(&o.QAT.Telemetry, "telemetry", false,
		"keep the telemetry of PFs on: utilization, bandwidth and latency, which the device measures each second")
	flags.Var(flagvalue.OptionalDirectory(&o.QAT.ProvisioningDir), "provisioning-dir",
		"`directory` of qat.yaml or qat.conf, the rules by which PFs get their services and VFs; "+
			"empty leaves PFs alone")
	flags.BoolVar(&o.QAT.ProvisioningForce, "provisioning-force", false,
		"change PFs without waiting for pods that hold their VFs; such pods lose them")

	flags.Var(flagvalue.Directory(&o.QAT.SysfsRoot), "sysfs-root", "`directory` where the host's sysfs is mounted")
	flags.Var(flagvalue.Interval(&o.QAT.AuditInterval, minAuditInterval), "audit-interval",
		"`time` between two full reads of the host that check that no event was missed, at least 1s; 0 disables them")
	flags.Var((*probe.Address)(&o.healthAddress), "health-address",
		"`address` HOST:PORT at which /livez and /readyz are served, such as :8081; empty disables them")
	flags.Var((*probe.Address)(&o.httpAddress), "http-address",
		"`address` HOST:PORT at which the status page, metrics and events are served, such as :8080; "+
			"empty disables them")
	flags.Var(flagvalue.OptionalPath(&o.statusSocket), "status-socket",
		"`socket` at which qatctl finds the status, if the directory exists; empty disables it")
	flags.BoolVar(&o.KubernetesEvents, "kubernetes-events", false,
		"report devices that fail, VFs that cannot be bound and missing uevents as Kubernetes Events of the Node")
	flags.Var(flagvalue.Count(&o.QAT.RecorderLimit, "nothing is recorded"), "recorder-size",
		"keep this `number` of decisions about VFs for a recording, of about 1 KB each; 0 records nothing")
	flags.BoolVar(&o.profiling, "profiling", false,
		"also serve /debug/pprof/ at -http-address and -status-socket")
	flags.Var(flagvalue.OneOf(&o.loggingFormat, formatText, formatJSON), "logging-format",
		"`format` of the log: text, or json, one object on each line as Kubernetes components write them")
	flags.BoolVar(&o.ShowVersion, "version", false, "print the version and exit")
	klog.InitFlags(flags)
	return flags
}

// Parse parses the command line into the variables of flags, which o.NewFlagSet has returned, and
// completes o. The error is as that of [flagvalue.Parse].
func (o *Options) Parse(flags *flag.FlagSet, args []string, about string, out io.Writer) error {
	if err := flagvalue.Parse(flags, args, about, out); err != nil {
		return err
	}
	if sameAddress(o.healthAddress, o.httpAddress) {
		return fmt.Errorf("-http-address: invalid value %q: must differ from -health-address; "+
			"without -health-address, /livez and /readyz are also served at -http-address", o.httpAddress)
	}
	o.values = map[string]string{}
	flags.VisitAll(func(f *flag.Flag) { o.values[f.Name] = f.Value.String() })
	if err := checkFormat(o.loggingFormat, flags); err != nil {
		return err
	}
	o.QAT.NoBind = !o.bind
	for _, d := range []*time.Duration{&o.QAT.AuditInterval, &o.QAT.HealthInterval} {
		if *d == 0 {
			*d = -1 // never; 0 would select the default
		}
	}
	if o.QAT.RecorderLimit == 0 || !o.ServesStatus() { // nobody could read the recording
		o.QAT.RecorderLimit = -1
	}
	return nil
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

// StartLog makes the log write to w in the format of -logging-format.
func (o *Options) StartLog(w io.Writer) {
	if o.loggingFormat == formatJSON {
		logAsJSON(w)
	}
}

// LogUnused logs which flags have no effect, because of other flags or of what the host has.
func (o *Options) LogUnused() {
	if o.QAT.ProvisioningForce && o.QAT.ProvisioningDir == "" {
		klog.InfoS("-provisioning-force has no effect without -provisioning-dir")
	}
	if o.statusSocket != "" && !o.servesStatusSocket() {
		klog.V(1).InfoS("Not serving the status socket, because its directory does not exist", "socket", o.statusSocket)
	}
}

// NewJournal returns the journal for the parts of the program, or nil if nobody would read it.
func (o *Options) NewJournal() *status.Journal {
	if !o.ServesStatus() && !o.KubernetesEvents {
		return nil
	}
	return status.NewJournal(journalLimit)
}

// ServesStatus reports whether the status is served at all.
func (o *Options) ServesStatus() bool { return o.httpAddress != "" || o.servesStatusSocket() }

// servesStatusSocket reports whether the directory of -status-socket exists.
func (o *Options) servesStatusSocket() bool {
	if o.statusSocket == "" {
		return false
	}
	info, err := os.Stat(filepath.Dir(o.statusSocket))
	return err == nil && info.IsDir()
}

// recordingFile is the name of the file beside the status socket that SIGUSR1 writes.
const recordingFile = "recording.ndjson"

// recordingPath returns the path of the file; "" without -status-socket.
func (o *Options) recordingPath() string {
	if o.statusSocket == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(o.statusSocket), recordingFile)
}
