// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"qatplugin/test/fleet/controlplane"
)

const (
	patience    = 90 * time.Second // until the slices must be right
	churnPeriod = time.Second      // between two changes of a node
	stormPeriod = 5 * time.Millisecond
	watchPoll   = 250 * time.Millisecond
	downTime    = 2 * time.Second // of the API server, once it has ended
)

// A result is what a scenario took.
type result struct {
	label    string // of the fleet
	scenario string
	nodes    int
	took     time.Duration // from its start until all slices were right
	watching time.Duration // until all nodes watched their slices again, after the API server was away
	wrong    int           // nodes whose slices were not right within patience
	changes  int           // of devices
	delays   []time.Duration
	requests []request
	sent     int64 // bytes of all nodes
	received int64

	apiServer, etcd controlplane.Usage // memory at the end, and CPU time of the scenario
	database        int64              // bytes
}

// measure records what happens until all slices are right after a scenario. act returns the time
// from which on they can become right.
func (f *fleet) measure(
	ctx context.Context, scenario string, act func(context.Context) (time.Time, error),
) (result, error) {
	r := result{scenario: scenario, nodes: len(f.nodes)}
	before := f.traffic.mark()
	apiServer, etcd, err := f.usage()
	if err != nil {
		return r, err
	}
	began := time.Now()
	changes := f.changes()
	from, err := act(ctx)
	if err != nil {
		return r, fmt.Errorf("%s: %w", scenario, err)
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	until, err := f.observer.await(limited)
	if err != nil {
		if ctx.Err() != nil {
			return r, err
		}
		until, r.wrong = time.Now(), f.observer.wrongCount()
	}
	r.took = max(0, until.Sub(from))
	r.changes = f.changes() - changes
	r.delays = f.observer.delaysSince(began)
	r.requests = f.traffic.since(before)
	after := f.traffic.mark()
	r.sent, r.received = after.sent-before.sent, after.received-before.received
	if r.apiServer, r.etcd, err = f.usage(); err != nil {
		return r, err
	}
	r.apiServer.CPU -= apiServer.CPU
	r.etcd.CPU -= etcd.CPU
	metrics, err := f.Metrics(ctx)
	if err != nil {
		return r, err
	}
	r.database = int64(metrics.Sum("apiserver_storage_size_bytes"))
	return r, nil
}

func (f *fleet) usage() (apiServer, etcd controlplane.Usage, err error) {
	apiServer, err1 := f.APIServerUsage()
	etcd, err2 := f.EtcdUsage()
	return apiServer, etcd, errors.Join(err1, err2)
}

// changes returns how many changes the nodes have made.
func (f *fleet) changes() (n int) {
	for _, node := range f.nodes {
		_, published := node.state()
		n += len(published)
	}
	return n
}

// coldStart starts the drivers of all nodes at once.
func (f *fleet) coldStart(ctx context.Context, run runDriver) (r result, stop func() error, err error) {
	r, err = f.measure(ctx, "cold start", func(context.Context) (time.Time, error) {
		began := time.Now()
		stop = f.start(ctx, run)
		return began, nil
	})
	return r, stop, err
}

// churn changes a VF of some nodes again and again, each node at its own time of the period.
func (f *fleet) churn(ctx context.Context, scenario string, nodes int, period, duration time.Duration) (result, error) {
	return f.measure(ctx, scenario, func(ctx context.Context) (time.Time, error) {
		f.change(ctx, nodes, period, duration)
		return time.Now(), ctx.Err()
	})
}

// change changes a random VF of the first nodes in each period.
func (f *fleet) change(ctx context.Context, nodes int, period, duration time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var running sync.WaitGroup
	for _, n := range f.nodes[:nodes] {
		running.Go(func() {
			timer := time.NewTimer(rand.N(period))
			defer timer.Stop()
			for {
				select {
				case <-timer.C:
					n.change(rand.IntN(vfsPerNode))
					timer.Reset(period)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	running.Wait()
}

// restart ends the API server as StopAPIServer does, and starts it again. Meanwhile some nodes
// change a VF every second. The times count from when the API server is ready again.
func (f *fleet) restart(ctx context.Context, scenario string, grace time.Duration, nodes int) (result, error) {
	before, err := f.openWatchCount(ctx)
	if err != nil {
		return result{}, err
	}
	var ready time.Time
	r, err := f.measure(ctx, scenario, func(ctx context.Context) (time.Time, error) {
		changing, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		running.Go(func() { f.change(changing, nodes, churnPeriod, patience) })
		defer running.Wait()
		defer cancel()
		f.StopAPIServer(grace)
		select {
		case <-time.After(downTime):
		case <-ctx.Done():
		}
		err := f.StartAPIServer(ctx)
		ready = time.Now()
		return ready, err
	})
	if err != nil {
		return r, err
	}
	for time.Since(ready) < patience {
		open, err := f.openWatchCount(ctx)
		if err != nil {
			return r, err
		}
		r.watching = time.Since(ready)
		if open >= before {
			break
		}
		time.Sleep(watchPoll)
	}
	return r, nil
}

// openWatchCount returns how many watches of slices are open, including that of the observer. A
// watch that the API server ends at once, because it does not know the version from which it should
// start, does not count.
func (f *fleet) openWatchCount(ctx context.Context) (int, error) {
	m, err := f.Metrics(ctx)
	return int(m.Sum("apiserver_longrunning_requests", "verb", "WATCH", "resource", "resourceslices")), err
}

// deleteSlices deletes all slices at once.
func (f *fleet) deleteSlices(ctx context.Context) (result, error) {
	return f.measure(ctx, "all slices deleted", func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		f.observer.forget()
		return began, f.admin.ResourceV1().ResourceSlices().DeleteCollection(ctx,
			metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "spec.driver=" + driverName})
	})
}

// percentile returns the value below which this part of the values is.
func percentile(values []time.Duration, part float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*part))]
}
