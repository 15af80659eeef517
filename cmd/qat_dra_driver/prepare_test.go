// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/draapi"
)

// claimOf returns a claim of devices, given as pairs of a request and an address.
func claimOf(pairs ...string) *draapi.Claim {
	claim := &draapi.Claim{Namespace: "default", Name: "a", UID: "1"}
	for pair := range slices.Chunk(pairs, 2) {
		claim.Devices = append(claim.Devices, draapi.ClaimDevice{
			Request: pair[0], Device: &devtree.Device{ID: pair[1]},
		})
	}
	return claim
}

// TestVariablesNameTheVFs checks the environment of each container: for a request of the scheduler
// for an extended resource, that of its container, and otherwise that of the claim.
func TestVariablesNameTheVFs(t *testing.T) {
	const a, b, c, d = "0000:6b:00.1", "0000:6b:00.2", "0000:e8:00.1", "0001:6b:00.1"
	for name, tt := range map[string]struct {
		claim *draapi.Claim
		want  []map[string]string // of each device
	}{
		"one request": {
			claimOf("vf", b, "vf", a),
			[]map[string]string{
				{"QAT0": b, "QAT_0000_6b_00_2": b},
				{"QAT1": a, "QAT_0000_6b_00_1": a},
			},
		},
		"two requests": {
			claimOf("sym", a, "dc", c, "sym", b),
			[]map[string]string{
				{"QAT0": a, "QAT_0000_6b_00_1": a},
				{"QAT1": c, "QAT_0000_e8_00_1": c},
				{"QAT2": b, "QAT_0000_6b_00_2": b},
			},
		},
		"prioritized list": {
			claimOf("vf/gen6", d),
			[]map[string]string{{"QAT0": d, "QAT_0001_6b_00_1": d}},
		},
		"extended resources of two containers": {
			claimOf("container-1-request-10", a, "container-0-request-0", b, "container-1-request-2", c,
				"container-1-request-2", d),
			[]map[string]string{
				{"QAT2": a, "QAT_0000_6b_00_1": a},
				{"QAT0": b, "QAT_0000_6b_00_2": b},
				{"QAT0": c, "QAT_0000_e8_00_1": c},
				{"QAT1": d, "QAT_0001_6b_00_1": d},
			},
		},
		"names that only look like those of the scheduler": {
			claimOf("container-1-request-1x", a, "container-99999999999999999999-request-0", b,
				"my-container-0-request-0", c),
			[]map[string]string{
				{"QAT0": a, "QAT_0000_6b_00_1": a},
				{"QAT1": b, "QAT_0000_6b_00_2": b},
				{"QAT2": c, "QAT_0000_e8_00_1": c},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			setVariables(tt.claim)
			var got []map[string]string
			for i := range tt.claim.Devices {
				got = append(got, tt.claim.Devices[i].Edits.Env)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The map of the edits may be that of the device, which all Trees share.
func TestVariablesAreNotAddedToTheDevice(t *testing.T) {
	claim := claimOf("vf", "0000:6b:00.1")
	shared := map[string]string{"X": "1"}
	claim.Devices[0].Edits.Env = shared
	setVariables(claim)
	if !maps.Equal(shared, map[string]string{"X": "1"}) {
		t.Errorf("the shared map is %v", shared)
	}
	want := map[string]string{"X": "1", "QAT0": "0000:6b:00.1", "QAT_0000_6b_00_1": "0000:6b:00.1"}
	if diff := cmp.Diff(want, claim.Devices[0].Edits.Env); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
