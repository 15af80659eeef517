// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"qatplugin/kubeletapi/kubelettest"
)

// BenchmarkPublishToKubelet measures the time from publish, with one changed device of
// many, to the arrival of the list at the kubelet.
func BenchmarkPublishToKubelet(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("devices=%d", n), func(b *testing.B) {
			dir, p := kubeletDir(b), newFakePlugin()
			lists := make(chan kubelettest.List, 16)
			startKubelet(b, dir, kubelettest.OnList(func(l kubelettest.List) { lists <- l }))
			run(b, dir, p)
			trees := toggledTrees(b, n)
			p.publish(trees[0])
			<-lists
			took := make([]time.Duration, 0, b.N)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				start := time.Now()
				p.publish(trees[i%2])
				l := <-lists
				took = append(took, l.Time.Sub(start))
				if want := []string{"Healthy", "Unhealthy"}[i%2]; l.Devices[n/2].Health != want {
					b.Fatalf("the device is %s after change %d, want %s", l.Devices[n/2].Health, i, want)
				}
			}
			reportPercentiles(b, took)
		})
	}
}

// BenchmarkStart measures the time from Run to the arrival of the first list at the kubelet.
func BenchmarkStart(b *testing.B) {
	for _, n := range []int{64, 1024} {
		b.Run(fmt.Sprintf("devices=%d", n), func(b *testing.B) {
			dir := kubeletDir(b)
			lists := make(chan kubelettest.List, 16)
			startKubelet(b, dir, kubelettest.OnList(func(l kubelettest.List) { lists <- l }))
			full := toggledTrees(b, n)[0]
			var took []time.Duration
			for b.Loop() {
				p := newFakePlugin()
				start := time.Now()
				r := run(b, dir, p)
				p.publish(full)
				l := <-lists
				took = append(took, l.Time.Sub(start))
				if err := r.stop(); err != nil {
					b.Fatal(err)
				}
			}
			reportPercentiles(b, took)
		})
	}
}

// BenchmarkRestart measures the time from a new kubelet.sock to the arrival of the list.
func BenchmarkRestart(b *testing.B) {
	dir, p := kubeletDir(b), newFakePlugin()
	lists := make(chan kubelettest.List, 16)
	k := startKubelet(b, dir, kubelettest.OnList(func(l kubelettest.List) { lists <- l }))
	run(b, dir, p)
	p.publish(toggledTrees(b, 64)[0])
	<-lists
	var took []time.Duration
	for b.Loop() {
		restart(b, k)
		start := time.Now()
		l := <-lists
		took = append(took, l.Time.Sub(start))
	}
	reportPercentiles(b, took)
}

func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{64, 1024} {
		trees := toggledTrees(b, n)
		b.Run(fmt.Sprintf("one of %d changed", n), func(b *testing.B) {
			b.ReportAllocs()
			e, i := &encoder{}, 0
			for b.Loop() {
				i++
				e.encode(trees[i%2].Resource("yellow"))
			}
		})
		b.Run(fmt.Sprintf("all %d new", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				(&encoder{}).encode(trees[0].Resource("yellow"))
			}
		})
	}
}

func reportPercentiles(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
