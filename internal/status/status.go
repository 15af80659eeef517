// SPDX-License-Identifier: Apache-2.0

// Package status describes what the plugin knows, for people and programs that look into it: the
// status page, the metrics, qatctl and the recorder.
//
// A [Snapshot] is what the plugin knows at one time. The program builds one for a reader, from
// state that its event loops copy on request. An [Event] is one thing that happened. The program
// appends each of them to a [Journal], which keeps the newest ones.
//
// The JSON encoding of all types is an interface: fields are added, and not renamed or removed.
// Times are in RFC 3339, durations in seconds, and addresses are PCI addresses such as
// "0000:6b:00.1". Empty fields are omitted.
package status

import (
	"context"
	"io"
	"time"
)

// A Source provides snapshots. All methods may be called from any goroutine.
type Source interface {
	// Snapshot returns the newest state. It waits until the event loops have copied it, which takes
	// microseconds unless the kernel blocks them. If a loop does not answer before ctx ends, the
	// Snapshot has its last known state, and its Loop has an Err.
	Snapshot(ctx context.Context) *Snapshot

	// Journal returns the journal of what happened.
	Journal() *Journal

	// Telemetry reads the counters of each PF. It waits for the kernel, until ctx ends at most, and
	// leaves out PFs that it could not read by then.
	Telemetry(ctx context.Context) []Telemetry

	// WriteRecording writes what the recorder holds to w, as lines of JSON.
	WriteRecording(ctx context.Context, w io.Writer) error
}

// A Snapshot is what the plugin knows at one time. It does not change.
type Snapshot struct {
	Time    time.Time `json:"time"`
	Started time.Time `json:"started"`        // start of the process
	Version string    `json:"version"`        // of the program
	Mode    string    `json:"mode"`           // "dpdk" or "kernel"
	Node    string    `json:"node,omitempty"` // name of the node; unknown outside Kubernetes

	Checks    []Check    `json:"checks"`    // the health checks of /readyz
	Loops     []Loop     `json:"loops"`     // event loops: "devices", and "provisioning" if it runs
	Resources []Resource `json:"resources"` // of the device plugin, sorted by name
	PFs       []PF       `json:"pfs"`       // sorted by address
	VFs       []VF       `json:"vfs"`       // sorted by address
	Processes []Process  `json:"processes"` // of mode kernel, sorted by ID

	Provisioning *Provisioning `json:"provisioning,omitempty"` // nil without -provisioning-dir
	DRA          *DRA          `json:"dra,omitempty"`          // nil for the device plugin

	Counters Counters `json:"counters"` // since the start of the process
}

// A Check is the result of a health check.
type Check struct {
	Name string `json:"name"`
	Err  string `json:"err,omitempty"` // why it failed; "" if it passed
}

// A Finding is what a check of the host found: see qat.Diagnose.
type Finding struct {
	Check  string `json:"check"`            // name of the check, such as "iommu"
	Result string `json:"result"`           // one of the Finding constants
	Found  string `json:"found"`            // in one line, with the file that shows it
	Remedy string `json:"remedy,omitempty"` // a command or a setting for the host; "" if nothing is to be done
}

// The results of a check of the host.
const (
	FindingOK      = "ok"
	FindingWarning = "warning" // some workloads or some devices may not work
	FindingProblem = "problem" // devices cannot be used
	FindingSkipped = "skipped" // it could not be checked, or does not apply
)

// A Loop is the state of an event loop.
type Loop struct {
	Name string `json:"name"`
	Err  string `json:"err,omitempty"` // why its state is that of an earlier time; "" if it is new

	Complete      bool       `json:"complete"`                // the whole host has been read
	MayMissEvents bool       `json:"mayMissEvents,omitempty"` // audits run more often meanwhile
	Uevents       string     `json:"uevents,omitempty"`       // why kernel uevents may not arrive; "" if they do
	NextAudit     *time.Time `json:"nextAudit,omitempty"`     // nil: never

	// Skipped is what is not listed or provisioned, or another problem, by name: the reason.
	Skipped map[string]string `json:"skipped,omitempty"`
}

