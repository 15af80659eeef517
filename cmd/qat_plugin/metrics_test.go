// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// scrape returns the metrics of the program by "name{labels}", with the labels in order. Of a
// histogram, it returns the count.
func scrape(t *testing.T, c *http.Client) map[string]float64 {
	t.Helper()
	code, _, text := do(t, c, "GET", "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil || code != 200 {
		t.Fatalf("status %d, %v", code, err)
	}
	metrics := map[string]float64{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			slices.Sort(labels)
			key := name
			if len(labels) > 0 {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			// Only the field of the metric's type is set.
			metrics[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() +
				float64(m.GetHistogram().GetSampleCount())
		}
	}
	return metrics
}

// awaitScrape waits until the metrics are as wanted. wrong describes them if they are not.
func awaitScrape(t *testing.T, c *http.Client, wrong string, wanted func(got map[string]float64) bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !wanted(scrape(t, c)); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(wrong)
		}
	}
}

// awaitMetrics waits until all metrics have the wanted values.
func awaitMetrics(t *testing.T, c *http.Client, what string, want map[string]float64) {
	t.Helper()
	var wrong bytes.Buffer
	for deadline := time.Now().Add(timeout); ; time.Sleep(10 * time.Millisecond) {
		got := scrape(t, c)
		wrong.Reset()
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if value, ok := got[name]; !ok || value != want[name] {
				fmt.Fprintf(&wrong, "%s is %g (present: %t), want %g\n", name, value, ok, want[name])
			}
		}
		if wrong.Len() == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s:\n%s", what, wrong.String())
		}
	}
}

