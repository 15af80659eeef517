// SPDX-License-Identifier: Apache-2.0

package device

import (
	"path/filepath"
	"testing"
)

func TestProgressNamesTheFileThatIsRead(t *testing.T) {
	for entry, a := range map[string]string{
		"vendor": pfA, "numa_node": pfA, "driver": pfA, "qat/state": pfA, "qat/cfg_services": pfA,
		"device": vfA1, "physfn": vfA1, "iommu_group": vfA1, "iommu_group/name": vfA1,
	} {
		t.Run(entry, func(t *testing.T) {
			h := newHostWithVF(t, DriverVFIO)
			p := &Progress{}
			r := vfioReader(h).Tracked(p)
			path, got := r.entry(address(t, a)), ""
			handle, err := r.open(address(t, a), path, &hookedDir{
				directory: trackedDir{openDir(t, h, a), path, p},
				entries:   map[string]bool{entry: true},
				hook:      func() { got = p.File() },
			}, nil)
			must(t, err)
			defer handle.Close()
			_, err = handle.Read()
			must(t, err)
			if want := filepath.Join(h.Path(a), entry); got != want {
				t.Errorf("File() = %q, want %q", got, want)
			}
			if p.File() != h.Path(a) {
				t.Errorf("File() = %q in the end, want the directory, which is looked at last", p.File())
			}
		})
	}
}

func TestProgressNamesTheFunctionThatIsOpened(t *testing.T) {
	h := newHost(t)
	p := &Progress{}
	if f, err := vfioReader(h).Tracked(p).Read(address(t, pfB)); f != nil || err != nil {
		t.Fatalf("Read = %v, %v; want nil, nil", f, err)
	}
	if want := h.Path(pfB); p.File() != want {
		t.Errorf("File() = %q, want %q", p.File(), want)
	}
}
