// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"runtime"
	"strconv"
	"time"

	"k8s.io/klog/v2"
)

const (
	churnTime = 15 * time.Second
	stormTime = 5 * time.Second
	graceTime = 30 * time.Second // of the kubelet for a static pod
)

// loads are the loads for measureCapacity.
var loads = []load{
	{devices: vfsPerNode}, {devices: vfsPerPF}, {devices: 1},
	{devices: 1, watches: 5000, watchBy: byNode},
	{devices: 1, watches: 20000, watchBy: byNode}, {devices: 1, watches: 20000, watchBy: byName},
}

// A namedDriver is a driver that ours is compared with.
type namedDriver struct {
	name string
	run  runDriver
}

// drivers use upstream's helper, with the limit of requests that client-go has by default and with
// a high one.
var drivers = []namedDriver{{"helper, QPS 5", onHelper(0)}, {"helper, QPS 1000", onHelper(1000)}}

// A sizeResult is what a fleet needs after its cold start.
type sizeResult struct {
	result
	slice     int   // average size of a slice in protobuf, bytes
	perDriver int64 // memory of this process for each driver, bytes
	listTook  time.Duration
	listBytes int64
}

// measureFleet runs the scenarios with so many nodes: with this project's driver, or with another.
// It ends the API server with SIGTERM only if graceful is true, because that takes half a minute.
func measureFleet(ctx context.Context, programs string, nodes int, other *namedDriver, graceful bool) (
	results []result, size sizeResult, err error,
) {
	f, err := newFleet(ctx, programs, nodes, true)
	if err != nil {
		return nil, size, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	label, run := strconv.Itoa(nodes), ours(f.dir)
	if other != nil {
		label, run = other.name, other.run
	}
	before := heap()
	first, stop, err := f.coldStart(ctx, run)
	if err != nil {
		return nil, size, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	size = sizeResult{result: first, slice: f.observer.sliceSize(), perDriver: (heap() - before) / int64(nodes)}
	if size.listTook, size.listBytes, err = f.measureList(ctx); err != nil {
		return nil, size, err
	}
	results = append(results, first)
	changing := max(1, nodes/100)
	scenarios := []func() (result, error){
		func() (result, error) { return f.churn(ctx, "1 % churn", changing, churnPeriod, churnTime) },
		func() (result, error) { return f.churn(ctx, "1 % in a storm", changing, stormPeriod, stormTime) },
		func() (result, error) { return f.restart(ctx, "API server: SIGKILL", 0, changing) },
		func() (result, error) { return f.deleteSlices(ctx) },
	}
	if graceful {
		scenarios = append(scenarios, func() (result, error) {
			return f.restart(ctx, "API server: SIGTERM", graceTime, changing)
		})
	}
	for _, scenario := range scenarios {
		r, err := scenario()
		if err != nil {
			return nil, size, err
		}
		results = append(results, r)
		note("%s: %s: %v, %d nodes wrong", label, r.scenario, r.took, r.wrong)
	}
	for i := range results {
		results[i].label = label
	}
	return results, size, nil
}

// heap returns the memory of this process that is in use, including the stacks.
func heap() int64 {
	runtime.GC()
	runtime.GC() // frees what finalizers kept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// silence discards the logs of the drivers and of client-go.
func silence() {
	var flags flag.FlagSet
	klog.InitFlags(&flags)
	_ = flags.Set("logtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
}
