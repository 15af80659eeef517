// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
)

// benchHost returns a host with n bound VFs, 16 of each PF.
func benchHost(b *testing.B, n int) *lookalike.Host {
	b.Helper()
	h := newHost(b)
	must(b, h.LoadDriver(device.DriverVFIO))
	for i := range (n + 15) / 16 {
		pf := pci.Address{Bus: uint8(i + 1)}.String()
		must(b, h.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}))
		if n < 16 {
			must(b, h.AddVF(lookalike.VF{Address: pci.Address{Bus: uint8(i + 1), Function: 1}.String(), PF: pf}))
		} else {
			must(b, h.SetVFs(pf, 16))
		}
		bindAll(b, h, pf, device.DriverVFIO)
	}
	return h
}

// BenchmarkReconcile measures the reconciliation of one VF of n, and how many
// times as long a full read takes, by turns in one run.
func BenchmarkReconcile(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("VFs=%d", n), func(b *testing.B) {
			c := newReader(b, benchHost(b, n))
			all := &hostwatch.Batch[Key]{All: true}
			if got := c.Reconcile(time.Now(), all).Tree.Resource("cy").Len(); got != n {
				b.Fatalf("%d VFs are listed, want %d", got, n)
			}
			one := &hostwatch.Batch[Key]{Keys: []Key{{address: pci.Address{Bus: 1, Function: 1}}}}
			var full time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				c.Reconcile(time.Now(), one)
				if i%64 == 0 {
					b.StopTimer()
					start := time.Now()
					c.Reconcile(start, all)
					full += time.Since(start)
					b.StartTimer()
				}
			}
			b.StopTimer()
			perVF := b.Elapsed() / time.Duration(b.N)
			perAll := full / time.Duration((b.N+63)/64)
			b.ReportMetric(float64(perAll.Microseconds()), "full-µs")
			b.ReportMetric(float64(perAll)/float64(max(perVF, 1)), "full/one")
		})
	}
}
