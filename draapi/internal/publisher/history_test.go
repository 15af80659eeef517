// SPDX-License-Identifier: Apache-2.0

package publisher_test

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"pgregory.net/rapid"

	"qatplugin/internal/apitest"
)

// schedulerView returns the devices that the scheduler can allocate, or why it allocates none: the
// slices of the highest generation must be complete, and their devices unique
// (k8s.io/dynamic-resource-allocation/structured/internal/stable/pools_stable.go, GatherPools).
func schedulerView(all []*resourcev1.ResourceSlice) (devices map[string]bool, incomplete bool, err error) {
	var newest []*resourcev1.ResourceSlice
	for _, s := range all {
		switch {
		case len(newest) > 0 && s.Spec.Pool.Generation < newest[0].Spec.Pool.Generation:
		case len(newest) > 0 && s.Spec.Pool.Generation == newest[0].Spec.Pool.Generation:
			newest = append(newest, s)
		default:
			newest = []*resourcev1.ResourceSlice{s}
		}
	}
	if len(newest) == 0 || int64(len(newest)) != newest[0].Spec.Pool.ResourceSliceCount {
		return nil, true, nil
	}
	devices = map[string]bool{}
	for _, s := range newest {
		for _, d := range s.Spec.Devices {
			if devices[d.Name] {
				return nil, false, fmt.Errorf("device %s is in two slices", d.Name)
			}
			devices[d.Name] = true
		}
	}
	return devices, false, nil
}

// TestAnyHistoryEndsWithTheNewestDevices changes devices at random while requests fail, other
// clients interfere and the driver restarts. The scheduler never sees an invalid pool, the limit of
// writes holds, and in the end the API server has the newest devices and nothing more is written.
func TestAnyHistoryEndsWithTheNewestDevices(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			r := newRig(t)
			defer func() { r.stop(); r.stop = nil }()
			var mu sync.Mutex // guards faults and invalid
			var faults []*apitest.Fault
			var invalid error
			r.server.Fail(func(q *apitest.Request) *apitest.Fault {
				mu.Lock()
				defer mu.Unlock()
				if _, _, err := schedulerView(r.server.Slices()); err != nil && invalid == nil {
					invalid = err
				}
				if len(faults) == 0 {
					return nil
				}
				f := faults[0]
				faults = faults[1:]
				return f
			})
			r.start()
			exists := map[string]bool{}
			publish := func() { r.publish(slices.Sorted(maps.Keys(exists))...) }
			edited := false
			for range rapid.IntRange(1, 12).Draw(rt, "steps") {
				switch rapid.SampledFrom([]string{
					"change", "change", "change", "change", "wait", "fail", "away", "wipe", "end", "compact", "edit",
					"other", "restart",
				}).Draw(rt, "step") {
				case "change":
					pf := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "pf")
					health := rapid.SampledFrom([]string{"", "!"}).Draw(rt, "health")
					for _, d := range vfs(pf, 70) {
						delete(exists, d)
						delete(exists, d+"!")
					}
					for _, d := range vfs(pf, rapid.SampledFrom([]int{0, 1, 16, 40, 64, 70}).Draw(rt, "n")) {
						exists[d+health] = true
					}
					publish()
				case "wait":
					time.Sleep(time.Duration(rapid.IntRange(1, 20000).Draw(rt, "ms")) * time.Millisecond)
				case "fail":
					code := rapid.SampledFrom([]int{0, 409, 422, 429, 500}).Draw(rt, "code")
					done := rapid.Bool().Draw(rt, "done")
					mu.Lock()
					for range rapid.IntRange(1, 4).Draw(rt, "n") {
						faults = append(faults, &apitest.Fault{Code: code, Done: done})
					}
					mu.Unlock()
				case "away":
					r.server.SetDown(true)
					time.Sleep(time.Duration(rapid.IntRange(1, 5000).Draw(rt, "ms")) * time.Millisecond)
					r.server.SetDown(false)
				case "wipe":
					r.server.DeleteSlices(node)
				case "end":
					r.server.EndWatches()
				case "compact":
					r.server.Compact()
					r.server.EndWatches()
				case "edit":
					edited = true
					r.editSlices(func(s *resourcev1.ResourceSlice) { s.Spec.Devices = nil })
				case "other":
					generation := rapid.Int64Range(0, 9).Draw(rt, "generation")
					if len(r.server.Slices()) == 0 || r.server.Slices()[0].Name != "a" {
						r.addSlice("a", driver, node, node)
					}
					edit := func(s *resourcev1.ResourceSlice) { s.Spec.Pool.Generation = generation }
					_ = r.server.EditSlice("a", edit) // unless it is deleted already
				case "restart":
					r.stop()
					time.Sleep(time.Second) // each process has its own limit
					r.inventory = nil
					r.start()
					publish()
				}
				synctest.Wait()
			}
			publish()
			mu.Lock()
			faults = nil
			mu.Unlock()
			time.Sleep(time.Minute)
			r.writes()
			time.Sleep(time.Hour)
			r.expectWrites()
			if err := r.Check(rt.Context()); err != nil {
				rt.Fatalf("Check returns %v", err)
			}

			want := map[string]bool{}
			for _, d := range r.inventory.Devices {
				want[d.Name] = true
			}
			got, incomplete, err := schedulerView(r.server.Slices())
			isEmpty := len(want)+len(r.server.Slices()) == 0
			if err != nil || incomplete != isEmpty || !maps.Equal(got, want) && !isEmpty {
				rt.Fatalf("the scheduler sees %d devices, want %d, incomplete: %t, error %v:\n%s",
					len(got), len(want), incomplete, err, r.pool())
			}
			for _, s := range r.server.Slices() {
				for _, d := range s.Spec.Devices {
					if isUnhealthy := r.inventory.Find(d.Name).Device.Reason != ""; isUnhealthy != (len(d.Taints) > 0) {
						rt.Fatalf("device %s has taints %v", d.Name, d.Taints)
					}
				}
			}
			if n := r.burst(); n > 10 {
				rt.Fatalf("%d writes in a second", n)
			}
			if invalid != nil && !edited {
				rt.Fatal(invalid)
			}
		})
	})
}
