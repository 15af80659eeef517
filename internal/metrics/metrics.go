// SPDX-License-Identifier: Apache-2.0

// Package metrics serves what the plugin knows as Prometheus metrics. docs/metrics.md lists them.
//
// Most metrics are rendered from a [status.Snapshot] for each scrape, and cost nothing otherwise.
// The others cannot be derived from a state: the time from an event to the list that the kubelet
// receives, and the results of calls. [Metrics] counts them when they occur.
//
// The number of series is bounded by the number of PFs, resources and NUMA nodes. No label holds
// the address of a VF, the name of a pod, or the text of an error.
package metrics

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/internal/status"
)

// A Config describes the plugin.
type Config struct {
	Namespace string // of the resources, such as "qat.intel.com"
	Version   string // of the program

	// Journal receives an event for each list, allocation and change of a registration; see the
	// Kind constants of package status. It may be nil.
	Journal *status.Journal
}

// base is what the metrics of all programs have in common.
type base struct {
	namespace string
	journal   *status.Journal
	registry  *prometheus.Registry
}

// newBase returns a base whose registry has the metrics of the process.
func newBase(c Config) base {
	b := base{namespace: c.Namespace, journal: c.Journal, registry: prometheus.NewRegistry()}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "qat_plugin_build_info",
		Help:        "Version of the program, and of Go that built it. The value is 1.",
		ConstLabels: prometheus.Labels{"version": c.Version, "goversion": runtime.Version()},
	})
	build.Set(1)
	b.registry.MustRegister(build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return b
}

// Metrics counts what a device plugin does. It implements kubeletapi.Observer. All methods may be
// called from any goroutine. None of them waits for a scrape.
type Metrics struct {
	base
	tracker *tracker

	eventToList      *prometheus.HistogramVec
	allocations      *prometheus.CounterVec
	allocationErrors *prometheus.CounterVec
	registrations    *prometheus.CounterVec
}

// histogram describes a histogram of durations from 50 µs to 5 s, which is also a native one.
func histogram(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name,
		Help: help,
		Buckets: []float64{
			50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1, 5,
		},
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	}
}

// allocateCodes are the codes of a failed Allocate call.
var allocateCodes = []codes.Code{
	codes.FailedPrecondition, codes.InvalidArgument, codes.NotFound, codes.Unavailable, codes.Unknown,
}

// New returns Metrics that have counted nothing.
func New(c Config) *Metrics {
	m := &Metrics{
		base:    newBase(c),
		tracker: newTracker(),
		eventToList: prometheus.NewHistogramVec(histogram("qat_plugin_event_to_list_seconds",
			"Time from the receipt of a kernel event until the list with its effect was sent to the kubelet.",
		), []string{"resource"}),
		allocations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "qat_plugin_allocations_total",
			Help: "Containers that got devices from the kubelet's Allocate calls.",
		}, []string{"resource"}),
		allocationErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "qat_plugin_allocation_errors_total",
			Help: "Allocate calls that failed, by the name of the gRPC code.",
		}, []string{"resource", "reason"}),
		registrations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "qat_plugin_registrations_total",
			Help: "Register calls to the kubelet that have returned.",
		}, []string{"resource", "result"}),
	}
	m.registry.MustRegister(m.eventToList, m.allocations, m.allocationErrors, m.registrations)
	return m
}

// record appends an event to the journal. Without a time it happened now.
func (b *base) record(e status.Event) {
	if b.journal == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b.journal.Append(e)
}

// maxScrapes is the number of requests that Handler answers at the same time. It refuses further
// ones.
const maxScrapes = 4

// Handler serves the metrics, with those of the source's state, in the text format or, if the
// client asks for it, as protocol buffers with native histograms. A kernel that blocks reads delays
// an answer by at most 2 s.
func (b *base) Handler(source status.Source) http.Handler {
	state := prometheus.NewRegistry()
	state.MustRegister(&collector{source: source, namespace: b.namespace})
	return promhttp.HandlerFor(prometheus.Gatherers{b.registry, state}, promhttp.HandlerOpts{
		ErrorLog:            errorLog{},
		ErrorHandling:       promhttp.ContinueOnError, // one wrong metric must not hide the others
		MaxRequestsInFlight: maxScrapes,
	})
}

