package kubeletapi

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

// BenchmarkPublishToKubelet measures from publish, with one device of many changed, to the list at the kubelet's end of the socket.
func BenchmarkPublishToKubelet(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("devices=%d", n), func(b *testing.B) {
			dir, h := kubeletDir(b), newHand()
			lists := make(chan kubelettest.List, 16)
			startKubelet(b, dir, kubelettest.OnList(func(l kubelettest.List) { lists <- l }))
			run(b, dir, h)
			trees := alternating(b, n)
			h.set(trees[0])
			<-lists
			took := make([]time.Duration, 0, b.N)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				start := time.Now()
				h.set(trees[i%2])
				l := <-lists
				took = append(took, l.Time.Sub(start))
				if want := []string{"Healthy", "Unhealthy"}[i%2]; l.Devices[n/2].Health != want {
					b.Fatalf("the list after change %d has a device %s, want %s", i, l.Devices[n/2].Health, want)
				}
			}
			report(b, took)
		})
	}
}

// BenchmarkStart measures from Run to the full list at the kubelet's end.
func BenchmarkStart(b *testing.B) {
	for _, n := range []int{64, 1024} {
		b.Run(fmt.Sprintf("devices=%d", n), func(b *testing.B) {
			dir := kubeletDir(b)
			lists := make(chan kubelettest.List, 16)
			startKubelet(b, dir, kubelettest.OnList(func(l kubelettest.List) { lists <- l }))
			full := alternating(b, n)[0]
			var took []time.Duration
			for b.Loop() {
				h := newHand()
				start := time.Now()
				r := run(b, dir, h)
				h.set(full)
				l := <-lists
				took = append(took, l.Time.Sub(start))
				if err := r.stop(); err != nil {
					b.Fatal(err)
				}
			}
			report(b, took)
		})
	}
}

// BenchmarkRestart measures from the new kubelet.sock to the full list there.
func BenchmarkRestart(b *testing.B) {
	dir, h := kubeletDir(b), newHand()
	lists := make(chan kubelettest.List, 16)
	k := startKubelet(b, dir, kubelettest.OnList(func(l kubelettest.List) { lists <- l }))
	run(b, dir, h)
	h.set(alternating(b, 64)[0])
	<-lists
	var took []time.Duration
	for b.Loop() {
		restart(b, k)
		start := time.Now()
		l := <-lists
		took = append(took, l.Time.Sub(start))
	}
	report(b, took)
}

func BenchmarkConvert(b *testing.B) {
	for _, n := range []int{64, 1024} {
		trees := alternating(b, n)
		b.Run(fmt.Sprintf("one of %d changed", n), func(b *testing.B) {
			b.ReportAllocs()
			c, i := &converter{}, 0
			for b.Loop() {
				i++
				c.convert(trees[i%2].Resource("yellow"))
			}
		})
		b.Run(fmt.Sprintf("all %d anew", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				(&converter{}).convert(trees[0].Resource("yellow"))
			}
		})
	}
}

// alternating are two Trees of n devices with NUMA nodes that differ in the health of one.
func alternating(t testing.TB, n int) [2]*devtree.Tree {
	t.Helper()
	b := (*devtree.Tree)(nil).Edit()
	id := func(i int) string { return fmt.Sprintf("0000:%02x:%02x.%d", i/256, i/8%32, i%8) }
	for i := range n {
		d := device(id(i))
		d.NUMANodes = []int{i % 2}
		put(t, b, "yellow", d)
	}
	first := b.Build()
	d := sick(id(n/2), "on fire")
	d.NUMANodes = []int{n / 2 % 2}
	return [2]*devtree.Tree{first, with(t, first, "yellow", d)}
}

func report(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
