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
	tests := map[string]struct {
		change func(t *testing.T, h *host)
		driver string // the configured one
		iface  string
		node   string
		want   bool
	}{
		"bound":            {want: true},
		"another node":     {node: "vfio/2"},
		"no VFIO node":     {node: "uio1"},
		"another driver":   {driver: DriverIGBUIO},
		"character device": {iface: InterfaceCdev},
		"unbound":          {change: func(t *testing.T, h *host) { must(t, h.Unbind(vfA1)) }},
		"removed":          {change: func(t *testing.T, h *host) { must(t, h.RemoveVF(vfA1)) }},
		"no node":          {change: func(t *testing.T, h *host) { must(t, os.Remove(filepath.Join(h.Dev(), "vfio/1"))) }},
		"no VFIO device": {change: func(t *testing.T, h *host) {
			must(t, os.RemoveAll(filepath.Join(h.Path(vfA1), "vfio-dev")))
		}},
		"no IOMMU group": {change: func(t *testing.T, h *host) {
			must(t, os.Remove(filepath.Join(h.Path(vfA1), "iommu_group")))
		}},
		"another device": {change: func(t *testing.T, h *host) {
			must(t, h.SetAttr(vfA1, "modalias", "pci:v00008086d00001234sv00008086sd00000000bc02sc00i00"))
			must(t, h.SetAttr(vfA1, "device", "0x1234"))
		}},
		"another vendor": {change: func(t *testing.T, h *host) {
			must(t, h.SetAttr(vfA1, "modalias", "pci:v00001234d00004941sv00001234sd00000000bc0Bsc40i00"))
			must(t, h.SetAttr(vfA1, "vendor", "0x1234"))
		}},
		"a PF": {change: func(t *testing.T, h *host) {
			must(t, h.SetAttr(vfA1, "modalias", "pci:v00008086d00004940sv00008086sd00000000bc0Bsc40i00"))
			must(t, h.SetAttr(vfA1, "device", "0x4940"))
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHostWithVF(t, DriverVFIO)
			if test.change != nil {
				test.change(t, h)
			}
			driver, iface, node := DriverVFIO, InterfaceAuto, "vfio/1"
			if test.driver != "" {
				driver = test.driver
			}
			if test.iface != "" {
				iface = test.iface
			}
			if test.node != "" {
				node = test.node
			}
			r := newReader(h, driver, iface)
			got := r.IsUsable(address(t, vfA1), node)
			if got != test.want {
				t.Errorf("IsUsable = %t, want %t", got, test.want)
			}
			f, err := r.Read(address(t, vfA1))
			usable := err == nil && f != nil && f.IsVF && r.IsBound(f.Driver) && f.Node == Node{Name: node}
			if got && !usable {
				t.Errorf("IsUsable = true, but Read = %+v, %v", f, err)
			}
		})
	}
}

func TestIsVFAlias(t *testing.T) {
	for alias, want := range map[string]bool{
		"pci:v00008086d00004941sv00008086sd00000000bc0Bsc40i00": true,
		"pci:v00008086d000037C9sv00008086sd00000000bc0Bsc40i00": true,
		"pci:v00008086d00004940sv00008086sd00000000bc0Bsc40i00": false, // a PF
		"pci:v00018086d00004941sv00008086sd00000000bc0Bsc40i00": false,
		"pci:v00008086d00004941":                                true,
		"pci:v00008086d0000494":                                 false,
		"pci:v00008086x00004941":                                false,
		"usb:v00008086d00004941":                                false,
		"":                                                      false,
	} {
		if got := isVFAlias(alias); got != want {
			t.Errorf("isVFAlias(%q) = %t, want %t", alias, got, want)
		}
	}
}
