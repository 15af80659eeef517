// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"qatplugin/devtree"
	"qatplugin/internal/status"
)

// draSource returns a source of a DRA driver.
func draSource() *fakeSource {
	return &fakeSource{snapshot: &status.Snapshot{DRA: &status.DRA{
		Driver: namespace, Pool: "worker-1", Devices: 7, Healthy: 4, Gone: 1, Registered: true, HealthStreams: 1,
		PublishErr: "no answer",
		Slices:     []status.ResourceSlice{{Name: "a", Devices: 4}, {Name: "b", Devices: 3}},
		Claims: []status.Claim{
			{Name: "default/a", Devices: []status.ClaimDevice{{Address: "1"}, {Address: "2"}}},
			{Name: "default/b", Devices: []status.ClaimDevice{{Address: "2", AdminAccess: true}}},
		},
	}}}
}

// exerciseDRA calls all methods.
func exerciseDRA(t *testing.T, m *DRA) {
	t.Helper()
	refused := errors.New("refused")
	tree := next(t, nil, "cy", "1")
	m.Publishing(nil, tree, time.Now().Add(-time.Hour))
	m.SliceWritten("worker-1-0", "create", time.Second, "", nil)
	m.SliceWritten("worker-1-0", "update", time.Second, "Conflict", refused)
	m.SliceWritten("worker-1-0", "update", time.Second, "NewReason", refused)
	m.SliceWritten("worker-1-0", "update", time.Second, ReasonNoAnswer, refused)
	m.Published(tree)
	m.Published(tree) // has no event of its own
	m.Registered(nil)
	m.Registered(refused)
	m.Prepared("default/a", []string{"1"}, time.Millisecond, nil)
	m.Prepared("default/b", nil, time.Millisecond, refused)
	m.Unprepared("default/a", []string{"1"}, time.Millisecond, nil)
	m.HealthSent(100)
	m.HealthSent(50)
}

func TestWorkOfADRADriverIsCounted(t *testing.T) {
	journal := status.NewJournal(20)
	m := NewDRA(Config{Namespace: namespace, Version: "v7", Journal: journal})
	exerciseDRA(t, m)
	got := scrape(t, m.Handler(draSource()))
	for _, want := range []string{
		`qat_dra_slice_writes_total{operation="create"} 1`,
		`qat_dra_slice_writes_total{operation="update"} 0`,
		`qat_dra_slice_write_errors_total{reason="Conflict"} 1`,
		`qat_dra_slice_write_errors_total{reason="Other"} 1`,
		`qat_dra_slice_write_errors_total{reason="NoAnswer"} 1`,
		`qat_dra_slice_write_errors_total{reason="Forbidden"} 0`,
		`qat_dra_slice_write_seconds_count 4`,
		`qat_dra_event_to_slice_seconds_count 1`,
		`qat_dra_event_to_slice_seconds_bucket{le="5"} 0`,
		`qat_dra_prepares_total{result="success"} 1`,
		`qat_dra_prepares_total{result="failure"} 1`,
		`qat_dra_prepare_seconds_count 2`,
		`qat_dra_unprepares_total{result="success"} 1`,
		`qat_dra_unprepares_total{result="failure"} 0`,
		`qat_dra_registrations_total{result="failure"} 1`,
		`qat_dra_health_messages_total 2`,
		`qat_dra_health_bytes_total 150`,
		`qat_dra_devices{health="healthy"} 4`,
		`qat_dra_devices{health="unhealthy"} 2`,
		`qat_dra_devices{health="gone"} 1`,
		`qat_dra_slices 2`,
		`qat_dra_published 0`,
		`qat_dra_registered 1`,
		`qat_dra_health_streams 1`,
		`qat_dra_claims 2`,
		`qat_dra_claimed_devices 2`,
		`qat_dra_runtime_supported 1`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no series %s", want)
		}
	}
	var kinds []string
	for _, e := range journal.Since(0) {
		kinds = append(kinds, e.Kind)
	}
	want := []string{
		status.KindSlice, status.KindSlice, status.KindSlice, status.KindSlice, status.KindPublished,
		status.KindKubelet, status.KindKubelet, status.KindClaim, status.KindClaim, status.KindClaim,
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	claim := journal.Since(8)[0]
	if claim.Text != "prepare default/b" || claim.Err != "refused" || claim.Time.IsZero() {
		t.Errorf("event of a claim: %+v", claim)
	}
}

func TestMetricsOfADevicePluginHaveNoDRA(t *testing.T) {
	state := &collector{source: fullSource(), namespace: namespace}
	if n := testutil.CollectAndCount(state, "qat_dra_devices"); n != 0 {
		t.Errorf("%d series of a pool, want none", n)
	}
}

// A Tree that was not published counts with the next one. Its event is older.
func TestLatencyIsThatOfTheOldestEventWhichWasNotPublished(t *testing.T) {
	tracker := &treeTracker{}
	want := func(generation uint64, since time.Time) {
		t.Helper()
		if got := tracker.published(generation); !got.Equal(since) {
			t.Errorf("Tree %d answers the event of %v, want %v", generation, got, since)
		}
	}
	want(1, time.Time{}) // not known
	tracker.publishing(2, at(20))
	tracker.publishing(3, at(30))
	tracker.publishing(4, time.Time{}) // no event has caused it
	tracker.publishing(5, at(50))
	want(3, at(20))
	want(3, time.Time{})
	want(4, time.Time{})
	want(6, at(50)) // a Tree between was not reported
	for i := range uint64(10 * maxUnsent) {
		tracker.publishing(10+i, at(int(100+i)))
	}
	if len(tracker.trees) > maxUnsent {
		t.Errorf("%d Trees are remembered, want at most %d", len(tracker.trees), maxUnsent)
	}
	want(9+10*maxUnsent, at(100))
}

func TestPublishedIgnoresWhatNoEventCaused(t *testing.T) {
	m := NewDRA(Config{Namespace: namespace})
	m.Publishing(nil, new(devtree.Tree), time.Time{})
	m.Published(new(devtree.Tree))
	if got := scrape(t, m.Handler(draSource())); !slices.Contains(got, "qat_dra_event_to_slice_seconds_count 0") {
		t.Error("a Tree without an event was measured")
	}
}
