// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/internal/testlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSource is a source with a constant state.
type fakeSource struct {
	status.Source // nil: the metrics use only the methods below

	snapshot  *status.Snapshot
	telemetry []status.Telemetry
	blocked   bool // Telemetry returns nothing before its context ends
}

// Snapshot returns an empty state if ctx has ended.
func (s *fakeSource) Snapshot(ctx context.Context) *status.Snapshot {
	if ctx.Err() != nil {
		return &status.Snapshot{}
	}
	return s.snapshot
}

func (s *fakeSource) Telemetry(ctx context.Context) []status.Telemetry {
	if s.blocked {
		<-ctx.Done()
		return nil
	}
	return s.telemetry
}

// fullSource returns a source in which nothing is missing.
func fullSource() *fakeSource {
	sent := time.UnixMilli(1_700_000_000_250)
	return &fakeSource{
		snapshot: &status.Snapshot{
			Mode: "dpdk",
			Checks: []status.Check{
				{Name: "event-loop"},
				{Name: "registered", Err: "kubelet.sock not found"},
			},
			Loops: []status.Loop{
				{Name: "devices", Complete: true},
				{Name: "provisioning", Err: "blocked", MayMissEvents: true, Uevents: "the probe did not return"},
			},
			Resources: []status.Resource{
				{
					Name: cy, Devices: 3, Healthy: 2, Phase: status.PhaseWatching, Streams: 2,
					Lists: 17, Bytes: 4711, LastList: &sent, Allocated: 6, Failed: 1,
					Err: "only the first 3 devices are offered",
				},
				{Name: dc, Phase: status.PhaseFailed, Err: "refused"},
			},
			PFs: []status.PF{
				{
					Address: "0000:6b:00.0", Family: "4xxx", Driver: "4xxx", NUMANode: 1, State: "up",
					Services: "sym;asym", Resource: "cy", VFs: 5, TotalVFs: 16, Health: status.Healthy,
					Heartbeat: status.Heartbeat{Last: "good", Good: 101, Failed: 3},
				},
				{
					Address: "0000:70:00.0", Family: "4xxx", Driver: "4xxx", NUMANode: -1, State: "down",
					Services: "dc", Resource: "dc", VFs: 1, Health: status.Unhealthy, Reason: "down",
					Withdrawn: "it is being provisioned",
				},
				{Address: "0000:75:00.0", Family: "C62x", Resource: "generic", State: "new", Health: status.Healthy},
			},
			VFs: []status.VF{
				{Address: "0000:6b:00.1", PF: "0000:6b:00.0", NUMANode: 1, State: status.StateListed, Resource: "cy"},
				{Address: "0000:6b:00.2", PF: "0000:6b:00.0", NUMANode: 1, State: status.StateListed, Resource: "cy"},
				{
					Address: "0000:6b:00.3", PF: "0000:6b:00.0", NUMANode: 1,
					State: status.StateUnhealthy, Resource: "cy",
				},
				{Address: "0000:6b:00.4", PF: "0000:6b:00.0", State: status.StateBinding},
				{
					Address: "0000:6b:00.5", PF: "0000:6b:00.0", State: status.StateSkipped,
					Class: status.ClassLimit, Reason: "hidden by -max-num-devices=3",
				},
				{
					Address: "0000:70:00.1", PF: "0000:70:00.0", State: status.StateSkipped,
					Class: status.ClassWithdrawn, Reason: "it is being provisioned",
				},
				{Address: "0000:80:00.1", State: status.StateSkipped, Class: "of a later version"},
				{Address: "0000:00:05.0", NUMANode: -1, State: status.StateListed, Resource: "generic"},
			},
			Provisioning: &status.Provisioning{
				Err: "line 3: unknown key",
				PFs: []status.ProvisionedPF{
					{State: status.ProvisioningDone}, {State: status.ProvisioningDone},
					{State: status.ProvisioningFailed},
				},
			},
			Counters: status.Counters{
				Uevents: map[string]map[string]uint64{
					"add":  {"pci": 11, "vfio-dev": 12},
					"bind": {"pci": 13},
				},
				Inotify: 21, Rejected: 22, Malformed: 23, Overflows: 24, Dropped: 25,
				Loops: map[string]status.LoopCounters{
					"devices":      {Turns: 31, Resyncs: 32, Audits: 33, Drift: 34},
					"provisioning": {Turns: 35, Resyncs: 36, Audits: 37, Drift: 38},
				},
				Binds: map[string]uint64{"bound": 41, "failed": 42},
			},
		},
		telemetry: []status.Telemetry{
			{
				Address: "0000:6b:00.0",
				Device: &status.DeviceTelemetry{
					Samples: 51, Utilization: map[string]float64{"cpr": 25, "pke": 50},
					BandwidthIn: 8e9, BandwidthOut: 4e9,
					ReadLatency: 1e-6, MaxReadLatency: 2e-6, GetPutLatency: 3e-6, MaxGetPutLatency: 4e-6,
					PageRequestLatency: 5e-6, TranslationLatency: 6e-6,
				},
				Firmware:       []status.EngineCounters{{Engine: "0", Requests: 61, Responses: 60}},
				CompressErrors: map[string]uint64{"0": 71},
				RAS:            map[string]uint64{"correctable": 81, "nonfatal": 82, "fatal": 83},
				AER:            map[string]uint64{"correctable": 91, "nonfatal": 92, "fatal": 93},
			},
			{Address: "0000:70:00.0", RAS: map[string]uint64{"fatal": 84}},
		},
	}
}

