// SPDX-License-Identifier: Apache-2.0

package publisher_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/inventory"
	"qatplugin/internal/apitest"
)

func TestFirstPublishWritesOneSlice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		start := time.Now()
		r.start()
		r.publish("a.1", "a.2", "b.1")
		r.expect(line(0, 1, 1, "a.1", "a.2", "b.1"))
		r.expectWrites("create 0")
		if waited := time.Since(start); waited != 0 {
			t.Errorf("the slice was written after %v, want at once", waited)
		}
		node := r.server.Node(node)
		want := []metav1.OwnerReference{{
			APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: new(true),
		}}
		if diff := cmp.Diff(want, r.slice(0).OwnerReferences); diff != "" {
			t.Errorf("owners (-want +got):\n%s", diff)
		}
	})
}

func TestDeviceHasItsAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		b := new(devtree.Tree).Edit()
		if err := b.Put("cy", &devtree.Device{
			ID:     "0000:6b:00.1",
			Health: devtree.Healthy,
			Attributes: map[string]any{
				"family":                          "4xxx",
				"sym":                             true,
				"dc":                              false,
				"pfIndex":                         int64(3),
				"driverVersion":                   devtree.Version("1.2.3"),
				"resource.kubernetes.io/pciBusID": "0000:6b:00.1",
			},
		}); err != nil {
			t.Fatal(err)
		}
		r.Update(inventory.New(nil, b.Build(), nil))
		synctest.Wait()
		want := []resourcev1.Device{{
			Name: "0000-6b-00-1",
			Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
				"family":                          {StringValue: new("4xxx")},
				"sym":                             {BoolValue: new(true)},
				"dc":                              {BoolValue: new(false)},
				"pfIndex":                         {IntValue: new(int64(3))},
				"driverVersion":                   {VersionValue: new("1.2.3")},
				"resource.kubernetes.io/pciBusID": {StringValue: new("0000:6b:00.1")},
			},
		}}
		if diff := cmp.Diff(want, r.slice(0).Spec.Devices); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestNothingIsWrittenBeforeTheFirstInventory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		r.expectWrites("create 0")
		r.start()
		time.Sleep(time.Hour)
		r.expectWrites()
		if err := r.Check(t.Context()); err == nil {
			t.Error("Check returns nil before the first Inventory")
		}
	})
}

func TestNoDevicesMakeNoSlice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish()
		time.Sleep(time.Hour)
		r.expectWrites()
		if err := r.Check(t.Context()); err != nil {
			t.Errorf("Check returns %v", err)
		}
	})
}

func TestEqualInventoryIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1", "a.2!")
		r.expectWrites("create 0")
		r.inventory = nil // so that all devices are other pointers
		r.publish("a.1", "a.2!")
		time.Sleep(time.Hour)
		r.expectWrites()
	})
}

func TestRestartWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		devices := append(vfs("a", 64), append(vfs("b", 16), "b.99!")...)
		r.start()
		r.publish(devices...)
		time.Sleep(time.Minute)
		before := r.pool()
		r.writes()
		r.inventory = nil
		r.start()
		r.publish(devices...)
		time.Sleep(time.Hour)
		r.expectWrites()
		r.expect(before)
		if err := r.Check(t.Context()); err != nil {
			t.Errorf("Check returns %v", err)
		}
	})
}

// TestRestartKeepsPlaces checks that devices stay in their slices when a driver starts, also where
// a layout of all of them from nothing would be another one.
func TestRestartKeepsPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish(append(vfs("b", 60), "a.1")...)
		synctest.Wait()
		time.Sleep(time.Second)
		devices := append(vfs("b", 60), "a.1", "c.1", "c.2", "c.3", "c.4")
		r.publish(devices...)
		time.Sleep(time.Second)
		want := line(0, 2, 2, append([]string{"a.1"}, vfs("b", 60)...)...) + line(1, 2, 2, "c.1", "c.2", "c.3", "c.4")
		r.expect(want)
		r.start()
		r.publish(devices...)
		time.Sleep(time.Second)
		r.expect(want)
	})
}

