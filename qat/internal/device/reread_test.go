// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"qatplugin/internal/lookalike"
)

func TestRereadReturnsWhatReadReturns(t *testing.T) {
	type host = lookalike.Host
	node := func(h *host) string { return filepath.Join(h.Dev(), "vfio/1") }
	tests := map[string]struct {
		driver string // before the change
		change func(h *host) error
		isNil  bool
	}{
		"unchanged": {DriverVFIO, func(*host) error { return nil }, false},
		"bound":     {"", func(h *host) error { return h.Bind(vfA1, DriverVFIO) }, false},
		"bound without an IOMMU": {
			"",
			func(h *host) error {
				group := filepath.Join(h.Path(vfA1), "iommu_group/name")
				return errors.Join(os.WriteFile(group, []byte("vfio-noiommu\n"), 0o600), h.Bind(vfA1, DriverVFIO))
			},
			false,
		},
		"bound to a kernel's": {"", func(h *host) error { return h.Bind(vfA1, "4xxxvf") }, false},
		"unbound":             {DriverVFIO, func(h *host) error { return h.Unbind(vfA1) }, false},
		"without its node":    {DriverVFIO, func(h *host) error { return os.Remove(node(h)) }, false},
		"without its PF":      {DriverVFIO, func(h *host) error { return h.RemoveAttr(vfA1, "physfn") }, false},
		"without a group":     {DriverVFIO, func(h *host) error { return h.RemoveAttr(vfA1, "iommu_group") }, false},
		"without a VFIO device": {
			DriverVFIO, func(h *host) error { return os.RemoveAll(h.Path(vfA1) + "/vfio-dev") }, false,
		},
		"unbound, but held": {
			DriverVFIO,
			func(h *host) error {
				return errors.Join(h.Unbind(vfA1), os.WriteFile(node(h), nil, 0o600))
			},
			false,
		},
		"recreated": {
			DriverVFIO,
			func(h *host) error {
				return errors.Join(h.SetVFs(pfA, 0), h.SetVFs(pfA, 1))
			},
			true,
		},
		"removed": {DriverVFIO, func(h *host) error { return h.RemoveVF(vfA1) }, true},
		"without its entry, which the kernel removes first": {
			DriverVFIO, func(h *host) error { return os.Remove(h.Path(vfA1)) }, true,
		},
		"unreadable": {
			DriverVFIO,
			func(h *host) error {
				return errors.Join(h.RemoveAttr(vfA1, "driver"), h.SetAttr(vfA1, "driver", "no link"))
			},
			true,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, vfioInterface := range Interfaces() {
				h := newHostWithVF(t, tt.driver)
				must(t, h.LoadDriver("4xxxvf"))
				r := newReader(h, DriverVFIO, vfioInterface)
				before := read(t, r, vfA1)
				must(t, tt.change(h))
				var want *Function
				if !tt.isNil {
					want = read(t, r, vfA1)
				}
				equate := cmp.Options{cmpopts.EquateComparable(), cmp.AllowUnexported(Function{})}
				if diff := cmp.Diff(want, r.Reread(before), equate); diff != "" {
					t.Errorf("interface %s: Reread differs from Read (-Read +Reread):\n%s", vfioInterface, diff)
				}
			}
		})
	}
}