// scrape returns the series of the plugin, sorted, with the text "name{labels} value".
func scrape(t *testing.T, h http.Handler) (series []string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if recorder.Code != http.StatusOK {
		t.Fatalf("status %d: %s", recorder.Code, recorder.Body)
	}
	for line := range strings.Lines(recorder.Body.String()) {
		if strings.HasPrefix(line, "qat_") {
			series = append(series, strings.TrimSuffix(line, "\n"))
		}
	}
	slices.Sort(series)
	return series
}

// only returns the series whose names begin with a prefix.
func only(series []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(series), func(s string) bool { return !strings.HasPrefix(s, prefix) })
}

// expectation gathers the series that a scrape must contain.
type expectation []string

func (x *expectation) add(name string, value any, labels ...string) {
	text := fmt.Sprint(value)
	if f, ok := value.(float64); ok {
		text = strconv.FormatFloat(f, 'g', -1, 64)
	}
	var pairs []string
	for i := 0; i < len(labels); i += 2 {
		pairs = append(pairs, fmt.Sprintf("%s=%q", labels[i], labels[i+1]))
	}
	slices.Sort(pairs)
	if len(pairs) > 0 {
		name += "{" + strings.Join(pairs, ",") + "}"
	}
	*x = append(*x, name+" "+text)
}