// TestMetricsFollowTheHost changes the host and the kubelet, and compares the metrics with what was
// done.
func TestMetricsFollowTheHost(t *testing.T) {
	r := startStatus(t, "-max-num-devices=6", "-health-interval=1s")
	defer r.stop()
	c := r.client(true)
	const (
		cyPF, dcPF = pf, "0000:e8:00.0"
		cy, dc     = resource, "qat.intel.com/dc"
	)
	devices := func(resource, health, pf, node string) string {
		return fmt.Sprintf("qat_plugin_devices{health=%q,numa_node=%q,pf=%q,resource=%q}", health, node, pf, resource)
	}
	awaitMetrics(t, c, "a host without devices", map[string]float64{
		`qat_plugin_vfs{state="listed"}`:              0,
		`qat_plugin_skipped_vfs{reason="limit"}`:      0,
		`qat_plugin_check_failed{check="event-loop"}`: 0,
		`qat_plugin_loop_complete{loop="devices"}`:    1,
		`qat_plugin_snapshot_stale{loop="devices"}`:   0,
	})
	if got := scrape(t, c); got[`qat_plugin_bind_attempts_total{result="bound"}`] != 0 {
		t.Error("VFs were bound on a host without VFs")
	}

	must(t, r.host.LoadDriver("vfio-pci"))
	must(t, r.host.AddPF(lookalike.PF{Address: cyPF, Services: "sym;asym", NUMANode: 0}))
	must(t, r.host.AddPF(lookalike.PF{Address: dcPF, Services: "dc", NUMANode: 1}))
	must(t, r.host.SetVFs(cyPF, 4))
	awaitDevices(t, r, cy, 4)
	must(t, r.host.SetVFs(dcPF, 3))
	awaitDevices(t, r, dc, 2) // the limit leaves two places
	awaitMetrics(t, c, "seven VFs and a limit of six", map[string]float64{
		devices(cy, "healthy", cyPF, "0"):                                                                     4,
		devices(cy, "unhealthy", cyPF, "0"):                                                                   0,
		devices(dc, "healthy", dcPF, "1"):                                                                     2,
		`qat_plugin_vfs{state="listed"}`:                                                                      6,
		`qat_plugin_vfs{state="skipped"}`:                                                                     1,
		`qat_plugin_skipped_vfs{reason="limit"}`:                                                              1,
		`qat_plugin_bind_attempts_total{result="bound"}`:                                                      6,
		`qat_plugin_registered{resource="` + cy + `"}`:                                                        1,
		`qat_plugin_registered{resource="` + dc + `"}`:                                                        1,
		`qat_plugin_streams{resource="` + cy + `"}`:                                                           1,
		`qat_plugin_registrations_total{resource="` + cy + `",result="success"}`:                              1,
		`qat_plugin_check_failed{check="registered"}`:                                                         0,
		`qat_device_pf_vfs{pf="` + cyPF + `"}`:                                                                4,
		`qat_device_pf_vfs_max{pf="` + cyPF + `"}`:                                                            16,
		`qat_device_pf_up{numa_node="0",pf="` + cyPF + `"}`:                                                   1,
		`qat_device_pf_healthy{pf="` + dcPF + `"}`:                                                            1,
		`qat_device_pf_info{driver="4xxx",family="4xxx",pf="` + cyPF + `",resource="cy",services="sym;asym"}`: 1,
	})

	allocate := func(ids ...string) error {
		_, err := r.kubelet.Allocate(t.Context(), cy, ids)
		return err
	}
	must(t, allocate("0000:6b:00.1", "0000:6b:00.2"))
	good := func(pf string) string { return `qat_device_heartbeats_total{pf="` + pf + `",result="good"}` }
	awaitScrape(t, c, "no good heartbeats", func(got map[string]float64) bool {
		return got[good(cyPF)] > 0 && got[good(dcPF)] > 0
	})
	must(t, r.host.SetHeartbeat(cyPF, "-1"))
	awaitMetrics(t, c, "a PF without a heartbeat", map[string]float64{
		devices(cy, "healthy", cyPF, "0"):                   0,
		devices(cy, "unhealthy", cyPF, "0"):                 4,
		devices(dc, "healthy", dcPF, "1"):                   2,
		`qat_plugin_vfs{state="unhealthy"}`:                 4,
		`qat_device_pf_up{numa_node="0",pf="` + cyPF + `"}`: 1,
		`qat_device_pf_healthy{pf="` + cyPF + `"}`:          0,
		`qat_device_pf_healthy{pf="` + dcPF + `"}`:          1,
	})
	got := scrape(t, c)
	failed := func(pf string) float64 { return got[`qat_device_heartbeats_total{pf="`+pf+`",result="failed"}`] }
	if failed(cyPF) == 0 || failed(dcPF) != 0 {
		t.Errorf("%g and %g failed heartbeats, want more than 0 and 0", failed(cyPF), failed(dcPF))
	}
	if allocate("0000:6b:00.3") == nil {
		t.Error("a VF of a PF without a heartbeat was allocated")
	}
	if allocate("0000:ff:00.1") == nil {
		t.Error("an unknown VF was allocated")
	}
	awaitMetrics(t, c, "an allocation of two devices and two that fail", map[string]float64{
		`qat_plugin_allocations_total{resource="` + cy + `"}`:                                   1,
		`qat_plugin_allocated_devices_total{resource="` + cy + `"}`:                             2,
		`qat_plugin_allocation_errors_total{reason="FailedPrecondition",resource="` + cy + `"}`: 1,
		`qat_plugin_allocation_errors_total{reason="NotFound",resource="` + cy + `"}`:           1,
	})

	must(t, r.host.SetHeartbeat(cyPF, "0"))
	must(t, r.host.SetState(dcPF, "down")) // removes its VFs
	awaitDevices(t, r, dc, 0)
	awaitMetrics(t, c, "a resource without devices, and a healthy PF", map[string]float64{
		devices(cy, "healthy", cyPF, "0"):                   4,
		devices(dc, "healthy", "", ""):                      0,
		`qat_plugin_vfs{state="listed"}`:                    4,
		`qat_plugin_vfs{state="skipped"}`:                   0,
		`qat_plugin_skipped_vfs{reason="limit"}`:            0,
		`qat_device_pf_vfs{pf="` + dcPF + `"}`:              0,
		`qat_device_pf_up{numa_node="1",pf="` + dcPF + `"}`: 0,
		`qat_device_pf_healthy{pf="` + cyPF + `"}`:          1,
	})
	if name := devices(dc, "healthy", dcPF, "1"); scrape(t, c)[name] != 0 {
		t.Errorf("%s is left", name)
	}
	must(t, r.host.RemovePF(dcPF))
	awaitScrape(t, c, "a PF that was removed still has metrics", func(got map[string]float64) bool {
		_, there := got[`qat_device_pf_healthy{pf="`+dcPF+`"}`]
		return !there
	})

	// The lists of changes are measured. The first list of a stream is not, unless a change comes
	// between the two.
	got = scrape(t, c)
	lists, measured := 0.0, 0.0
	for _, r := range []string{cy, dc} {
		lists += got[`qat_plugin_lists_sent_total{resource="`+r+`"}`]
		measured += got[`qat_plugin_event_to_list_seconds{resource="`+r+`"}`]
	}
	if measured < 3 || measured > lists {
		t.Errorf("%g lists of %g were measured, want at least three", measured, lists)
	}
	r.kubelet.Stop()
	awaitMetrics(t, c, "no kubelet", map[string]float64{
		`qat_plugin_registered{resource="` + cy + `"}`: 0,
		`qat_plugin_streams{resource="` + cy + `"}`:    0,
		`qat_plugin_check_failed{check="registered"}`:  1,
	})
}

// awaitDevices waits until the kubelet has a number of devices of a resource.
func awaitDevices(t *testing.T, r *statusRig, resource string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	_, err := r.kubelet.WaitList(ctx, resource, func(l kubelettest.List) bool { return len(l.Devices) == n })
	must(t, err)
}