// errorLog logs the errors of promhttp.
type errorLog struct{}

// Println implements [promhttp.Logger].
func (errorLog) Println(v ...any) {
	// The text, because klog does not format errors in a list.
	klog.ErrorS(nil, "Cannot serve all metrics", "reason", strings.TrimSpace(fmt.Sprintln(v...)))
}

// Publishing remembers which resources differ between two Trees, because of an event that was
// received at since. since is zero if no event caused the change. The caller publishes the new Tree
// next.
func (m *Metrics) Publishing(old, new *devtree.Tree, since time.Time) {
	m.tracker.publishing(old, new, since)
}

// ListSent implements kubeletapi.Observer.
func (m *Metrics) ListSent(resource string, state *devtree.Resource, devices, bytes int) {
	now := time.Now()
	event := status.Event{
		Time: now, Kind: status.KindList, Resource: resource,
		Text: fmt.Sprintf("%d devices, %d bytes", devices, bytes),
	}
	if since := m.tracker.sent(resource, state); !since.IsZero() {
		latency := now.Sub(since).Seconds()
		m.eventToList.WithLabelValues(resource).Observe(latency)
		event.Seconds = latency
	}
	m.record(event)
}

// ListUnchanged implements kubeletapi.Observer.
func (m *Metrics) ListUnchanged(resource string, state *devtree.Resource) {
	m.tracker.sent(resource, state)
}

// Allocated implements kubeletapi.Observer.
func (m *Metrics) Allocated(resource string, devices []string, err error) {
	event := status.Event{Kind: status.KindAllocation, Resource: resource, Devices: devices}
	if err == nil {
		m.allocations.WithLabelValues(resource).Inc()
	} else {
		m.allocationErrors.WithLabelValues(resource, grpcstatus.Code(err).String()).Inc()
		event.Devices, event.Err = firstOf(devices), brief(err.Error(), 1000)
	}
	m.record(event)
}

// firstOf returns the first devices of a request that failed. It may name any number of devices, of
// any length.
func firstOf(devices []string) (list []string) {
	for _, d := range devices[:min(len(devices), 16)] {
		list = append(list, brief(d, 64))
	}
	return list
}

// brief returns the text, or its beginning if it has more than most bytes.
func brief(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// Registered implements kubeletapi.Observer.
func (m *Metrics) Registered(resource string, err error) {
	event := status.Event{Kind: status.KindKubelet, Resource: resource, Text: "registered"}
	result := "success"
	if err != nil {
		result = "failure"
		event.Text, event.Err = "the registration failed", err.Error()
	}
	m.registrations.WithLabelValues(resource, result).Inc()
	m.record(event)
}

// StreamOpened implements kubeletapi.Observer.
func (m *Metrics) StreamOpened(resource string) {
	m.tracker.opened(resource)
	m.startAtZero(resource)
	m.record(status.Event{Kind: status.KindKubelet, Resource: resource, Text: "the kubelet follows the list"})
}

// StreamClosed implements kubeletapi.Observer.
func (m *Metrics) StreamClosed(resource string, err error) {
	m.tracker.closed(resource)
	event := status.Event{
		Kind: status.KindKubelet, Resource: resource, Text: "the kubelet no longer follows the list",
	}
	if err != nil {
		event.Err = err.Error()
	}
	m.record(event)
}

// startAtZero creates the series of a resource. Prometheus computes no increase from the value with
// which a series appears.
func (m *Metrics) startAtZero(resource string) {
	m.eventToList.WithLabelValues(resource)
	m.allocations.WithLabelValues(resource)
	for _, code := range allocateCodes {
		m.allocationErrors.WithLabelValues(resource, code.String())
	}
	for _, result := range []string{"success", "failure"} {
		m.registrations.WithLabelValues(resource, result)
	}
}
