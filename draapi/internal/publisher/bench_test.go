// SPDX-License-Identifier: Apache-2.0

package publisher_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/apiclient"
	"qatplugin/draapi/internal/inventory"
	"qatplugin/draapi/internal/publisher"
	"qatplugin/internal/apitest"
)

// BenchmarkChangeToSlice measures the time from a Tree in which one device changed to the slice on
// a watch, and beside it, that of a bare update of a slice with as many devices. The API server is
// in memory. Between changes is a pause, so that none is delayed by the limit of writes: run it
// with -benchtime=100x. The metrics are medians.
func BenchmarkChangeToSlice(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) { benchmarkChange(b, n) })
	}
}

func benchmarkChange(b *testing.B, n int) {
	server := apitest.New()
	server.AddNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
	client, err := apiclient.New(server.Config())
	if err != nil {
		b.Fatal(err)
	}
	p := publisher.New(publisher.Config{Driver: driver, Node: node, Client: client, GroupBy: "pfAddress"})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	defer func() { cancel(); <-ended }()

	w, err := client.WatchSlices(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	seen := func(isIt func(*resourcev1.ResourceSlice) bool) {
		for e := range w.ResultChan() {
			if s, ok := e.Object.(*resourcev1.ResourceSlice); ok && e.Type != watch.Deleted && isIt(s) {
				return
			}
		}
		b.Fatal("the watch has ended")
	}

	tree := new(devtree.Tree)
	for i := range n {
		tree = put(b, tree, i, 0)
	}
	inv := inventory.New(nil, tree, nil)
	p.Update(inv)
	var bare *resourcev1.ResourceSlice
	seen(func(s *resourcev1.ResourceSlice) bool { bare = s; return true })
	for p.Status().Err != nil {
		time.Sleep(10 * time.Millisecond)
	}
	bare = bare.DeepCopy()
	bare.ObjectMeta = metav1.ObjectMeta{Name: "bare"}
	bare.Spec.NodeName, bare.Spec.Pool.Name = new("bare"), "bare"
	if bare, err = client.CreateSlice(ctx, bare); err != nil {
		b.Fatal(err)
	}

	var published, updated []time.Duration
	for change := int64(1); b.Loop(); change++ {
		time.Sleep(110 * time.Millisecond)
		start := time.Now()
		tree = put(b, tree, 0, change)
		inv = inventory.New(inv, tree, nil)
		p.Update(inv)
		isChange := func(s *resourcev1.ResourceSlice) bool {
			return *s.Spec.Devices[0].Attributes["change"].IntValue == change
		}
		seen(func(s *resourcev1.ResourceSlice) bool { return s.Name != "bare" && isChange(s) })
		published = append(published, time.Since(start))

		next := bare.DeepCopy()
		next.Spec.Devices[0].Attributes["change"] = resourcev1.DeviceAttribute{IntValue: &change}
		start = time.Now()
		if bare, err = client.UpdateSlice(ctx, next); err != nil {
			b.Fatal(err)
		}
		seen(func(s *resourcev1.ResourceSlice) bool { return s.Name == "bare" && isChange(s) })
		updated = append(updated, time.Since(start))
	}
	median := func(all []time.Duration) float64 {
		slices.Sort(all)
		return float64(all[len(all)/2].Nanoseconds())
	}
	b.ReportMetric(median(published)/1e6, "ms/change")
	b.ReportMetric(median(updated)/1e6, "ms/bare-update")
	b.ReportMetric(median(published)/median(updated), "ratio")
	b.ReportMetric(0, "ns/op")
}

// put returns the successor of the tree with the i-th VF, whose attribute "change" has that value.
// A PF has 16 VFs.
func put(b *testing.B, tree *devtree.Tree, i int, change int64) *devtree.Tree {
	b.Helper()
	pf := fmt.Sprintf("0000:%02x:00.0", i/16)
	d := &devtree.Device{
		ID:        fmt.Sprintf("0000:%02x:%02x.%d", i/16, 1+i%16/8, i%8),
		Health:    devtree.Healthy,
		NUMANodes: []int{0},
		Attributes: map[string]any{
			"resource.kubernetes.io/pciBusID": fmt.Sprintf("0000:%02x:%02x.%d", i/16, 1+i%16/8, i%8),
			"resource.kubernetes.io/pcieRoot": fmt.Sprintf("pci0000:%02x", i/16),
			"resource.kubernetes.io/numaNode": int64(0),
			"family":                          "4xxx",
			"generation":                      int64(4),
			"pfAddress":                       pf,
			"pfIndex":                         int64(i % 16),
			"sym":                             true,
			"asym":                            true,
			"dc":                              false,
			"services":                        "sym;asym",
			"resource":                        "cy",
			"vfioInterface":                   "group",
			"change":                          change,
		},
	}
	builder := tree.Edit()
	if err := builder.Put("cy", d); err != nil {
		b.Fatal(err)
	}
	return builder.Build()
}
