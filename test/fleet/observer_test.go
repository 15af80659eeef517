// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	resourceapi "k8s.io/api/resource/v1"
)

// TestDifferenceFindsWrongSlices modifies the right slice of a node, and expects that the observer
// finds it wrong.
func TestDifferenceFindsWrongSlices(t *testing.T) {
	n := newNode(0)
	if newest := n.change(3); newest != 0 {
		t.Fatalf("the first change has number %d, want 0", newest)
	}
	if newest := n.change(5); newest != 1 {
		t.Fatalf("the second change has number %d, want 1", newest)
	}
	tree, _ := n.state()
	for _, tt := range []struct {
		name   string
		modify func(*resourceapi.ResourceSlice)
		want   string
	}{
		{"nothing", func(*resourceapi.ResourceSlice) {}, ""},
		{"device missing", func(s *resourceapi.ResourceSlice) {
			s.Spec.Devices = s.Spec.Devices[1:]
		}, "63 devices, want 64"},
		{"device twice", func(s *resourceapi.ResourceSlice) {
			s.Spec.Devices[0] = s.Spec.Devices[1]
		}, "is there twice"},
		{"taint missing", func(s *resourceapi.ResourceSlice) {
			s.Spec.Devices[5].Taints = nil
		}, "Unhealthy and tainted: false"},
		{"taint too many", func(s *resourceapi.ResourceSlice) {
			s.Spec.Devices[0].Taints = s.Spec.Devices[5].Taints
		}, "Healthy and tainted: true"},
		{"old state", func(s *resourceapi.ResourceSlice) {
			*s.Spec.Devices[5].Attributes[sequenceAttribute].IntValue = 0
		}, "in the state of change 0, want 1"},
		{"incomplete pool", func(s *resourceapi.ResourceSlice) {
			s.Spec.Pool.ResourceSliceCount = 2
		}, "one of 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			slice := sliceOf(n)
			tt.modify(slice)
			newest, got := difference(map[string]observedSlice{slice.Name: observe(slice)}, n.name, tree)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("difference %q, want %q", got, tt.want)
			}
			if want := 1; tt.name == "nothing" && newest != want {
				t.Errorf("the newest change is %d, want %d", newest, want)
			}
		})
	}
}
