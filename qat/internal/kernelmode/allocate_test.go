// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
)

func TestPostAllocateNumbersTheUnitsOfAContainer(t *testing.T) {
	h, d := newHostWithDevice(t)
	h.conf(t, "c6xx_dev0", sec("SSL", 3, 1, 0), sec("SHIM", 1, 1, 0))
	tree, _ := h.fresh(t)
	resource := tree.Resource("cy1_dc0")
	for name, test := range map[string]struct {
		units []string
		want  map[string]string
	}{
		"one unit": {
			[]string{"SSL_dev0_2"},
			map[string]string{"QAT_SECTION_NAME": "SSL", "QAT_SECTION_NAME_cy1_dc0_0": "SSL"},
		},
		"several units": {
			[]string{"SHIM_dev0_0", "SSL_dev0_2", "SSL_dev0_0"},
			map[string]string{
				"QAT_SECTION_NAME":           "SHIM",
				"QAT_SECTION_NAME_cy1_dc0_0": "SHIM",
				"QAT_SECTION_NAME_cy1_dc0_1": "SSL",
				"QAT_SECTION_NAME_cy1_dc0_2": "SSL",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			edits := &devtree.ContainerEdits{}
			var devices []*devtree.Device
			for _, id := range test.units {
				devices = append(devices, resource.Device(id))
				edits.Merge(&resource.Device(id).ContainerEdits)
			}
			must(t, PostAllocate(h.Dev(), "cy1_dc0", devices, edits))
			if diff := cmp.Diff(test.want, edits.Env); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
			var nodes []string
			for _, n := range edits.DeviceNodes {
				nodes = append(nodes, n.HostPath)
			}
			want := []string{"/dev/qat_adf_ctl", "/dev/qat_dev_processes", "/dev/usdm_drv", "/dev/" + d.uio}
			if diff := cmp.Diff(want, nodes); diff != "" {
				t.Errorf("nodes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPostAllocateRefusesUnusableUnits(t *testing.T) {
	h, d := newHostWithDevice(t)
	h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
	tree, _ := h.fresh(t)
	unit := tree.Resource("cy1_dc0").Device("SSL_dev0_0")
	must(t, os.Remove(filepath.Join(h.Dev(), d.uio)))
	err := PostAllocate(h.Dev(), "cy1_dc0", []*devtree.Device{unit}, &devtree.ContainerEdits{})
	text := fmt.Sprint(err)
	if !errors.Is(err, devtree.ErrUnfit) || !strings.Contains(text, "/dev/"+d.uio) || !strings.Contains(text, unit.ID) {
		t.Errorf("without the node the error is %v, want one that names it and the unit", err)
	}
	nameless := []*devtree.Device{{ID: "x"}}
	if err := PostAllocate(h.Dev(), "cy1_dc0", nameless, &devtree.ContainerEdits{}); err == nil {
		t.Error("a unit without a section was allocated")
	}
}
