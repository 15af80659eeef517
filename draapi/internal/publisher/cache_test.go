// SPDX-License-Identifier: Apache-2.0

package publisher

import (
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSliceCacheKeepsTheNewestState(t *testing.T) {
	slice := func(version string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "own-0", ResourceVersion: version}}
	}
	for _, tt := range []struct {
		name string
		do   func(c *sliceCache)
		want string // resource version, or empty
	}{
		{"answer before event", func(c *sliceCache) { c.stored(slice("10")); _ = c.Update(slice("9")) }, "10"},
		{"event before answer", func(c *sliceCache) { _ = c.Update(slice("10")); c.stored(slice("9")) }, "10"},
		{"deletion before answer", func(c *sliceCache) { _ = c.Delete(slice("10")); c.stored(slice("9")) }, ""},
		{"answer before old deletion", func(c *sliceCache) { c.stored(slice("10")); _ = c.Delete(slice("9")) }, "10"},
		{"answer after deletion", func(c *sliceCache) { _ = c.Delete(slice("9")); c.stored(slice("10")) }, "10"},
		{"list without it", func(c *sliceCache) { c.stored(slice("9")); _ = c.Replace(nil, "10") }, ""},
		{"older list without it", func(c *sliceCache) { c.stored(slice("10")); _ = c.Replace(nil, "9") }, "10"},
		{"older list with it", func(c *sliceCache) {
			c.stored(slice("10"))
			_ = c.Replace([]any{slice("8")}, "9")
		}, "10"},
		{"own deletion", func(c *sliceCache) { c.stored(slice("9")); c.forget(slice("9")) }, ""},
		{"own deletion of an older state", func(c *sliceCache) { c.stored(slice("10")); c.forget(slice("9")) }, "10"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newSliceCache(func(name string) bool { return strings.HasPrefix(name, "own-") }, func() {})
			tt.do(c)
			all, _ := c.all()
			got := ""
			if s := all["own-0"]; s != nil {
				got = s.ResourceVersion
			}
			if got != tt.want {
				t.Errorf("version %q, want %q", got, tt.want)
			}
		})
	}
}

// TestSliceCacheForgetsSlicesOfOthers checks that the cache does not grow with names that are never
// used again.
func TestSliceCacheForgetsSlicesOfOthers(t *testing.T) {
	c := newSliceCache(func(string) bool { return false }, func() {})
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "other-x7f2z", ResourceVersion: "9"}}
	_ = c.Add(s)
	s = s.DeepCopy()
	s.ResourceVersion = "10"
	_ = c.Delete(s)
	if len(c.slices)+len(c.versions) > 0 {
		t.Errorf("the cache has slices %v and versions %v", c.slices, c.versions)
	}
}
