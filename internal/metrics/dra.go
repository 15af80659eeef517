// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"qatplugin/devtree"
	"qatplugin/internal/status"
)

// DRA counts what a driver for Dynamic Resource Allocation does. All methods may be called from any
// goroutine. None of them waits for a scrape.
type DRA struct {
	base
	tracker treeTracker

	eventToSlice   prometheus.Histogram
	writes         *prometheus.CounterVec
	writeErrors    *prometheus.CounterVec
	writeSeconds   prometheus.Histogram
	prepares       *prometheus.CounterVec
	prepareSeconds prometheus.Histogram
	unprepares     *prometheus.CounterVec
	registrations  *prometheus.CounterVec
	healthMessages prometheus.Counter
	healthBytes    prometheus.Counter
}

// The values of labels.
var (
	sliceOperations = []string{"create", "update", "delete"}
	results         = []string{"success", "failure"}
)

// writeReasons are the reasons of writes that failed: those of the API server that a driver meets
// (k8s.io/apimachinery/pkg/apis/meta/v1, StatusReason), and no answer.
var writeReasons = []string{
	ReasonNoAnswer, reasonOther, "AlreadyExists", "Conflict", "Forbidden", "InternalError", "Invalid", "NotFound",
	"ServerTimeout", "ServiceUnavailable", "Timeout", "TooManyRequests", "Unauthorized",
}

// ReasonNoAnswer is the reason of a request that the API server has not answered.
const ReasonNoAnswer = "NoAnswer"

const reasonOther = "Other"

// NewDRA returns a DRA that has counted nothing.
func NewDRA(c Config) *DRA {
	counters := func(name, help, label string, values []string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		for _, value := range values { // Prometheus computes no increase from the first value of a series
			v.WithLabelValues(value)
		}
		return v
	}
	m := &DRA{
		base: newBase(c),
		eventToSlice: prometheus.NewHistogram(histogram("qat_dra_event_to_slice_seconds",
			"Time from the receipt of a kernel event until the API server has stored its effect.")),
		writes: counters("qat_dra_slice_writes_total",
			"Writes of ResourceSlices that the API server has accepted.", "operation", sliceOperations),
		writeErrors: counters("qat_dra_slice_write_errors_total",
			"Writes of ResourceSlices that have failed, by the reason of the API server.", "reason", writeReasons),
		writeSeconds: prometheus.NewHistogram(histogram("qat_dra_slice_write_seconds",
			"Duration of the writes of ResourceSlices.")),
		prepares: counters("qat_dra_prepares_total",
			"Claims that the kubelet has asked to prepare.", "result", results),
		prepareSeconds: prometheus.NewHistogram(histogram("qat_dra_prepare_seconds",
			"Duration of the preparation of claims.")),
		unprepares: counters("qat_dra_unprepares_total",
			"Claims that the kubelet has asked to unprepare.", "result", results),
		registrations: counters("qat_dra_registrations_total",
			"Answers of the kubelet to the registration of the driver.", "result", results),
		healthMessages: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "qat_dra_health_messages_total",
			Help: "Messages with the health of all devices that were sent to the kubelet.",
		}),
		healthBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "qat_dra_health_bytes_total",
			Help: "Bytes of the messages with the health of all devices.",
		}),
	}
	m.registry.MustRegister(m.eventToSlice, m.writes, m.writeErrors, m.writeSeconds, m.prepares, m.prepareSeconds,
		m.unprepares, m.registrations, m.healthMessages, m.healthBytes)
	return m
}

// Publishing remembers when the event was received whose effect is in the new Tree, for the
// qat.Config. since is zero if no event caused the change.
func (m *DRA) Publishing(_, new *devtree.Tree, since time.Time) {
	m.tracker.publishing(new.Generation(), since)
}

// Published records that the API server has the devices of a Tree.
func (m *DRA) Published(tree *devtree.Tree) {
	since := m.tracker.published(tree.Generation())
	if since.IsZero() {
		return
	}
	now := time.Now()
	latency := now.Sub(since).Seconds()
	m.eventToSlice.Observe(latency)
	m.record(status.Event{
		Time: now, Kind: status.KindPublished, Seconds: latency, Text: fmt.Sprintf("Tree %d", tree.Generation()),
	})
}

// SliceWritten records a write of a ResourceSlice. reason is the reason of the API server if it has
// failed, or [ReasonNoAnswer].
func (m *DRA) SliceWritten(slice, operation string, took time.Duration, reason string, err error) {
	m.writeSeconds.Observe(took.Seconds())
	event := status.Event{Kind: status.KindSlice, Text: operation + " " + slice, Seconds: took.Seconds()}
	if err == nil {
		m.writes.WithLabelValues(operation).Inc()
	} else {
		if !slices.Contains(writeReasons, reason) {
			reason = reasonOther
		}
		m.writeErrors.WithLabelValues(reason).Inc()
		event.Err = brief(err.Error(), 1000)
	}
	m.record(event)
}

// Prepared records an answer to a request to prepare the claim "namespace/name" with these devices.
func (m *DRA) Prepared(claim string, devices []string, took time.Duration, err error) {
	m.prepareSeconds.Observe(took.Seconds())
	m.prepares.WithLabelValues(resultOf(err)).Inc()
	m.claim("prepare", claim, devices, took, err)
}

// Unprepared records an answer to a request to unprepare the claim.
func (m *DRA) Unprepared(claim string, devices []string, took time.Duration, err error) {
	m.unprepares.WithLabelValues(resultOf(err)).Inc()
	m.claim("unprepare", claim, devices, took, err)
}

func (m *DRA) claim(operation, claim string, devices []string, took time.Duration, err error) {
	event := status.Event{
		Kind: status.KindClaim, Text: operation + " " + claim, Devices: devices, Seconds: took.Seconds(),
	}
	if err != nil {
		event.Err = brief(err.Error(), 1000)
	}
	m.record(event)
}

// Registered records an answer of the kubelet to a registration.
func (m *DRA) Registered(err error) {
	m.registrations.WithLabelValues(resultOf(err)).Inc()
	event := status.Event{Kind: status.KindKubelet, Text: "registered"}
	if err != nil {
		event.Text, event.Err = "the registration failed", brief(err.Error(), 1000)
	}
	m.record(event)
}

// HealthSent records a message with the health of all devices.
func (m *DRA) HealthSent(bytes int) {
	m.healthMessages.Inc()
	m.healthBytes.Add(float64(bytes))
}

func resultOf(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}

// A treeTracker remembers which Trees the API server does not have yet, by generation.
type treeTracker struct {
	mu    sync.Mutex // guards trees
	trees []unpublished
}

// An unpublished Tree has the effect of an event that was received at since. since is zero if no
// event caused it.
type unpublished struct {
	generation uint64
	since      time.Time
}

func (t *treeTracker) publishing(generation uint64, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.trees); n == maxUnsent {
		t.trees[n-1] = unpublished{generation, earliest(t.trees[n-1].since, since)}
		return
	}
	t.trees = append(t.trees, unpublished{generation, since})
}

// published returns when the oldest event was received whose effect is in the Tree and was not
// published before. It returns zero if there is none.
func (t *treeTracker) published(generation uint64) (since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, found := slices.BinarySearchFunc(t.trees, generation, func(u unpublished, g uint64) int {
		return cmp.Compare(u.generation, g)
	})
	if found {
		n++
	}
	for _, u := range t.trees[:n] {
		since = earliest(since, u.since)
	}
	t.trees = append(t.trees[:0], t.trees[n:]...)
	return since
}
