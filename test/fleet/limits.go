// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
)

const (
	capacityTime    = 5 * time.Second // for which the slices are updated
	capacityWriters = 64              // each updates the slice of a node of its own
	watchesPerConn  = 200             // the server's limit of HTTP/2 streams is 250
)

// A load is what the API server has to do while its capacity for writes is measured.
type load struct {
	devices int // in each slice
	watches int // that are open, each for a node of its own
	watchBy watchBy
}

// watchBy is the field selector of a node's watch.
type watchBy struct {
	text   string
	fields func(*resourceapi.ResourceSlice) string
}

var (
	byNode = watchBy{"spec.nodeName, spec.driver", func(s *resourceapi.ResourceSlice) string {
		return "spec.nodeName=" + *s.Spec.NodeName + ",spec.driver=" + driverName
	}}
	byName = watchBy{"spec.nodeName, metadata.name", func(s *resourceapi.ResourceSlice) string {
		return "spec.nodeName=" + *s.Spec.NodeName + ",metadata.name=" + s.Name
	}}
)

// A capacity is how many slices one API server can write.
type capacity struct {
	load
	one      time.Duration // p50 of a write while there is no other
	rate     float64       // writes a second of all writers
	cpu      time.Duration // of the API server for each write
	size     int           // of a slice in protobuf, bytes
	rejected int64         // requests, with 429
	perWatch int64         // resident memory of the API server for each watch, bytes
	growth   int64         // of etcd's database for each write, bytes
}

// measureCapacity measures how many slices one API server can write under a load. The writers have
// connections of their own and belong to the drivers' service account. No driver runs.
func measureCapacity(ctx context.Context, programs string, l load) (c capacity, err error) {
	f, err := newFleet(ctx, programs, capacityWriters, true)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	c.load = l
	writers := make([]*writer, len(f.nodes))
	for i := range writers {
		if writers[i], err = newWriter(ctx, f, i, l.devices); err != nil {
			return c, err
		}
	}
	c.size = writers[0].slice.Size()
	before, _, err := f.usage()
	if err != nil {
		return c, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := f.openWatches(ctx, l); err != nil {
		return c, err
	}
	after, _, err := f.usage()
	if err != nil {
		return c, err
	}
	if l.watches > 0 {
		c.perWatch = (after.Resident - before.Resident) / int64(l.watches)
	}
	if err := writers[0].write(ctx, capacityTime/2); err != nil {
		return c, err
	}
	c.one = percentile(writers[0].took, 0.5)
	return c, f.measureWrites(ctx, &c, writers)
}

// measureWrites lets all writers write at once.
func (f *fleet) measureWrites(ctx context.Context, c *capacity, writers []*writer) error {
	const size = "apiserver_storage_size_bytes"
	before, _, err := f.usage()
	if err != nil {
		return err
	}
	metrics, err := f.Metrics(ctx)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	errs := make([]error, len(writers))
	for i, w := range writers {
		w.took = nil
		running.Go(func() { errs[i] = w.write(ctx, capacityTime) })
	}
	running.Wait()
	after, _, err := f.usage()
	if err = errors.Join(append(errs, err)...); err != nil {
		return err
	}
	later, err := f.Metrics(ctx)
	if err != nil {
		return err
	}
	writes := 0
	for _, w := range writers {
		writes += len(w.took)
		c.rejected += w.rejected.Load()
	}
	if writes == 0 {
		return fmt.Errorf("no write succeeded with %d watches", c.watches)
	}
	c.rate = float64(writes) / capacityTime.Seconds()
	c.cpu = (after.CPU - before.CPU) / time.Duration(writes)
	c.growth = int64(later.Sum(size)-metrics.Sum(size)) / int64(writes)
	return nil
}

// A writer updates the slice of a node.
type writer struct {
	client   kubernetes.Interface
	slice    *resourceapi.ResourceSlice
	took     []time.Duration // of each write
	rejected atomic.Int64    // requests, with 429; the client repeats them
}

// newWriter creates the slice.
func newWriter(ctx context.Context, f *fleet, i, devices int) (*writer, error) {
	w := &writer{}
	client, err := kubernetes.NewForConfig(protobuf(f.configs[i]))
	if err != nil {
		return nil, err
	}
	w.client = client
	slice := sliceOf(f.nodes[i])
	slice.Spec.Devices = slice.Spec.Devices[:devices]
	w.slice, err = client.ResourceV1().ResourceSlices().Create(ctx, slice, metav1.CreateOptions{})
	return w, err
}

// write changes the slice again and again for some time.
func (w *writer) write(ctx context.Context, duration time.Duration) error {
	end := time.Now().Add(duration)
	for began := time.Now(); began.Before(end); began = time.Now() {
		next := w.slice.DeepCopy()
		*next.Spec.Devices[0].Attributes[sequenceAttribute].IntValue++
		updated, err := w.client.ResourceV1().ResourceSlices().Update(ctx, next, metav1.UpdateOptions{})
		if apierrors.IsTooManyRequests(err) {
			w.rejected.Add(1)
			continue
		}
		if err != nil {
			return err
		}
		w.slice = updated
		w.took = append(w.took, time.Since(began))
	}
	return nil
}

// openWatches opens watches for nodes that do not exist, so that they receive nothing.
func (f *fleet) openWatches(ctx context.Context, l load) error {
	errs := make([]error, (l.watches+watchesPerConn-1)/watchesPerConn)
	workqueue.ParallelizeUntil(ctx, setupWorkers, len(errs), func(i int) {
		config := protobuf(f.Config())
		new(traffic).record(0, config) // for a connection of its own
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			errs[i] = err
			return
		}
		for k := i * watchesPerConn; k < min(l.watches, (i+1)*watchesPerConn); k++ {
			name := nodeNameOf(len(f.nodes) + k)
			fields := l.watchBy.fields(&resourceapi.ResourceSlice{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec:       resourceapi.ResourceSliceSpec{NodeName: &name},
			})
			w, err := client.ResourceV1().ResourceSlices().Watch(ctx,
				metav1.ListOptions{FieldSelector: fields, ResourceVersion: "0"})
			if err != nil {
				errs[i] = err
				return
			}
			go drain(w)
		}
	})
	return errors.Join(errs...)
}

// drain reads a watch until its context ends.
func drain(w watch.Interface) {
	for range w.ResultChan() {
	}
}

// measureList lists all slices as a scheduler does when it starts. It returns the time, and the
// bytes on the connection, which are compressed.
func (f *fleet) measureList(ctx context.Context) (time.Duration, int64, error) {
	var t traffic
	config := protobuf(f.Config())
	t.record(0, config)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	_, err = client.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	return time.Since(began), t.received.Load(), err
}