// A Resource is the state of a resource at the kubelet.
type Resource struct {
	Name      string     `json:"name"`    // with the namespace, such as "qat.intel.com/cy"
	Devices   int        `json:"devices"` // that are listed
	Healthy   int        `json:"healthy"`
	Phase     string     `json:"phase"`              // one of the Phase constants
	Err       string     `json:"err,omitempty"`      // why the kubelet does not follow the list, or not all of it
	Streams   int        `json:"streams"`            // open ListAndWatch streams
	Lists     uint64     `json:"lists"`              // that were sent
	Bytes     uint64     `json:"bytes"`              // of these lists
	LastList  *time.Time `json:"lastList,omitempty"` // when the last one was sent
	Allocated uint64     `json:"allocated"`          // devices that Allocate has given out
	Failed    uint64     `json:"failed"`             // Allocate calls that failed
}

// The phases of a Resource.
const (
	PhaseIdle        = "idle"        // there is no kubelet, or the socket could not be created
	PhaseRegistering = "registering" // the kubelet has not answered
	PhaseFailed      = "failed"      // the kubelet refused the registration
	PhaseRegistered  = "registered"  // the kubelet has not called ListAndWatch
	PhaseWatching    = "watching"    // the kubelet follows the list
	PhaseLost        = "lost"        // the kubelet has ended its stream
)

// A PF is a physical function.
type PF struct {
	Address  string `json:"address"`
	Family   string `json:"family"`           // such as "4xxx" or "C62x"
	DeviceID string `json:"deviceID"`         // PCI device ID, four hexadecimal digits
	Driver   string `json:"driver,omitempty"` // "" if it has none
	NUMANode int    `json:"numaNode"`         // -1 if unknown
	State    string `json:"state,omitempty"`  // of qat/state: "up", "down", ...; "" if the driver does not show it
	Services string `json:"services,omitempty"`
	Resource string `json:"resource"` // of its VFs, without the namespace
	VFs      int    `json:"vfs"`      // number of VFs that exist
	TotalVFs int    `json:"totalVFs,omitempty"`

	Health  string `json:"health"`            // one of the Health constants
	Reason  string `json:"reason,omitempty"`  // why it is not healthy
	ReadErr string `json:"readErr,omitempty"` // why it could not be read in full

	Heartbeat Heartbeat `json:"heartbeat"`
	Withdrawn string    `json:"withdrawn,omitempty"` // why its VFs are withdrawn
}

// A Heartbeat counts the heartbeat checks of a PF since the plugin has known it.
type Heartbeat struct {
	Last   string     `json:"last,omitempty"` // "good", "failed" or "unknown"; "" if there was none
	LastAt *time.Time `json:"lastAt,omitempty"`
	Good   uint64     `json:"good"`
	Failed uint64     `json:"failed"`
}

// The health of a function.
const (
	Healthy   = "healthy"
	Unhealthy = "unhealthy"
)

// A VF is a virtual function.
type VF struct {
	Address    string `json:"address"`
	PF         string `json:"pf,omitempty"` // "" in a guest
	Family     string `json:"family"`
	DeviceID   string `json:"deviceID"`
	Driver     string `json:"driver,omitempty"`
	NUMANode   int    `json:"numaNode"` // -1 if unknown
	IOMMUGroup *int   `json:"iommuGroup,omitempty"`
	Node       string `json:"node,omitempty"` // path of its device node, such as "/dev/vfio/12"

	State    string `json:"state"`              // one of the State constants
	Resource string `json:"resource,omitempty"` // in which it is listed, without the namespace
	Reason   string `json:"reason,omitempty"`   // why it is not listed, or unhealthy
	Class    string `json:"class,omitempty"`    // of the Reason why it is skipped: one of SkipClasses
	Holder   string `json:"holder,omitempty"`   // "namespace/name" of the pod or, with DRA, of the claim that has it
}

// The states of a VF.
const (
	StateListed    = "listed"    // the kubelet may give it to a pod
	StateUnhealthy = "unhealthy" // it is listed, and must not be given to a pod
	StateBinding   = "binding"   // it is being bound, or waits for its device node
	StateSkipped   = "skipped"   // it is not listed
)