func (x *expectation) check(t *testing.T, got []string) {
	t.Helper()
	slices.Sort(*x)
	if diff := cmp.Diff([]string(*x), got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

// TestScrapeRendersTheSnapshot compares each series with the field that it shows.
func TestScrapeRendersTheSnapshot(t *testing.T) {
	source := fullSource()
	s, c := source.snapshot, source.snapshot.Counters
	var want expectation
	want.add("qat_plugin_build_info", 1, "version", "v7", "goversion", runtime.Version())
	want.add("qat_plugin_check_failed", 0, "check", s.Checks[0].Name)
	want.add("qat_plugin_check_failed", 1, "check", s.Checks[1].Name)

	for action, subsystems := range c.Uevents {
		for subsystem, n := range subsystems {
			want.add("qat_plugin_uevents_total", n, "action", action, "subsystem", subsystem)
		}
	}
	want.add("qat_plugin_inotify_events_total", c.Inotify)
	want.add("qat_plugin_uevents_rejected_total", c.Rejected)
	want.add("qat_plugin_uevents_malformed_total", c.Malformed)
	want.add("qat_plugin_uevent_overflows_total", c.Overflows)
	want.add("qat_plugin_uevents_dropped_total", c.Dropped)
	for result, n := range c.Binds {
		want.add("qat_plugin_bind_attempts_total", n, "result", result)
	}
	for loop, n := range c.Loops {
		want.add("qat_plugin_loop_turns_total", n.Turns, "loop", loop)
		want.add("qat_plugin_resyncs_total", n.Resyncs, "loop", loop)
		want.add("qat_plugin_audits_total", n.Audits, "loop", loop)
		want.add("qat_plugin_drift_total", n.Drift, "loop", loop)
	}
	for name, ofProvisioning := range map[string]int{ // the loop of the devices has the other value
		"qat_plugin_snapshot_stale":       1,
		"qat_plugin_loop_complete":        0,
		"qat_plugin_uevents_received":     0,
		"qat_plugin_loop_may_miss_events": 1,
	} {
		want.add(name, ofProvisioning, "loop", "provisioning")
		want.add(name, 1-ofProvisioning, "loop", "devices")
	}

	for _, r := range s.Resources {
		want.add("qat_plugin_streams", r.Streams, "resource", r.Name)
		want.add("qat_plugin_lists_sent_total", r.Lists, "resource", r.Name)
		want.add("qat_plugin_list_bytes_total", r.Bytes, "resource", r.Name)
		want.add("qat_plugin_allocated_devices_total", r.Allocated, "resource", r.Name)
	}
	want.add("qat_plugin_registered", 1, "resource", cy)
	want.add("qat_plugin_registered", 0, "resource", dc)
	want.add("qat_plugin_last_list_timestamp_seconds", float64(s.Resources[0].LastList.UnixMilli())/1000,
		"resource", cy)

	device := func(n int, resource, health, pf, node string) {
		want.add("qat_plugin_devices", n, "resource", resource, "health", health, "pf", pf, "numa_node", node)
	}
	device(2, cy, "healthy", "0000:6b:00.0", "1")
	device(1, cy, "unhealthy", "0000:6b:00.0", "1")
	device(1, namespace+"/generic", "healthy", "", "-1")
	device(0, namespace+"/generic", "unhealthy", "", "-1")
	device(0, dc, "healthy", "", "")
	device(0, dc, "unhealthy", "", "")
	for state, n := range map[string]int{"listed": 3, "unhealthy": 1, "binding": 1, "skipped": 3} {
		want.add("qat_plugin_vfs", n, "state", state)
	}
	for _, class := range status.SkipClasses {
		n := 0
		switch class {
		case status.ClassLimit, status.ClassWithdrawn, status.ClassOther:
			n = 1
		}
		want.add("qat_plugin_skipped_vfs", n, "reason", class)
	}

	for i, pf := range s.PFs {
		want.add("qat_device_pf_info", 1, "pf", pf.Address, "family", pf.Family, "driver", pf.Driver,
			"services", pf.Services, "resource", pf.Resource)
		want.add("qat_device_pf_vfs", pf.VFs, "pf", pf.Address)
		want.add("qat_device_pf_healthy", []int{1, 0, 1}[i], "pf", pf.Address)
		want.add("qat_device_pf_withdrawn", []int{0, 1, 0}[i], "pf", pf.Address)
	}
	want.add("qat_device_pf_up", 1, "pf", s.PFs[0].Address, "numa_node", "1")
	want.add("qat_device_pf_up", 0, "pf", s.PFs[1].Address, "numa_node", "-1")
	want.add("qat_device_pf_up", 0, "pf", s.PFs[2].Address, "numa_node", "0")
	want.add("qat_device_pf_vfs_max", s.PFs[0].TotalVFs, "pf", s.PFs[0].Address)
	want.add("qat_device_heartbeats_total", s.PFs[0].Heartbeat.Good, "pf", s.PFs[0].Address, "result", "good")
	want.add("qat_device_heartbeats_total", s.PFs[0].Heartbeat.Failed, "pf", s.PFs[0].Address, "result", "failed")

	for state, n := range map[string]int{"done": 2, "running": 0, "waiting": 0, "failed": 1} {
		want.add("qat_plugin_provisioning_pfs", n, "state", state)
	}
	want.add("qat_plugin_provisioning_config_valid", 0)

	first, second := source.telemetry[0], source.telemetry[1]
	pf, d := first.Address, first.Device
	want.add("qat_device_telemetry_samples_total", d.Samples, "pf", pf)
	for kind, percent := range d.Utilization {
		want.add("qat_device_utilization_ratio", percent/100, "pf", pf, "slice_type", kind)
	}
	want.add("qat_device_bandwidth_bytes_per_second", d.BandwidthIn/8, "pf", pf, "direction", "in")
	want.add("qat_device_bandwidth_bytes_per_second", d.BandwidthOut/8, "pf", pf, "direction", "out")
	for kind, seconds := range map[string]float64{
		"read": d.ReadLatency, "read_max": d.MaxReadLatency, "get_put": d.GetPutLatency,
		"get_put_max": d.MaxGetPutLatency, "page_request": d.PageRequestLatency, "translation": d.TranslationLatency,
	} {
		want.add("qat_device_latency_seconds", seconds, "pf", pf, "kind", kind)
	}
	engine := first.Firmware[0]
	want.add("qat_device_firmware_requests_total", engine.Requests, "pf", pf, "engine", engine.Engine)
	want.add("qat_device_firmware_responses_total", engine.Responses, "pf", pf, "engine", engine.Engine)
	want.add("qat_device_compress_errors_total", first.CompressErrors["0"], "pf", pf, "engine", "0")
	for severity, n := range first.RAS {
		want.add("qat_device_ras_errors_total", n, "pf", pf, "severity", severity)
		want.add("qat_device_pci_errors_total", first.AER[severity], "pf", pf, "severity", severity)
	}
	want.add("qat_device_ras_errors_total", second.RAS["fatal"], "pf", second.Address, "severity", "fatal")

	want.check(t, scrape(t, newMetrics().Handler(source)))
}

// newMetrics returns Metrics without a journal.
func newMetrics() *Metrics { return New(Config{Namespace: namespace, Version: "v7"}) }

// TestMissingPartsHaveNoSeries checks that there is no series for what a host does not have: modes,
// provisioning, states of PFs, telemetry.
func TestMissingPartsHaveNoSeries(t *testing.T) {
	source := &fakeSource{
		snapshot: &status.Snapshot{
			Mode:      "kernel",
			PFs:       []status.PF{{Address: "0000:6b:00.0", NUMANode: -1, Health: status.Healthy}},
			Processes: []status.Process{{ID: "1", Resource: "cy", Health: status.Healthy}},
		},
		telemetry: []status.Telemetry{{Address: "0000:6b:00.0", Device: &status.DeviceTelemetry{Samples: 1}}},
	}
	var want expectation
	want.add("qat_plugin_build_info", 1, "version", "v7", "goversion", runtime.Version())
	for _, counter := range []string{
		"uevents_rejected", "uevents_malformed", "uevents_dropped", "uevent_overflows", "inotify_events",
	} {
		want.add("qat_plugin_"+counter+"_total", 0)
	}
	want.add("qat_plugin_devices", 1, "resource", cy, "health", "healthy", "pf", "", "numa_node", "")
	want.add("qat_plugin_devices", 0, "resource", cy, "health", "unhealthy", "pf", "", "numa_node", "")
	const pf = "0000:6b:00.0"
	want.add("qat_device_pf_info", 1, "pf", pf, "family", "", "driver", "", "services", "", "resource", "")
	want.add("qat_device_pf_vfs", 0, "pf", pf)
	want.add("qat_device_pf_healthy", 1, "pf", pf)
	want.add("qat_device_pf_withdrawn", 0, "pf", pf)
	want.add("qat_device_telemetry_samples_total", 1, "pf", pf)
	want.add("qat_device_bandwidth_bytes_per_second", 0, "pf", pf, "direction", "in")
	want.add("qat_device_bandwidth_bytes_per_second", 0, "pf", pf, "direction", "out")
	want.check(t, scrape(t, newMetrics().Handler(source)))
}

// TestBlockedTelemetryDelaysAScrapeByTwoSeconds checks that a kernel that blocks the telemetry of a
// PF hides no other metric.
func TestBlockedTelemetryDelaysAScrapeByTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := fullSource()
		h := newMetrics().Handler(source)
		without := slices.DeleteFunc(scrape(t, h), func(s string) bool {
			return !strings.HasPrefix(s, "qat_plugin_") && !strings.HasPrefix(s, "qat_device_pf_") &&
				!strings.HasPrefix(s, "qat_device_heartbeats_")
		})
		source.blocked = true
		start := time.Now()
		want := expectation(without)
		want.check(t, scrape(t, h))
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("the scrape took %v, want 2s", took)
		}
	})
}