// TestRestartInTheMiddleOfAMove starts after a driver was killed that had written a device into its
// new slice, and not yet removed it from the old one.
func TestRestartInTheMiddleOfAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.addSlice(prefix+"0", driver, node, node)
		r.addSlice(prefix+"1", driver, node, node)
		r.editSlices(func(s *resourcev1.ResourceSlice) {
			s.Spec.Pool = resourcev1.ResourcePool{Name: node, Generation: 3, ResourceSliceCount: 2}
			s.Spec.Devices = []resourcev1.Device{{Name: "a-1"}}
			if s.Name == prefix+"1" {
				s.Spec.Pool.Generation = 4
			}
		})
		r.start()
		r.publish("a.1", "b.1")
		time.Sleep(time.Second)
		r.expect(line(0, 4, 2, "b.1") + line(1, 4, 2, "a.1"))
	})
}

func TestChangeInOneSliceIsOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish(append(vfs("a", 64), vfs("b", 3)...)...)
		r.expect(line(0, 1, 2, vfs("a", 64)...) + line(1, 1, 2, vfs("b", 3)...))
		time.Sleep(time.Second)
		r.writes()
		for _, devices := range [][]string{vfs("b", 2), {"b.00", "b.01!"}, vfs("b", 5), {"c.1"}, nil} {
			r.publish(append(vfs("a", 64), devices...)...)
			r.expectWrites("update 1")
			time.Sleep(time.Second)
		}
		r.expect(line(0, 1, 2, vfs("a", 64)...) + line(1, 1, 2))
	})
}

func TestMoreSlicesRaiseTheGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish(vfs("a", 64)...)
		r.expect(line(0, 1, 1, vfs("a", 64)...))
		time.Sleep(time.Second)
		r.publish(append(vfs("a", 64), "b.1")...)
		r.expect(line(0, 2, 2, vfs("a", 64)...) + line(1, 2, 2, "b.1"))
	})
}

func TestMovedGroupRaisesTheGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish(append(append(vfs("a", 60), vfs("b", 5)...), vfs("c", 4)...)...)
		r.expect(line(0, 1, 2, append(vfs("a", 60), vfs("c", 4)...)...) + line(1, 1, 2, vfs("b", 5)...))
		time.Sleep(time.Second)
		r.publish(append(append(vfs("a", 60), vfs("b", 5)...), vfs("c", 5)...)...)
		r.expect(line(0, 2, 2, vfs("a", 60)...) + line(1, 2, 2, append(vfs("b", 5), vfs("c", 5)...)...))
	})
}

// TestDeviceThatReturnsElsewhereRaisesTheGeneration lets a device leave one slice and come back in
// another one before the first slice was written.
func TestDeviceThatReturnsElsewhereRaisesTheGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish(append(vfs("a", 64), "b.1")...)
		time.Sleep(time.Second)
		r.publish(append(vfs("a", 63), "b.1")...)
		synctest.Wait()
		r.publish(append(vfs("a", 63), "c.1", "b.1")...) // takes the free place, but is not written yet
		synctest.Wait()
		r.publish(append(vfs("a", 63), "b.1", "d.1")...)
		synctest.Wait()
		r.publish(append(vfs("a", 64), "b.1", "d.1", "c.1")...)
		time.Sleep(time.Second)
		seen := map[string]int{}
		for _, s := range r.server.Slices() {
			for _, d := range s.Spec.Devices {
				seen[d.Name]++
			}
		}
		if len(seen) != 67 {
			t.Fatalf("%d devices, want 67:\n%s", len(seen), r.pool())
		}
		for name, n := range seen {
			if n != 1 {
				t.Errorf("device %s is in %d slices:\n%s", name, n, r.pool())
			}
		}
	})
}

func TestSlicesAreTrimmedOnlyAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish(append(vfs("a", 64), "b.1")...)
		time.Sleep(time.Second)
		r.publish("a.00")
		r.expect(line(0, 1, 2, "a.00") + line(1, 1, 2))
		r.start()
		r.publish("a.00")
		time.Sleep(time.Second)
		r.expect(line(0, 2, 1, "a.00"))
		r.start()
		r.publish()
		time.Sleep(time.Second)
		r.expect("")
	})
}

func TestUnhealthyAndGoneDevicesAreTainted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.config.Evict = func(d *devtree.Device) bool { return strings.HasPrefix(d.ID, "b") }
		r.start()
		r.held["a.3"] = &devtree.Device{ID: "a.3"}
		r.publish("a.1", "a.2!", "a.3", "b.1!")
		r.expect(prefix + "0 generation 1 of 1: a-1 a-2(color.example.com/unhealthy=heartbeat:NoSchedule) a-3 " +
			"b-1(color.example.com/unhealthy=heartbeat:NoExecute)\n")
		time.Sleep(time.Second)
		r.publish("a.1", "a.2", "b.1")
		r.expect(prefix + "0 generation 1 of 1: a-1 a-2 a-3(color.example.com/gone=:NoSchedule) b-1\n")
	})
}

// A selector that names an attribute fails for a device without it, and then the scheduler places
// the pod on no node (k8s.io/kubernetes/pkg/scheduler/framework/plugins/dynamicresources,
// allocator.Allocate).
func TestGoneDeviceOfUnknownStateIsNotPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.held["a.3"] = &devtree.Device{ID: "a.3"} // as after a restart
		r.publish("a.1")
		r.expect(line(0, 1, 1, "a.1"))
		time.Sleep(time.Second)
		r.publish("a.1", "a.3")
		r.expect(line(0, 1, 1, "a.1", "a.3"))
		time.Sleep(time.Second)
		r.publish("a.1")
		r.expect(prefix + "0 generation 1 of 1: a-1 a-3(color.example.com/gone=:NoSchedule)\n")
	})
}

func TestTaintKeepsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1!")
		synctest.Wait()
		added := r.slice(0).Spec.Devices[0].Taints[0].TimeAdded
		time.Sleep(time.Minute)
		r.publish("a.1!", "a.2")
		synctest.Wait()
		if got := r.slice(0).Spec.Devices[0].Taints[0].TimeAdded; !got.Equal(added) {
			t.Errorf("after another change, the taint is of %v, want %v", got, added)
		}
		time.Sleep(time.Minute)
		r.publish("a.1", "a.2")
		synctest.Wait()
		time.Sleep(time.Minute)
		r.publish("a.1!", "a.2")
		synctest.Wait()
		if got := r.slice(0).Spec.Devices[0].Taints[0].TimeAdded; got.Sub(added.Time) != 3*time.Minute {
			t.Errorf("after it was healthy, the taint is of %v, want %v", got, added.Add(3*time.Minute))
		}
	})
}

func TestWithoutTaintsUnhealthyDevicesAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.server.SetTaints(false)
		r.start()
		r.publish("a.1", "a.2")
		time.Sleep(time.Second)
		r.publish("a.1", "a.2!")
		time.Sleep(time.Second)
		r.expect(line(0, 1, 1, "a.1"))
		if n := r.logged("DRADeviceTaints"); n != 1 {
			t.Errorf("the log has %d lines about it, want 1", n)
		}
		r.writes()
		time.Sleep(time.Hour)
		r.expectWrites()
		r.publish("a.1", "a.2")
		r.expect(line(0, 1, 1, "a.1", "a.2"))
	})
}

