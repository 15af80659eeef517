// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qatplugin/internal/testenv"
)

const (
	testNodes    = 20
	testChanging = 4 // nodes whose devices change
)

func TestMain(m *testing.M) {
	silence()
	goleak.VerifyTestMain(m)
}

// TestFleet runs the drivers of a small fleet against the real API server. It checks what they
// write, and that no slice is lost, whatever happens to the API server.
func TestFleet(t *testing.T) {
	programs := os.Getenv("FLEET_PROGRAMS")
	if programs == "" {
		testenv.Skip(t, "FLEET_PROGRAMS is not set: run test/run.sh fleet")
	}
	ctx := t.Context()
	f, err := newFleet(ctx, programs, testNodes, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	}()
	start, stop, err := f.coldStart(ctx, ours(f.dir))
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name  string
		run   func() (result, error)
		check func(*testing.T, *result)
	}{
		{"cold start takes one write a node", func() (result, error) {
			return start, nil
		}, func(t *testing.T, r *result) {
			requireWrites(t, r, testNodes)
		}},
		{"a change takes one write", func() (result, error) {
			return f.churn(ctx, "churn", testChanging, churnPeriod, 3*time.Second)
		}, func(t *testing.T, r *result) {
			requireWrites(t, r, r.changes)
		}},
		{"a storm takes 10 writes a second", func() (result, error) {
			return f.churn(ctx, "storm", testChanging, stormPeriod, 3*time.Second)
		}, requireLimit},
		{"restart of the API server by SIGTERM", func() (result, error) {
			return f.restart(ctx, "SIGTERM", time.Second, testChanging)
		}, requireOnlyChanges},
		{"restart of the API server by SIGKILL", func() (result, error) {
			return f.restart(ctx, "SIGKILL", 0, testChanging)
		}, requireOnlyChanges},
		{"deleted slices return", func() (result, error) { return f.deleteSlices(ctx) }, func(t *testing.T, r *result) {
			requireWrites(t, r, testNodes)
		}},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			r, err := step.run()
			if err != nil {
				t.Fatal(err)
			}
			if r.wrong > 0 {
				t.Fatalf("after %v: %s", patience, f.observer.report())
			}
			c := r.count()
			t.Logf("%d changes, %d writes, %d reads, %d watches; of these %d failed",
				r.changes, c.writes, c.reads, c.watches, c.rejected+c.failed)
			step.check(t, &r)
		}) {
			return // the following steps need what this one left
		}
	}
}

// requireWrites checks that there were so many writes, and none of them failed.
func requireWrites(t *testing.T, r *result, want int) {
	t.Helper()
	if got := r.count(); got.writes != want || got.rejected+got.failed > 0 {
		t.Errorf("%d writes for %d changes, %d requests failed; want %d and 0",
			got.writes, r.changes, got.rejected+got.failed, want)
	}
}

// requireLimit checks that no node wrote more often than promised, and that the changes exceeded
// the limit.
func requireLimit(t *testing.T, r *result) {
	t.Helper()
	const limit, period = 10, time.Second
	const tolerance = 20 * time.Millisecond // from the driver's decision until it sends the request
	if r.changes < testChanging*limit*4 {
		t.Errorf("only %d changes of %d nodes in %v", r.changes, testChanging, r.took)
	}
	for node, times := range writeTimes(r) {
		for i := range len(times) - limit {
			if took := times[i+limit].Sub(times[i]); took < period-tolerance {
				t.Errorf("node %d sent %d writes in %v", node, limit+1, took)
				break
			}
		}
	}
}

// requireOnlyChanges checks that nodes without a change wrote nothing.
func requireOnlyChanges(t *testing.T, r *result) {
	t.Helper()
	for node, times := range writeTimes(r) {
		if node >= testChanging {
			t.Errorf("node %d sent %d writes without a change", node, len(times))
		}
	}
}

// writeTimes returns when each node sent its writes.
func writeTimes(r *result) map[int][]time.Time {
	times := map[int][]time.Time{}
	for i := range r.requests {
		if q := &r.requests[i]; q.write() {
			times[q.node] = append(times[q.node], q.at)
		}
	}
	for node := range times {
		slices.SortFunc(times[node], time.Time.Compare)
	}
	return times
}
