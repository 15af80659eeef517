// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
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
		b.Run(fmt.Sprintf("VFs=%d", n), func(b *testing.B) { benchmarkReconcile(b, n, false) })
	}
	b.Run("VFs=64,attributes", func(b *testing.B) { benchmarkReconcile(b, 64, true) })
}

func benchmarkReconcile(b *testing.B, n int, attributes bool) {
	c := newReader(b, benchHost(b, n), attributes)
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
}

// BenchmarkSnapshot measures how long a reader of the status delays the loop, and how long the
// reader then works by itself.
func BenchmarkSnapshot(b *testing.B) {
	for _, n := range []int{64, 1024} {
		b.Run(fmt.Sprintf("VFs=%d", n), func(b *testing.B) {
			c := newReader(b, benchHost(b, n), false)
			known := func(*function) bool { return true }
			for len(c.functions.vfs(known)) < n { // on a busy machine, some reads return late
				c.Reconcile(time.Now(), &hostwatch.Batch[Key]{All: true})
			}
			var reader time.Duration
			for b.Loop() {
				addTo := c.Snapshot()
				b.StopTimer()
				start := time.Now()
				var s status.Snapshot
				addTo(&s, nil)
				reader += time.Since(start)
				if len(s.VFs) != n {
					b.Fatalf("%d VFs, want %d", len(s.VFs), n)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(reader.Microseconds())/float64(b.N), "reader-µs")
		})
	}
}

// BenchmarkRecorderHeap measures the heap that the recorder takes, with all VFs of the host in each
// step, and with one in each. It alternates with a mode that has no recorder.
func BenchmarkRecorderHeap(b *testing.B) {
	const n = 1024
	h := benchHost(b, n)
	heap := func(limit int, key func(i int) []Key) float64 {
		cfg := withDefaults(h, Config{NoBind: true, Recorder: NewRecorder(limit, nil)}, nil)
		c := New(b.Context(), cfg, hostwatch.Host[Key]{
			Mark:    func(Key, time.Time) {},
			Watches: hostwatch.NewWatches(nil),
		}).(*controller)
		defer c.Close()
		for i := range 2 * n {
			keys := key(i)
			c.Reconcile(time.Now(), &hostwatch.Batch[Key]{All: keys == nil, Keys: keys})
			if keys == nil && i == 4 {
				break
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		runtime.KeepAlive(c)
		return float64(m.HeapAlloc) / 1024
	}
	all := func(int) []Key { return nil }
	one := func(i int) []Key {
		if i == 0 {
			return nil
		}
		pf, vf := i%n/16, i%n%16+1
		return []Key{{address: pci.Address{Bus: uint8(pf + 1), Device: uint8(vf / 8), Function: uint8(vf % 8)}}}
	}
	for name, key := range map[string]func(int) []Key{"all": all, "one": one} {
		b.Run(name, func(b *testing.B) {
			var with, without float64
			for b.Loop() {
				without += heap(-1, key)
				with += heap(0, key)
			}
			b.ReportMetric(without/float64(b.N), "off-KiB")
			b.ReportMetric((with-without)/float64(b.N), "recorder-KiB")
			b.ReportMetric(0, "ns/op")
		})
	}
}