// TestDriverTextIsValidUTF8 checks that a driver whose file contains arbitrary bytes does not make
// a scrape fail.
func TestDriverTextIsValidUTF8(t *testing.T) {
	source := &fakeSource{snapshot: &status.Snapshot{PFs: []status.PF{{Address: "0000:6b:00.0", Services: "d\xffc"}}}}
	got := only(scrape(t, newMetrics().Handler(source)), "qat_device_pf_info")
	if len(got) != 1 || !strings.Contains(got[0], `services="d`+"\uFFFD"+`c"`) {
		t.Errorf("series %q, want one with a replacement character", got)
	}
}

// TestWrongMetricHidesNoOther checks that a source that contradicts itself, here with a PF that
// occurs twice, costs only the metrics that are wrong, and that the log names them.
func TestWrongMetricHidesNoOther(t *testing.T) {
	logged := testlog.Capture(t)
	source := fullSource()
	source.snapshot.PFs = append(source.snapshot.PFs, source.snapshot.PFs[0])
	got := scrape(t, newMetrics().Handler(source))
	if len(only(got, "qat_device_pf_vfs{")) != 3 || len(only(got, "qat_plugin_streams")) != 2 {
		t.Errorf("series %q, want those of three PFs and two resources", got)
	}
	text := strings.Join(logged(), "\n")
	if !strings.Contains(text, "Cannot serve all metrics") || !strings.Contains(text, "qat_device_pf_vfs") {
		t.Errorf("the log does not name the metric:\n%s", text)
	}
}