// The classes of the reasons why a VF is skipped. They are few and constant, so that a metric can
// have them as a label.
const (
	ClassUnreadable      = "unreadable"        // the VF, its PF or its IOMMU group cannot be read
	ClassFamily          = "family-not-served" // -kernel-vf-drivers does not have the driver of its family
	ClassRemoving        = "removing"          // it is being removed, or its PF is gone
	ClassReleasing       = "releasing"         // a workload still has it open, and it has lost its driver
	ClassWithdrawn       = "withdrawn"         // its PF is being provisioned
	ClassNotBound        = "not-bound"         // -bind=false leaves binding to others
	ClassOtherDriver     = "other-driver"      // it is bound to another driver, and -steal is off
	ClassDriverNotLoaded = "driver-not-loaded" // the DPDK driver is not loaded
	ClassNoIOMMUGroup    = "no-iommu-group"    // the IOMMU is off
	ClassDenylist        = "denylist"          // the DPDK driver refuses its family
	ClassGroupBlocked    = "group-blocked"     // another function of its IOMMU group has a driver of the host
	ClassGroupShared     = "group-shared"      // another VF of its IOMMU group is listed
	ClassBindFailed      = "bind-failed"       // the attempts to bind it have failed
	ClassLimit           = "limit"             // -max-num-devices VFs are listed
	ClassOther           = "other"
)

// The classes of the reasons why a listed VF is unhealthy, besides ClassReleasing and
// ClassWithdrawn.
const (
	ClassPFDown     = "pf-down"     // its PF is down
	ClassHeartbeat  = "heartbeat"   // its PF has failed a heartbeat check, or does not answer one
	ClassFatalError = "fatal-error" // its PF has had a fatal error (RAS)
	ClassPCIError   = "pci-error"   // it or its PF has had a PCI error (AER)
)

// A Reason is why a VF is not listed, or unhealthy. The zero Reason means that it is neither.
type Reason struct {
	Class string // one of the Class constants
	Text  string // for people
}

// SkipClasses are the values of VF.Class.
var SkipClasses = []string{
	ClassUnreadable, ClassFamily, ClassRemoving, ClassReleasing, ClassWithdrawn, ClassNotBound, ClassOtherDriver,
	ClassDriverNotLoaded, ClassNoIOMMUGroup, ClassDenylist, ClassGroupBlocked, ClassGroupShared, ClassBindFailed,
	ClassLimit, ClassOther,
}

// A Process is a unit of mode kernel.
type Process struct {
	ID       string `json:"id"`
	Resource string `json:"resource"`
	Health   string `json:"health"`
	Reason   string `json:"reason,omitempty"`
}

// Provisioning is the state of the loop that provisions PFs.
type Provisioning struct {
	File string          `json:"file,omitempty"` // the configuration in force; "" if there is none
	Err  string          `json:"err,omitempty"`  // why the files that exist now are not in force
	PFs  []ProvisionedPF `json:"pfs"`            // those that have a rule, sorted by address
}

// A ProvisionedPF is a PF that has a rule.
type ProvisionedPF struct {
	Address string `json:"address"`
	Rule    string `json:"rule"`             // where the rule is: file and line
	State   string `json:"state"`            // one of the Provisioning constants
	Reason  string `json:"reason,omitempty"` // what it waits for, or why it cannot be provisioned
}

// The states of a ProvisionedPF.
const (
	ProvisioningDone    = "done"    // the PF is as its rule wants
	ProvisioningRunning = "running" // writes are being made
	ProvisioningWaiting = "waiting" // it waits, for example for a pod that holds a VF
	ProvisioningFailed  = "failed"  // the last attempt failed, or the rule cannot be met
)

// Counters count since the start of the process. The labels of each map are bounded.
type Counters struct {
	Uevents   map[string]map[string]uint64 `json:"uevents"`   // action → subsystem → number
	Inotify   uint64                       `json:"inotify"`   // inotify events
	Rejected  uint64                       `json:"rejected"`  // messages that the kernel did not send
	Malformed uint64                       `json:"malformed"` // messages that are no uevents
	Overflows uint64                       `json:"overflows"` // times that the socket's buffer was full
	Dropped   uint64                       `json:"dropped"`   // messages that the kernel dropped then
	Loops     map[string]LoopCounters      `json:"loops"`     // by name of the loop
	Binds     map[string]uint64            `json:"binds"`     // attempts to bind a VF, by result: see BindResults
}