// TestStormIsCoalesced changes 16 devices 200 times a second, and stops at different times.
func TestStormIsCoalesced(t *testing.T) {
	for changes := 200; changes < 400; changes += 23 {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.start()
			r.publish(vfs("a", 16)...)
			time.Sleep(time.Second)
			before := len(r.server.Writes())
			start := time.Now()
			for i := range changes {
				devices := vfs("a", 16)
				for k := range devices {
					if i>>k&1 == 1 {
						devices[k] += "!"
					}
				}
				r.publish(devices...)
				time.Sleep(5 * time.Millisecond)
			}
			r.publish(vfs("a", 8)...)
			lasted := time.Since(start)
			time.Sleep(100 * time.Millisecond) // the last state is never later
			r.expect(line(0, 1, 1, vfs("a", 8)...))
			n, want := len(r.server.Writes())-before, int(lasted/(100*time.Millisecond))
			if n < want || n > want+2 || r.burst() > 10 {
				t.Errorf("%d writes in %v, at most %d in a second, want ten a second", n, lasted, r.burst())
			}
		})
	}
}

func TestSingleChangeIsWrittenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			r.publish("a.1!")
			r.expect(prefix + "0 generation 1 of 1: a-1(color.example.com/unhealthy=heartbeat:NoSchedule)\n")
			time.Sleep(100 * time.Millisecond)
			r.publish("a.1")
			r.expect(line(0, 1, 1, "a.1"))
		}
	})
}

func TestStormInTenSlicesEndsWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		all := func(health string) (devices []string) {
			for i := range 10 {
				for _, d := range vfs(string(rune('a'+i)), 64) {
					devices = append(devices, d+health)
				}
			}
			return devices
		}
		r.publish(all("")...)
		synctest.Wait()
		if err := r.Status().Err; err != nil {
			t.Errorf("after ten writes, the status has error %v", err)
		}
		for i := range 60 {
			time.Sleep(10 * time.Millisecond)
			r.publish(all([]string{"", "!"}[i%2])...)
		}
		r.publish(all("")...)
		time.Sleep(time.Second)
		var want strings.Builder
		for i := range 10 {
			want.WriteString(line(i, 1, 10, vfs(string(rune('a'+i)), 64)...))
		}
		r.expect(want.String())
		if n := r.burst(); n > 10 {
			t.Errorf("%d writes in a second", n)
		}
	})
}

func TestLargeNodeIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		var devices []string
		for i := range 16 {
			devices = append(devices, vfs(string(rune('a'+i)), 64)...)
		}
		start := time.Now()
		r.publish(devices...)
		for r.Status().Err != nil {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		if waited := time.Since(start); waited > 1100*time.Millisecond || r.burst() > 10 {
			t.Errorf("16 slices took %v, with %d writes in a second", waited, r.burst())
		}
		n := 0
		for _, s := range r.Status().Slices {
			n += s.Devices
		}
		if n != len(devices) {
			t.Errorf("%d devices are published, want %d", n, len(devices))
		}
	})
}

func TestUpdateDoesNotWaitForTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		release := make(chan struct{})
		r.server.Fail(func(*apitest.Request) *apitest.Fault { <-release; return nil })
		r.start()
		start := time.Now()
		for range 100 {
			r.publish("a.1")
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("Update took %v", waited)
		}
		time.Sleep(time.Minute)
		close(release)
		r.server.Fail(nil)
		time.Sleep(20 * time.Second)
		r.expect(line(0, 1, 1, "a.1"))
	})
}

func TestSlicesOfOthersAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.addSlice("a", driver, "n2", node)
		r.addSlice("b", "x.example.com", node, node)
		r.addSlice("c", driver, node, "x")
		r.start()
		r.publish("a.1")
		time.Sleep(time.Hour)
		r.expectWrites("create 0")
	})
}

