// SPDX-License-Identifier: Apache-2.0

package device

import (
	"os"
	"path/filepath"
	"testing"

	"qatplugin/internal/lookalike"
)

// TestIsUsable checks IsUsable, and that it never contradicts a complete read.
func TestIsUsable(t *testing.T) {
	type host = lookalike.Host
	for name, test := range map[string]struct {
		change func(t *testing.T, h *host)
		want   bool
	}{
		"unchanged": {func(*testing.T, *host) {}, true},
		"unbound":   {func(t *testing.T, h *host) { must(t, h.Unbind(vfA1)) }, false},
		"removed":   {func(t *testing.T, h *host) { must(t, h.RemoveVF(vfA1)) }, false},
		"no node": {func(t *testing.T, h *host) {
			must(t, os.Remove(filepath.Join(h.Dev(), "vfio/1")))
		}, false},
		"on its way out, and held": { // as kernels before 6.6 show it
			func(t *testing.T, h *host) {
				must(t, os.Remove(filepath.Join(h.Sysfs(), "bus/pci/drivers", DriverVFIO, vfA1)))
				must(t, h.RemoveAttr(vfA1, "driver"))
			}, false,
		},
		"bound again": {func(t *testing.T, h *host) {
			must(t, h.Unbind(vfA1))
			must(t, h.Bind(vfA1, DriverVFIO))
		}, false},
		"recreated": {func(t *testing.T, h *host) {
			must(t, h.SetVFs(pfA, 0))
			must(t, h.SetVFs(pfA, 1))
			must(t, h.Bind(vfA1, DriverVFIO))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostWithVF(t, DriverVFIO)
			r := vfioReader(h)
			before := read(t, r, vfA1)
			if want := inode(t, h, vfA1, "vfio-dev"); before.registration != want {
				t.Errorf("registration %d, want the inode %d", before.registration, want)
			}
			test.change(t, h)
			got := r.IsUsable(before)
			if got != test.want {
				t.Errorf("IsUsable = %t, want %t", got, test.want)
			}
			f, err := r.Read(address(t, vfA1))
			if got && (err != nil || !f.Equal(before)) {
				t.Errorf("IsUsable = true, but Read = %+v, %v", f, err)
			}
		})
	}
}

func TestIsUsableCannotTellWithoutRegistration(t *testing.T) {
	h := newHostWithVF(t, "")
	r := vfioReader(h)
	if f := read(t, r, vfA1); f.registration != 0 || r.IsUsable(f) {
		t.Errorf("a VF without a driver has the registration %d or is usable", f.registration)
	}
}
