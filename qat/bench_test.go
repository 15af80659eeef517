package qat

import (
	"fmt"
	"os"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
)

// benchHost is a host with n VFs on PFs of 16, bound.
func benchHost(b *testing.B, n int) *lookalike.Host {
	b.Helper()
	dir, err := lookalike.MkdirTemp()
	must(b, err)
	b.Cleanup(func() { must(b, os.RemoveAll(dir)) })
	h, err := lookalike.New(dir)
	must(b, err)
	must(b, h.LoadDriver(driverVFIO))
	for i := range (n + 15) / 16 {
		pf := Address{Bus: uint8(i + 1)}.String()
		must(b, h.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}))
		if n < 16 {
			must(b, h.AddVF(lookalike.VF{Address: Address{Bus: uint8(i + 1), Function: 1}.String(), PF: pf}))
		} else {
			must(b, h.SetVFs(pf, 16))
		}
		bindAll(b, h, pf, driverVFIO)
	}
	return h
}

// BenchmarkFold measures a look at one VF of n, and what it is worth: how many times as long a look at the whole host takes, by turns in
// one run.
func BenchmarkFold(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("VFs=%d", n), func(b *testing.B) {
			f := newFoldOf(benchHost(b, n), 0)
			must(b, f.lookAtAll(time.Now()))
			if got := f.tree.Resource("cy").Len(); got != n {
				b.Fatalf("%d VFs are listed, want %d", got, n)
			}
			one := []Address{{Bus: 1, Function: 1}}
			var all time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				f.lookAt(one, time.Now())
				if i%64 == 0 {
					b.StopTimer()
					start := time.Now()
					must(b, f.lookAtAll(start))
					all += time.Since(start)
					b.StartTimer()
				}
			}
			b.StopTimer()
			perLook := b.Elapsed() / time.Duration(b.N)
			perAll := all / time.Duration((b.N+63)/64)
			b.ReportMetric(float64(perAll.Microseconds()), "full-µs")
			b.ReportMetric(float64(perAll)/float64(max(perLook, 1)), "full/one")
		})
	}
}
