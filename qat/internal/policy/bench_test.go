// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"qatplugin/qat/internal/pci"
)

func BenchmarkChoose(b *testing.B) {
	for _, layout := range []struct {
		name  string
		pfs   int
		vfs   int
		nodes int
	}{
		{name: "64PFs_2nodes", pfs: 64, vfs: 16, nodes: 2},
		{name: "guest_1024buses", pfs: 1024, vfs: 1, nodes: 1},
	} {
		h := &testHost{listed: map[pci.Address]int{}}
		for i := range layout.pfs {
			pf := pci.Address{Domain: uint32(i >> 8), Bus: uint8(i)}
			h.listed[pf] = layout.vfs
			for n := range layout.vfs {
				vf := testPF{bus: pf.Bus}.vf(n + 1)
				vf.Domain = pf.Domain
				h.available = append(h.available, candidate{
					id:      vf.String(),
					address: vf,
					pf:      pf,
					node:    i * layout.nodes / layout.pfs,
				})
			}
		}
		slices.SortFunc(h.available, func(x, y candidate) int { return strings.Compare(y.id, x.id) })
		for _, policy := range []Policy{Balanced, Packed} {
			for _, size := range []int{1, 16, 1000} {
				b.Run(fmt.Sprintf("%s/%s/%d", layout.name, policy, size), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if _, err := policy.choose(h.available, nil, size, h.listed); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// vfs1024 returns the VFs of 64 PFs with 16 VFs each.
func vfs1024() (vfs []pci.Address) {
	for bus := range 64 {
		for n := range 16 {
			vfs = append(vfs, testPF{bus: uint8(bus)}.vf(n+1))
		}
	}
	return vfs
}

func BenchmarkUpdate1024(b *testing.B) {
	vfs, p := vfs1024(), NewPreference(Balanced)
	b.ReportAllocs()
	for b.Loop() {
		p.Update(slices.Values(vfs), onBus)
	}
}

func BenchmarkOrder1024(b *testing.B) {
	vfs := vfs1024()
	b.ReportAllocs()
	for b.Loop() {
		Order(Balanced, vfs, onBus, slices.Values[[]pci.Address](nil))
	}
}