// LoopCounters count what an event loop did.
type LoopCounters struct {
	Turns   uint64 `json:"turns"`   // times that it woke up and did something
	Resyncs uint64 `json:"resyncs"` // full reads after a loss
	Audits  uint64 `json:"audits"`
	Drift   uint64 `json:"drift"` // changes that an audit found and no event reported
}

// BindResults are the keys of Counters.Binds.
var BindResults = []string{"bound", "failed", "reserved", "lost"}

// Telemetry holds the counters that a PF's driver shows. Each field is empty if the driver or the
// kernel does not have it, and the device telemetry if it is off.
type Telemetry struct {
	Address string    `json:"address"`       // of the PF
	Time    time.Time `json:"time"`          // when it was read
	Err     string    `json:"err,omitempty"` // why a part of it could not be read

	// Device is the telemetry of the device
	// (Documentation/ABI/testing/debugfs-driver-qat_telemetry).
	Device *DeviceTelemetry `json:"device,omitempty"`

	// Firmware counts the messages of each engine (fw_counters,
	// Documentation/ABI/testing/debugfs-driver-qat).
	Firmware []EngineCounters `json:"firmware,omitempty"`

	// CompressErrors counts the compress-and-verify errors of each engine (cnv_errors), by engine.
	CompressErrors map[string]uint64 `json:"compressErrors,omitempty"`

	// RAS counts the errors of qat_ras/errors_*, by "correctable", "nonfatal" and "fatal"
	// (Documentation/ABI/testing/sysfs-driver-qat_ras).
	RAS map[string]uint64 `json:"ras,omitempty"`

	// AER counts the PCIe errors of the PF by "correctable", "nonfatal" and "fatal": the totals of
	// aer_dev_* (Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats).
	AER map[string]uint64 `json:"aer,omitempty"`
}

// DeviceTelemetry is telemetry/device_data, averaged by the device over its last second.
type DeviceTelemetry struct {
	Samples uint64 `json:"samples"` // sample_cnt

	// Utilization is the mean of the slices of each type in percent, by type: see Slice.
	Utilization map[string]float64 `json:"utilization"`
	Slices      []Slice            `json:"slices"`

	BandwidthIn  float64 `json:"bandwidthIn"`  // bits per second
	BandwidthOut float64 `json:"bandwidthOut"` // bits per second

	// Latencies in seconds, as far as the device has them.
	ReadLatency        float64 `json:"readLatency,omitempty"`        // rd_lat_acc_avg
	MaxReadLatency     float64 `json:"maxReadLatency,omitempty"`     // max_rd_lat
	GetPutLatency      float64 `json:"getPutLatency,omitempty"`      // gp_lat_acc_avg
	MaxGetPutLatency   float64 `json:"maxGetPutLatency,omitempty"`   // max_gp_lat
	PageRequestLatency float64 `json:"pageRequestLatency,omitempty"` // at_page_req_lat_avg
	TranslationLatency float64 `json:"translationLatency,omitempty"` // at_trans_lat_avg

	PCITransactions uint64 `json:"pciTransactions"` // pci_trans_cnt, partial
}

// A Slice is a hardware unit of a PF.
type Slice struct {
	// Type is "cpr", "xlt", "dcpr", "pke", "wat", "wcp", "ucs", "cph" or "ath"; of 6xxx, "cnv",
	// "dcprz", "pke", "wat", "wcp", "ucs" or "ath".
	Type        string  `json:"type"`
	Index       int     `json:"index"`
	Utilization float64 `json:"utilization"` // percent
	Executions  uint64  `json:"executions"`  // exec_<type><index>
}

// EngineCounters counts the messages of one acceleration engine.
type EngineCounters struct {
	Engine    string `json:"engine"`
	Requests  uint64 `json:"requests"`
	Responses uint64 `json:"responses"`
}