// exercise makes each direct instrument of m count something.
func exercise(t testing.TB, m *Metrics) {
	t.Helper()
	m.StreamOpened(cy)
	tree := next(t, nil, "cy", "1")
	m.Publishing(nil, tree, time.Now().Add(-time.Hour))
	m.ListSent(cy, tree.Resource("cy"), 1, 10)
	m.Allocated(cy, []string{"1"}, nil)
	m.Allocated(cy, []string{"2"}, grpcstatus.Error(codes.NotFound, "unknown"))
	m.Registered(cy, nil)
	m.Registered(cy, errors.New("refused"))
}

func TestCallsOfTheManagerAreCounted(t *testing.T) {
	journal := status.NewJournal(10)
	m := New(Config{Namespace: namespace, Version: "v7", Journal: journal})
	exercise(t, m)
	m.StreamClosed(cy, errors.New("broken pipe"))
	m.StreamClosed(dc, nil)
	got := scrape(t, m.Handler(&fakeSource{snapshot: &status.Snapshot{}}))
	for prefix, value := range map[string]string{
		`qat_plugin_allocations_total{resource="` + cy + `"}`:                         "1",
		`qat_plugin_allocation_errors_total{reason="NotFound",resource="` + cy + `"}`: "1",
		`qat_plugin_registrations_total{resource="` + cy + `",result="success"}`:      "1",
		`qat_plugin_registrations_total{resource="` + cy + `",result="failure"}`:      "1",
		`qat_plugin_event_to_list_seconds_count{resource="` + cy + `"}`:               "1",
		`qat_plugin_event_to_list_seconds_bucket{resource="` + cy + `",le="5"}`:       "0",
		`qat_plugin_event_to_list_seconds_bucket{resource="` + cy + `",le="+Inf"}`:    "1",
	} {
		if !slices.Contains(got, prefix+" "+value) {
			t.Errorf("no series %s with the value %s", prefix, value)
		}
	}

	events := journal.Since(0)
	if seconds := events[1].Seconds; seconds < 3600 || seconds > 3600+60 {
		t.Errorf("the list was sent %g s after its event, want an hour and less than a minute", seconds)
	}
	var kinds []string
	for _, e := range events {
		if e.Time.IsZero() {
			t.Errorf("event %+v has no time", e)
		}
		kinds = append(kinds, strings.Join([]string{e.Kind, e.Resource, e.Text, e.Err}, "|"))
	}
	want := []string{
		"kubelet|" + cy + "|the kubelet follows the list|",
		"list|" + cy + "|1 devices, 10 bytes|",
		"allocation|" + cy + "||",
		"allocation|" + cy + "||rpc error: code = NotFound desc = unknown",
		"kubelet|" + cy + "|registered|",
		"kubelet|" + cy + "|the registration failed|refused",
		"kubelet|" + cy + "|the kubelet no longer follows the list|broken pipe",
		"kubelet|" + dc + "|the kubelet no longer follows the list|",
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if !slices.Equal(events[2].Devices, []string{"1"}) || !slices.Equal(events[3].Devices, []string{"2"}) {
		t.Errorf("events of the allocations: %+v", events[2:4])
	}
}

// TestCountersStartAtZero checks that each series exists before the first call that it counts,
// because Prometheus computes no increase from the first value of a series.
func TestCountersStartAtZero(t *testing.T) {
	m := newMetrics()
	m.StreamOpened(cy)
	counters := func() (series []string) {
		for _, s := range scrape(t, m.Handler(&fakeSource{snapshot: &status.Snapshot{}})) {
			if strings.Contains(s, cy) && !strings.Contains(s, "_bucket{") && !strings.Contains(s, "_sum{") {
				series = append(series, s)
			}
		}
		return series
	}
	before := counters()
	for _, err := range []error{
		nil,
		grpcstatus.Error(codes.NotFound, "unknown device"), // kubeletapi, service.find
		grpcstatus.Error(codes.FailedPrecondition, "unhealthy"),
		grpcstatus.Error(codes.InvalidArgument, "too many"),
		grpcstatus.Error(codes.Unavailable, "stopping"),
		errors.New("of a plugin"),
	} {
		m.Allocated(cy, nil, err)
	}
	m.Registered(cy, nil)
	m.Registered(cy, errors.New("refused"))
	tree := next(t, nil, "cy", "1")
	m.Publishing(nil, tree, time.Now())
	m.ListSent(cy, tree.Resource("cy"), 1, 10)
	after := counters()
	if len(after) != 9 { // six results of Allocate, two of Register, one list
		t.Errorf("%d series, want 9: %q", len(after), after)
	}
	for _, series := range after {
		name := strings.TrimSuffix(series, " 1")
		if name == series || !slices.Contains(before, name+" 0") {
			t.Errorf("%s did not start at 0: before the calls there were %q", series, before)
		}
	}
}

// TestFailedCallTakesLittleMemoryInTheJournal checks that the journal does not keep all devices of
// a request that names many, or long ones. The journal limits the number of events, not of bytes.
func TestFailedCallTakesLittleMemoryInTheJournal(t *testing.T) {
	journal := status.NewJournal(10)
	m := New(Config{Namespace: namespace, Journal: journal})
	long := strings.Repeat("1", 1<<20)
	for _, devices := range [][]string{slices.Repeat([]string{"1"}, 10_000), {long}, nil} {
		m.Allocated(cy, devices, errors.New("refused: "+strings.Repeat("é", 10_000)))
	}
	for _, e := range journal.Since(0) {
		if size := len(strings.Join(e.Devices, ",")) + len(e.Err); size > 4096 || !utf8.ValidString(e.Err) {
			t.Errorf("%d devices and an error take %d bytes, want at most 4096 and valid text", len(e.Devices), size)
		}
	}
}

// TestHistogramIsClassicAndNative checks that the latency is in classic buckets in the text format,
// and also in native buckets for a client that accepts protocol buffers.
func TestHistogramIsClassicAndNative(t *testing.T) {
	m := newMetrics()
	exercise(t, m)
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range families {
		if f.GetName() != "qat_plugin_event_to_list_seconds" {
			continue
		}
		found = true
		h := f.GetMetric()[0].GetHistogram()
		if len(h.GetBucket()) == 0 {
			t.Error("there are no classic buckets")
		}
		if h.Schema == nil || len(h.GetPositiveSpan()) != 1 || len(h.GetPositiveDelta()) != 1 {
			t.Errorf("native buckets: schema %v, spans %v, deltas %v, want one bucket",
				h.Schema, h.GetPositiveSpan(), h.GetPositiveDelta())
		}
	}
	if !found {
		t.Error("there is no histogram")
	}
	server := httptest.NewServer(m.Handler(fullSource()))
	defer server.Close()
	const protobuf = "application/vnd.google.protobuf"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", protobuf+";proto=io.prometheus.client.MetricFamily;encoding=delimited")
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, protobuf) {
		t.Errorf("content type %q, want %s", kind, protobuf)
	}
	server.Client().CloseIdleConnections()
}

