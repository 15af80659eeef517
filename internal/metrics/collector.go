// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"qatplugin/internal/status"
)

// collectTimeout is how long a scrape waits for the event loops, and for the kernel to show the
// telemetry of the PFs. Prometheus waits 10 s by default.
const collectTimeout = 2 * time.Second

// A collector renders the state of a source. It is a [prometheus.Collector].
type collector struct {
	source    status.Source
	namespace string // of the resources
}

// Describe implements [prometheus.Collector]. It describes nothing, because which metrics exist
// depends on the state. The registry checks them when it gathers them.
func (*collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	var telemetry []status.Telemetry
	var reading sync.WaitGroup
	reading.Go(func() { telemetry = c.source.Telemetry(ctx) })
	s := c.source.Snapshot(ctx)
	reading.Wait()

	e := emitter{out}
	e.program(s)
	e.loops(s)
	e.uevents(&s.Counters)
	e.resources(s.Resources)
	e.devices(s, c.namespace)
	e.vfs(s)
	e.pfs(s.PFs)
	e.provisioning(s.Provisioning)
	e.dra(s.DRA)
	for i := range telemetry {
		e.telemetry(&telemetry[i])
	}
}

// A family is a metric with its labels.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func counter(name, help string, labels ...string) family {
	return family{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

func gauge(name, help string, labels ...string) family {
	return family{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

// An emitter passes metrics to a registry.
type emitter struct{ out chan<- prometheus.Metric }

// emit passes the value of a family for the given values of its labels.
func (e emitter) emit(f family, value float64, labels ...string) {
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(l, "\uFFFD") // what a driver writes may be anything
	}
	e.out <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
}

// count passes the value of a counter.
func (e emitter) count(f family, value uint64, labels ...string) {
	e.emit(f, float64(value), labels...)
}

// truth passes 1 if the value is true, and 0 otherwise.
func (e emitter) truth(f family, value bool, labels ...string) {
	if value {
		e.emit(f, 1, labels...)
	} else {
		e.emit(f, 0, labels...)
	}
}

var checkFailed = gauge("qat_plugin_check_failed", "1 if the health check of /readyz fails, 0 if it passes.", "check")

func (e emitter) program(s *status.Snapshot) {
	for _, c := range s.Checks {
		e.truth(checkFailed, c.Err != "", c.Name)
	}
}

var (
	snapshotStale = gauge("qat_plugin_snapshot_stale",
		"1 if the event loop did not answer in time and its metrics show an earlier state, 0 if they are new.", "loop")
	loopComplete = gauge("qat_plugin_loop_complete",
		"1 once the event loop has read the whole host, 0 before.", "loop")
	ueventsReceived = gauge("qat_plugin_uevents_received",
		"1 if the event loop receives the kernel's uevents, 0 if it may miss them.", "loop")
	mayMissEvents = gauge("qat_plugin_loop_may_miss_events",
		"1 while the event loop may miss events and audits run more often, 0 otherwise.", "loop")
	turns = counter("qat_plugin_loop_turns_total",
		"Times that the event loop woke up and did something.", "loop")
	resyncs = counter("qat_plugin_resyncs_total",
		"Full reads of the host after a loss of events.", "loop")
	audits = counter("qat_plugin_audits_total",
		"Full reads of the host that check whether an event was missed.", "loop")
	drift = counter("qat_plugin_drift_total",
		"Changes that an audit found and no event reported.", "loop")
)

func (e emitter) loops(s *status.Snapshot) {
	for i := range s.Loops {
		l := &s.Loops[i]
		e.truth(snapshotStale, l.Err != "", l.Name)
		e.truth(loopComplete, l.Complete, l.Name)
		e.truth(ueventsReceived, l.Uevents == "", l.Name)
		e.truth(mayMissEvents, l.MayMissEvents, l.Name)
	}
	for name, c := range s.Counters.Loops {
		e.count(turns, c.Turns, name)
		e.count(resyncs, c.Resyncs, name)
		e.count(audits, c.Audits, name)
		e.count(drift, c.Drift, name)
	}
}

var (
	uevents = counter("qat_plugin_uevents_total",
		"Uevents of the kernel, whatever device they concern.", "action", "subsystem")
	ueventsRejected = counter("qat_plugin_uevents_rejected_total",
		"Messages on the uevent socket that the kernel did not send.")
	ueventsMalformed = counter("qat_plugin_uevents_malformed_total",
		"Messages of the kernel that could not be parsed.")
	ueventOverflows = counter("qat_plugin_uevent_overflows_total",
		"Times that the buffer of the uevent socket was full.")
	ueventsDropped = counter("qat_plugin_uevents_dropped_total",
		"Uevents that the kernel dropped because the buffer of the socket was full.")
	inotifyEvents = counter("qat_plugin_inotify_events_total",
		"Inotify events of the watched files and directories.")
	binds = counter("qat_plugin_bind_attempts_total",
		"Attempts to bind a VF to the DPDK driver.", "result")
)

func (e emitter) uevents(c *status.Counters) {
	for action, bySubsystem := range c.Uevents {
		for subsystem, n := range bySubsystem {
			e.count(uevents, n, action, subsystem)
		}
	}
	e.count(ueventsRejected, c.Rejected)
	e.count(ueventsMalformed, c.Malformed)
	e.count(ueventOverflows, c.Overflows)
	e.count(ueventsDropped, c.Dropped)
	e.count(inotifyEvents, c.Inotify)
	for result, n := range c.Binds {
		e.count(binds, n, result)
	}
}

var (
	registered = gauge("qat_plugin_registered",
		"1 if the kubelet follows the list of the resource, 0 otherwise.", "resource")
	streams = gauge("qat_plugin_streams",
		"Open ListAndWatch streams.", "resource")
	listsSent = counter("qat_plugin_lists_sent_total",
		"Lists that were sent to the kubelet.", "resource")
	listBytes = counter("qat_plugin_list_bytes_total",
		"Bytes of the lists that were sent to the kubelet.", "resource")
	lastList = gauge("qat_plugin_last_list_timestamp_seconds",
		"Time when the last list was sent to the kubelet, since the Unix epoch.", "resource")
	allocatedDevices = counter("qat_plugin_allocated_devices_total",
		"Devices that Allocate calls have given to containers.", "resource")
)

func (e emitter) resources(list []status.Resource) {
	for i := range list {
		r := &list[i]
		e.truth(registered, r.Phase == status.PhaseWatching, r.Name)
		e.emit(streams, float64(r.Streams), r.Name)
		e.count(listsSent, r.Lists, r.Name)
		e.count(listBytes, r.Bytes, r.Name)
		if r.LastList != nil {
			e.emit(lastList, float64(r.LastList.UnixMilli())/1000, r.Name)
		}
		e.count(allocatedDevices, r.Allocated, r.Name)
	}
}

var devices = gauge("qat_plugin_devices",
	"Devices that the kubelet is offered: VFs, or processes in mode kernel.",
	"resource", "health", "pf", "numa_node")

// A deviceGroup is a set of devices that differ only in their health.
type deviceGroup struct{ resource, pf, numaNode string }

// devices counts the listed devices. Each group has a series for each health, so that a series does
// not disappear when its value is 0. A resource without devices has a group without PF and NUMA
// node.
func (e emitter) devices(s *status.Snapshot, namespace string) {
	groups := map[deviceGroup]map[string]int{}
	used := map[string]bool{}
	add := func(g deviceGroup, health string, n int) {
		if groups[g] == nil {
			groups[g] = map[string]int{}
		}
		groups[g][health] += n
		used[g.resource] = true
	}
	for i := range s.VFs {
		vf := &s.VFs[i]
		health := status.Healthy
		switch vf.State {
		case status.StateUnhealthy:
			health = status.Unhealthy
		case status.StateListed:
		default:
			continue
		}
		add(deviceGroup{namespace + "/" + vf.Resource, vf.PF, strconv.Itoa(vf.NUMANode)}, health, 1)
	}
	for _, p := range s.Processes {
		add(deviceGroup{resource: namespace + "/" + p.Resource}, p.Health, 1)
	}
	for i := range s.Resources {
		if name := s.Resources[i].Name; !used[name] {
			add(deviceGroup{resource: name}, status.Healthy, 0)
		}
	}
	for g, n := range groups {
		for _, health := range []string{status.Healthy, status.Unhealthy} {
			e.emit(devices, float64(n[health]), g.resource, health, g.pf, g.numaNode)
		}
	}
}

var (
	vfs = gauge("qat_plugin_vfs",
		"VFs of the host that the plugin knows.", "state")
	skippedVFs = gauge("qat_plugin_skipped_vfs",
		"VFs that are not offered to the kubelet, by the class of the reason.", "reason")
)

// vfs counts the VFs of mode dpdk.
func (e emitter) vfs(s *status.Snapshot) {
	if s.Mode != "dpdk" {
		return
	}
	states, classes := map[string]int{}, map[string]int{}
	for i := range s.VFs {
		vf := &s.VFs[i]
		states[vf.State]++
		if vf.State != status.StateSkipped {
			continue
		}
		class := vf.Class
		if !slices.Contains(status.SkipClasses, class) {
			class = status.ClassOther
		}
		classes[class]++
	}
	for _, state := range []string{
		status.StateListed, status.StateUnhealthy, status.StateBinding, status.StateSkipped,
	} {
		e.emit(vfs, float64(states[state]), state)
	}
	for _, class := range status.SkipClasses {
		e.emit(skippedVFs, float64(classes[class]), class)
	}
}

var (
	pfUp = gauge("qat_device_pf_up",
		"1 if the driver shows the PF as up, 0 if not. Absent if the driver does not show it.", "pf", "numa_node")
	pfHealthy = gauge("qat_device_pf_healthy",
		"1 if the PF is healthy, 0 if its VFs must not be used.", "pf")
	pfWithdrawn = gauge("qat_device_pf_withdrawn",
		"1 while the VFs of the PF are withdrawn so that it can be provisioned, 0 otherwise.", "pf")
	pfInfo = gauge("qat_device_pf_info",
		"Constant facts about the PF and its current services. The value is 1.",
		"pf", "family", "driver", "services", "resource")
	pfVFs = gauge("qat_device_pf_vfs",
		"VFs of the PF that exist.", "pf")
	pfMaxVFs = gauge("qat_device_pf_vfs_max",
		"VFs that the PF can have.", "pf")
	heartbeats = counter("qat_device_heartbeats_total",
		"Heartbeat checks of the PF.", "pf", "result")
)

func (e emitter) pfs(list []status.PF) {
	for i := range list {
		pf := &list[i]
		if pf.State != "" {
			e.truth(pfUp, pf.State == "up", pf.Address, strconv.Itoa(pf.NUMANode))
		}
		e.truth(pfHealthy, pf.Health == status.Healthy, pf.Address)
		e.truth(pfWithdrawn, pf.Withdrawn != "", pf.Address)
		e.emit(pfInfo, 1, pf.Address, pf.Family, pf.Driver, pf.Services, pf.Resource)
		e.emit(pfVFs, float64(pf.VFs), pf.Address)
		if pf.TotalVFs > 0 {
			e.emit(pfMaxVFs, float64(pf.TotalVFs), pf.Address)
		}
		if h := pf.Heartbeat; h.Last != "" {
			e.count(heartbeats, h.Good, pf.Address, "good")
			e.count(heartbeats, h.Failed, pf.Address, "failed")
		}
	}
}

var (
	provisioningPFs = gauge("qat_plugin_provisioning_pfs",
		"PFs that have a provisioning rule.", "state")
	provisioningValid = gauge("qat_plugin_provisioning_config_valid",
		"1 if the provisioning configuration that exists is in force, 0 if it has errors.")
)

func (e emitter) provisioning(p *status.Provisioning) {
	if p == nil {
		return
	}
	states := map[string]int{}
	for i := range p.PFs {
		states[p.PFs[i].State]++
	}
	for _, state := range []string{
		status.ProvisioningDone, status.ProvisioningRunning, status.ProvisioningWaiting, status.ProvisioningFailed,
	} {
		e.emit(provisioningPFs, float64(states[state]), state)
	}
	e.truth(provisioningValid, p.Err == "")
}

var (
	draDevices = gauge("qat_dra_devices",
		"Devices of the pool that the driver offers. Claims hold those that are gone.", "health")
	draSlices = gauge("qat_dra_slices",
		"ResourceSlices of the driver at the API server.")
	draPublished = gauge("qat_dra_published",
		"1 if the API server has the newest state of all devices, 0 otherwise.")
	draRegistered = gauge("qat_dra_registered",
		"1 if the kubelet has registered the driver, 0 otherwise.")
	draHealthStreams = gauge("qat_dra_health_streams",
		"Streams on which the kubelet follows the health of the devices.")
	draClaims = gauge("qat_dra_claims",
		"Claims that are prepared.")
	draClaimedDevices = gauge("qat_dra_claimed_devices",
		"Devices that prepared claims hold.")
	draRuntime = gauge("qat_dra_runtime_supported",
		"1 if the container runtime gives devices of claims to containers, 0 if it ignores them.")
)

func (e emitter) dra(d *status.DRA) {
	if d == nil {
		return
	}
	e.emit(draDevices, float64(d.Healthy), status.Healthy)
	e.emit(draDevices, float64(d.Gone), "gone")
	e.emit(draDevices, float64(d.Devices-d.Healthy-d.Gone), status.Unhealthy)
	e.emit(draSlices, float64(len(d.Slices)))
	e.truth(draPublished, d.PublishErr == "")
	e.truth(draRegistered, d.Registered)
	e.emit(draHealthStreams, float64(d.HealthStreams))
	e.emit(draClaims, float64(len(d.Claims)))
	held := 0
	for i := range d.Claims {
		for _, device := range d.Claims[i].Devices {
			if !device.AdminAccess {
				held++
			}
		}
	}
	e.emit(draClaimedDevices, float64(held))
	e.truth(draRuntime, d.RuntimeErr == "")
}
