package qat

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func BenchmarkPreferredAllocation(b *testing.B) {
	for _, layout := range []struct {
		name     string
		pfs, vfs int
		nodes    int
	}{
		{name: "64PFs_2nodes", pfs: 64, vfs: 16, nodes: 2},
		{name: "guest_of_1024_buses", pfs: 1024, vfs: 1, nodes: 1},
	} {
		h := &rack{listed: map[Address]int{}}
		for i := range layout.pfs {
			pf := Address{Domain: uint32(i >> 8), Bus: uint8(i)}
			h.listed[pf] = layout.vfs
			for k := range layout.vfs {
				vf := Address{Domain: pf.Domain, Bus: pf.Bus, Device: uint8((k + 1) / 8), Function: uint8((k + 1) % 8)}
				h.available = append(h.available, unit{id: vf.String(), address: vf, home: pf, node: i * layout.nodes / layout.pfs})
			}
		}
		slices.SortFunc(h.available, func(x, y unit) int { return strings.Compare(y.id, x.id) })
		for _, policy := range []Policy{Balanced, Packed} {
			for _, size := range []int{1, 16, 1000} {
				b.Run(fmt.Sprintf("%s/%s/%d", layout.name, policy, size), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if _, err := choose(policy, h.available, nil, size, h.listed); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

func BenchmarkHomesOf1024(b *testing.B) {
	var vfs []Address
	for i := range 64 {
		for k := range 16 {
			vfs = append(vfs, bank{bus: uint8(i)}.vf(k+1))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		newHomes(slices.Values(vfs), onBus)
	}
}

func BenchmarkAdmissionOrderOf1024(b *testing.B) {
	var vfs []Address
	for i := range 64 {
		for k := range 16 {
			vfs = append(vfs, bank{bus: uint8(i)}.vf(k+1))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		admissionOrder(Balanced, vfs, onBus, nil)
	}
}