// TestNamesFollowTheGuide checks all metrics with the linter of Prometheus.
func TestNamesFollowTheGuide(t *testing.T) {
	m := newMetrics()
	exercise(t, m)
	state := &collector{source: fullSource(), namespace: namespace}
	problems, err := testutil.CollectAndLint(state)
	if err != nil {
		t.Fatal(err)
	}
	ofPool, err := testutil.CollectAndLint(&collector{source: draSource(), namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	ofCalls, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	ofDRA, err := testutil.GatherAndLint(NewDRA(Config{}).registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range slices.Concat(problems, ofPool, ofCalls, ofDRA) {
		if strings.HasPrefix(p.Metric, "qat_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	bad, err := promlint.New(strings.NewReader("# TYPE qat_bad counter\nqat_bad 1\n")).Lint()
	if err != nil || len(bad) == 0 {
		t.Errorf("the linter finds nothing in a counter without _total and help: %v", err)
	}
}

// TestScrapesAndCallsAtTheSameTime runs all methods at the same time, for the race detector, and
// checks that nothing is lost.
func TestScrapesAndCallsAtTheSameTime(t *testing.T) {
	const goroutines, calls = 4, 200
	m := New(Config{Namespace: namespace, Journal: status.NewJournal(10)})
	h := m.Handler(fullSource())
	trees := [2]*devtree.Tree{next(t, nil, "cy", "1")}
	trees[1] = next(t, trees[0], "cy", "2")
	var running sync.WaitGroup
	for range goroutines {
		running.Go(func() {
			for i := range calls {
				m.StreamOpened(cy)
				m.Publishing(trees[i%2], trees[1-i%2], at(i))
				m.ListSent(cy, trees[1-i%2].Resource("cy"), 1, 10)
				m.ListUnchanged(cy, trees[1-i%2].Resource("cy"))
				m.Allocated(cy, []string{"1"}, nil)
				m.Registered(cy, nil)
				m.StreamClosed(cy, nil)
				if i%50 == 0 {
					h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(
						t.Context(), http.MethodGet, "/metrics", nil))
				}
			}
		})
	}
	running.Wait()
	got := scrape(t, h)
	want := `qat_plugin_allocations_total{resource="` + cy + `"} ` + strconv.Itoa(goroutines*calls)
	if !slices.Contains(got, want) {
		t.Errorf("no series %s in %q", want, only(got, "qat_plugin_allocations_total"))
	}
}