// TestSlicesOfAnotherImplementationAreReplaced starts with slices that a driver of the same name
// has left, as Kubernetes' helper names them.
func TestSlicesOfAnotherImplementationAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for i := range 2 {
			if err := r.server.AddSlice(&resourcev1.ResourceSlice{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s%s-x%d", prefix, "helper", i)},
				Spec: resourcev1.ResourceSliceSpec{
					Driver:   driver,
					NodeName: new(node),
					Pool:     resourcev1.ResourcePool{Name: node, Generation: 7, ResourceSliceCount: 2},
					Devices:  []resourcev1.Device{{Name: fmt.Sprintf("qat-%d", i)}},
				},
			}); err != nil {
				t.Fatal(err)
			}
		}
		r.start()
		r.publish("a.1")
		time.Sleep(time.Second)
		r.expectWrites("create 0", "delete helper-x0", "delete helper-x1")
		r.expect(line(0, 8, 1, "a.1"))
	})
}

func TestStatusDescribesSlices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		if status := r.Status(); status.Err == nil || len(status.Slices) != 0 {
			t.Errorf("at first, the status is %+v", status)
		}
		r.publish(append(vfs("a", 64), "b.1!")...)
		synctest.Wait()
		status := r.Status()
		if status.Err != nil || len(status.Slices) != 2 {
			t.Fatalf("the status is %+v", status)
		}
		got := status.Slices[1]
		want := r.slice(1)
		if got.Name != want.Name || got.Devices != 1 || got.Tainted != 1 || got.Generation != 1 ||
			got.ResourceVersion != want.ResourceVersion || !got.Written.Equal(time.Now()) {
			t.Errorf("slice 1 is %+v", got)
		}
		r.server.SetDown(true)
		r.publish(append(vfs("a", 64), "b.1")...)
		synctest.Wait()
		if err := r.Status().Err; err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("while the API server is away, the status has error %v", err)
		}
		if err := r.Check(t.Context()); err != nil {
			t.Errorf("at once, Check returns %v", err)
		}
		time.Sleep(time.Minute)
		if err := r.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("after a minute, Check returns %v", err)
		}
	})
}

// observer records what the Publisher reports.
type observer struct {
	lines       []string
	inventories []*inventory.Inventory
}

func (o *observer) SliceWritten(slice, operation string, _ time.Duration, err error) {
	o.lines = append(o.lines, fmt.Sprintf("%s %s %v", operation, strings.TrimPrefix(slice, prefix), err != nil))
}

func (o *observer) Published(i *inventory.Inventory) { o.inventories = append(o.inventories, i) }

func TestObserverReceivesWritesAndInventories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, o := newRig(t), &observer{}
		r.config.Observer = o
		failing := true
		r.server.Fail(func(q *apitest.Request) *apitest.Fault {
			if q.Verb == "create" && failing {
				failing = false
				return &apitest.Fault{Code: 500}
			}
			return nil
		})
		r.start()
		r.publish("a.1")
		time.Sleep(time.Second)
		first := r.inventory
		r.publish("a.1", "a.2")
		synctest.Wait()
		r.publish("a.1", "a.2", "a.3")
		r.publish("a.1", "a.2", "a.3", "a.4")
		time.Sleep(time.Second)
		r.stop()
		want := []string{"create 0 true", "create 0 false", "update 0 false", "update 0 false"}
		if !slices.Equal(o.lines, want) {
			t.Errorf("writes %q, want %q", o.lines, want)
		}
		if n := len(o.inventories); n != 3 || o.inventories[0] != first || o.inventories[2] != r.inventory {
			t.Errorf("%d inventories were published, want the first, the second and the last of four", n)
		}
	})
}

func TestRecreatedNodeOwnsTheSlices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish(append(vfs("a", 64), "b.1")...)
		time.Sleep(time.Second)
		recreated := r.server.AddNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
		if err := r.server.DeleteSlice(prefix + "0"); err != nil { // as the garbage collector does, one by one
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.expect(line(0, 1, 2, vfs("a", 64)...) + line(1, 1, 2, "b.1"))
		for i := range 2 {
			if owners := r.slice(i).OwnerReferences; len(owners) != 1 || owners[0].UID != recreated.UID {
				t.Errorf("slice %d has owners %v, want the new Node, %s", i, owners, recreated.UID)
			}
		}
	})
}
