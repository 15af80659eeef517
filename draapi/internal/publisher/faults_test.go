// SPDX-License-Identifier: Apache-2.0

package publisher_test

import (
	"slices"
	"strings"
	"sync/atomic"
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

// failWrites makes each write fail with the fault.
func (r *rig) failWrites(fault *apitest.Fault) {
	r.server.Fail(func(q *apitest.Request) *apitest.Fault {
		if q.IsWrite() {
			return fault
		}
		return nil
	})
}

func TestAPIServerAwayAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.server.SetDown(true)
		r.start()
		r.publish("a.1")
		time.Sleep(10 * time.Minute)
		r.publish("a.1", "a.2")
		if err := r.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("Check returns %v", err)
		}
		if n := r.logged("Could not watch"); n < 1 || n > 2 {
			t.Errorf("the log has %d lines about ten minutes, want one or two", n)
		}
		r.server.SetDown(false)
		time.Sleep(20 * time.Second) // the longest pause of the Reflector
		r.expect(line(0, 1, 1, "a.1", "a.2"))
		if n := r.logged("Watching ResourceSlices again"); n != 1 {
			t.Errorf("the log has %d lines about the end, want 1", n)
		}
	})
}

func TestAPIServerAwayLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		time.Sleep(time.Minute)
		r.server.SetDown(true)
		time.Sleep(time.Minute)
		r.publish("a.1!")
		time.Sleep(10 * time.Minute)
		r.server.DeleteSlices(node)
		r.server.SetDown(false)
		time.Sleep(20 * time.Second)
		r.expect(prefix + "0 generation 1 of 1: a-1(color.example.com/unhealthy=heartbeat:NoSchedule)\n")
	})
}

// TestErrorsOfTheAPIServer lets each write fail for some minutes.
func TestErrorsOfTheAPIServer(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault apitest.Fault
	}{
		{"internal error", apitest.Fault{Code: 500}},
		{"unavailable", apitest.Fault{Code: 503}},
		{"too many requests", apitest.Fault{Code: 429}},
		{"unauthorized", apitest.Fault{Code: 401}},
		{"forbidden", apitest.Fault{Code: 403}},
		{"unprocessable", apitest.Fault{Code: 422}},
		{"broken connection", apitest.Fault{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.failWrites(&tt.fault)
				r.start()
				r.publish("a.1")
				time.Sleep(10 * time.Minute)
				// The pauses are random up to 10 s, so 5 s on average.
				writes, shortest, longest := r.server.Writes(), time.Hour, time.Duration(0)
				if n := len(writes); n < 60 || n > 250 || r.burst() > 10 {
					t.Errorf("%d writes in ten minutes, %d in one second", n, r.burst())
				}
				for i, w := range writes[20:] {
					pause := w.Time.Sub(writes[19+i].Time)
					shortest, longest = min(shortest, pause), max(longest, pause)
				}
				if shortest > 4*time.Second || longest < 6*time.Second || longest > 10*time.Second {
					t.Errorf("the pauses are %v to %v, want random ones up to 10 s", shortest, longest)
				}
				if n := r.logged("The API server refuses") + r.logged("A request to the API server failed"); n != 1 {
					t.Errorf("the log has %d lines about it, want 1", n)
				}
				if err := r.Check(t.Context()); err == nil || err.Error() == "ResourceSlices are not written yet" {
					t.Errorf("Check returns %v, want the error of the API server", err)
				}
				r.server.Fail(nil)
				time.Sleep(10 * time.Second)
				r.expect(line(0, 1, 1, "a.1"))
				if err := r.Check(t.Context()); err != nil {
					t.Errorf("at the end, Check returns %v", err)
				}
			})
		})
	}
}

// TestFirstRetryIsSoon checks that a single failure delays a change by little.
func TestFirstRetryIsSoon(t *testing.T) {
	for _, fault := range []apitest.Fault{{Code: 500}, {Code: 422}, {}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.start()
			r.publish("a.1")
			time.Sleep(time.Second)
			failed := false
			r.server.Fail(func(*apitest.Request) *apitest.Fault {
				if failed {
					return nil
				}
				failed = true
				return &fault
			})
			r.publish("a.1", "a.2")
			time.Sleep(200 * time.Millisecond)
			r.expect(line(0, 1, 1, "a.1", "a.2"))
		})
	}
}

func TestRetryAfterIsRespected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.failWrites(&apitest.Fault{Code: 429, RetryAfter: 30})
		start := time.Now()
		r.start()
		r.publish("a.1")
		time.Sleep(30*time.Second - 1)
		r.expectWrites("create 0")
		r.server.Fail(nil)
		time.Sleep(10 * time.Second)
		r.expectWrites("create 0")
		if waited := r.server.Writes()[1].Time.Sub(start); waited < 30*time.Second {
			t.Errorf("the second attempt was after %v, want at least 30 s", waited)
		}
		r.expect(line(0, 1, 1, "a.1"))
	})
}

// TestRefusedSliceDoesNotKeepOthersFromBeingWritten publishes a device that breaks a rule.
func TestRefusedSliceDoesNotKeepOthersFromBeingWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		device := func(name, text string) *inventory.Device {
			return &inventory.Device{Name: name, Device: &devtree.Device{
				ID:         name,
				Health:     devtree.Healthy,
				Attributes: map[string]any{"pf": name[:1], "text": text},
			}}
		}
		inv := func(text, other string) *inventory.Inventory {
			i := &inventory.Inventory{Devices: []*inventory.Device{device("a-1", text)}}
			for _, d := range vfs("b", 64) {
				i.Devices = append(i.Devices, device(strings.ReplaceAll(d, ".", "-"), other))
			}
			return i
		}
		texts := func() string {
			a, b := r.slice(0).Spec.Devices[0].Attributes["text"], r.slice(1).Spec.Devices[0].Attributes["text"]
			return *a.StringValue + " " + *b.StringValue
		}
		r.Update(inv("one", "one"))
		time.Sleep(time.Second)
		r.Update(inv(strings.Repeat("x", 65), "two"))
		time.Sleep(time.Second)
		if got := texts(); got != "one two" {
			t.Errorf("the slices have %q, want the change of the other slice", got)
		}
		if r.logged("The API server refuses a ResourceSlice") != 1 || r.logged("Too long") != 1 {
			t.Errorf("the log does not say what is wrong:\n%s", strings.Join(r.log, "\n"))
		}
		if err := r.Status().Err; err == nil || !strings.Contains(err.Error(), "attributes[text].string") {
			t.Errorf("the status has error %v", err)
		}
		time.Sleep(10 * time.Minute)
		r.Update(inv("three", "three"))
		time.Sleep(time.Second)
		if got := texts(); got != "three three" {
			t.Errorf("after it was repaired, the slices have %q", got)
		}
	})
}

// TestConflictIsResolved changes a slice while an update of it is on its way.
func TestConflictIsResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		time.Sleep(time.Second)
		conflicts := 0
		r.server.Fail(func(q *apitest.Request) *apitest.Fault {
			if q.Verb == "update" && conflicts < 3 {
				conflicts++
				r.editSlices(func(s *resourcev1.ResourceSlice) {
					s.Labels = map[string]string{"conflict": strings.Repeat("x", conflicts)}
					s.Spec.Devices = nil
				})
			}
			return nil
		})
		r.publish("a.1", "a.2")
		time.Sleep(time.Second)
		r.expect(line(0, 1, 1, "a.1", "a.2"))
		if got := r.slice(0).Labels["conflict"]; got != "xxx" {
			t.Errorf("the label of another client is %q, want it as it was", got)
		}
		r.writes()
		time.Sleep(time.Hour)
		r.expectWrites()
	})
}

// TestAnswerThatContradictsTheListIsDamped lets each update fail although nobody has changed the
// slice, as an admission webhook or a restored etcd can.
func TestAnswerThatContradictsTheListIsDamped(t *testing.T) {
	for _, code := range []int{409, 404} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.start()
			r.publish("a.1")
			time.Sleep(time.Second)
			r.writes()
			r.failWrites(&apitest.Fault{Code: code})
			r.publish("a.1", "a.2")
			time.Sleep(10 * time.Minute)
			if n := len(r.writes()); n < 60 || n > 250 {
				t.Errorf("%d: %d writes in ten minutes", code, n)
			}
			if n := r.logged("The API server refuses a ResourceSlice"); n == 0 {
				t.Errorf("%d: the log has no error", code)
			}
			r.server.Fail(nil)
			time.Sleep(10 * time.Second)
			r.expect(line(0, 1, 1, "a.1", "a.2"))
		})
	}
}

// TestRestoredAPIServer restores the API server from a backup, after which its resource versions
// are older than those that the driver knows.
func TestRestoredAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		time.Sleep(time.Second)
		restore := r.server.Backup()
		for i := range 5 {
			r.publish(vfs("a", i)...)
			time.Sleep(time.Second)
		}
		restore()
		time.Sleep(time.Minute)
		r.publish("a.1", "a.2")
		time.Sleep(10 * time.Second)
		r.expect(line(0, 1, 1, "a.1", "a.2"))
	})
}

func TestLostAnswers(t *testing.T) {
	for _, operation := range []string{"create", "update", "delete"} {
		t.Run(operation, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.addSlice("z", driver, node, node)
				lost := 0
				r.server.Fail(func(q *apitest.Request) *apitest.Fault {
					if q.Verb == operation {
						lost++
						if lost == 1 {
							return &apitest.Fault{Done: true}
						}
					}
					return nil
				})
				r.start()
				r.publish("a.1")
				time.Sleep(5 * time.Second)
				r.publish("a.1", "a.2")
				time.Sleep(5 * time.Second)
				r.expect(line(0, 1, 1, "a.1", "a.2"))
				if lost == 0 {
					t.Errorf("there was no %s", operation)
				}
				r.writes()
				time.Sleep(time.Hour)
				r.expectWrites()
			})
		})
	}
}

// TestHungRequestIsGivenUp lets a write hang forever.
func TestHungRequestIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		release := make(chan struct{})
		defer close(release)
		var hung atomic.Bool
		r.server.Fail(func(q *apitest.Request) *apitest.Fault {
			if q.IsWrite() && !hung.Swap(true) {
				<-release
			}
			return nil
		})
		r.start()
		r.publish("a.1")
		time.Sleep(20*time.Second + 100*time.Millisecond)
		r.expect(line(0, 1, 1, "a.1"))
	})
}

func TestDeletedSlicesAreWrittenAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish(append(vfs("a", 64), "b.1", "b.2!")...)
		time.Sleep(time.Minute)
		want := r.pool()
		r.server.DeleteSlices(node) // the kubelet starts
		r.expect(want)
		r.writes()
		time.Sleep(10 * time.Second)
		r.server.DeleteSlices(node) // and starts again soon
		time.Sleep(time.Second)
		r.expect(want)
		time.Sleep(time.Hour)
		if got := slices.Sorted(slices.Values(r.writes())); !slices.Equal(got, []string{"create 0", "create 1"}) {
			t.Errorf("writes %q, want each slice once", got)
		}
	})
}

// TestDeletionWhileTheWatchIsAwayIsFound deletes a slice that a watch does not report.
func TestDeletionWhileTheWatchIsAwayIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		time.Sleep(time.Minute)
		r.server.Fail(func(q *apitest.Request) *apitest.Fault {
			if q.Verb == "watch" {
				return &apitest.Fault{Code: 503}
			}
			return nil
		})
		r.server.EndWatches()
		time.Sleep(time.Second)
		r.server.DeleteSlices(node)
		r.publish("a.1", "a.2") // meets a slice that is not there
		time.Sleep(time.Second)
		r.expect(line(0, 1, 1, "a.1", "a.2"))
	})
}

func TestWatchContinuesAfterItsEnd(t *testing.T) {
	for _, compact := range []bool{false, true} { // the resource version of the next watch has expired
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.start()
			r.publish("a.1")
			for range 3 {
				time.Sleep(5 * time.Minute)
				if compact {
					r.server.Fail(func(q *apitest.Request) *apitest.Fault {
						if q.Verb == "watch" {
							r.server.Compact()
							r.server.Fail(nil)
						}
						return nil
					})
				}
				r.server.EndWatches()
				time.Sleep(time.Second)
				r.server.DeleteSlices(node)
				time.Sleep(time.Second)
				r.expect(line(0, 1, 1, "a.1"))
			}
		})
	}
}

// TestWatchReturnsSoonAfterAnOutage restarts the API server after a while. The new one does not
// know the resource version of the watch, so the first watch that it accepts ends at once.
func TestWatchReturnsSoonAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		time.Sleep(time.Minute)
		for range 20 {
			r.server.SetDown(true)
			time.Sleep(90 * time.Second)
			r.server.Compact()
			r.server.SetDown(false)
			time.Sleep(11 * time.Second) // the longest pause, and one second
			r.server.DeleteSlices(node)
			time.Sleep(time.Second)
			r.expect(line(0, 1, 1, "a.1"))
		}
	})
}

func TestForeignChangesAreUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1", "a.2!")
		synctest.Wait()
		want, owners := r.slice(0).Spec, r.slice(0).OwnerReferences
		for name, edit := range map[string]func(s *resourcev1.ResourceSlice){
			"device removed": func(s *resourcev1.ResourceSlice) { s.Spec.Devices = s.Spec.Devices[:1] },
			"device added": func(s *resourcev1.ResourceSlice) {
				s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: "x"})
			},
			"taint removed":     func(s *resourcev1.ResourceSlice) { s.Spec.Devices[1].Taints = nil },
			"attribute changed": func(s *resourcev1.ResourceSlice) { s.Spec.Devices[0].Attributes = nil },
			"generation raised": func(s *resourcev1.ResourceSlice) { s.Spec.Pool.Generation = 100 },
			"count changed":     func(s *resourcev1.ResourceSlice) { s.Spec.Pool.ResourceSliceCount = 2 },
			"owner removed":     func(s *resourcev1.ResourceSlice) { s.OwnerReferences = nil },
		} {
			time.Sleep(2 * time.Minute)
			r.writes()
			r.editSlices(edit)
			r.expectWrites("update 0")
			got := r.slice(0)
			for i := range got.Spec.Devices {
				for k := range got.Spec.Devices[i].Taints {
					got.Spec.Devices[i].Taints[k].TimeAdded = want.Devices[i].Taints[k].TimeAdded
				}
			}
			if diff := cmp.Diff(want, got.Spec) + cmp.Diff(owners, got.OwnerReferences); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	})
}

func TestOtherMetadataIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		r.expectWrites("create 0")
		r.editSlices(func(s *resourcev1.ResourceSlice) { s.Labels = map[string]string{"color": "blue"} })
		time.Sleep(time.Hour)
		r.expectWrites()
		r.publish("a.1", "a.2")
		r.expectWrites("update 0")
		if got := r.slice(0).Labels["color"]; got != "blue" {
			t.Errorf("the label is %q", got)
		}
	})
}

// TestFightWithAnotherClientIsDamped edits the slice each time when it was written.
func TestFightWithAnotherClientIsDamped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		synctest.Wait()
		r.writes()
		for range 600 {
			r.editSlices(func(s *resourcev1.ResourceSlice) { s.Spec.Devices = nil })
			time.Sleep(time.Second)
		}
		// 1 + 2 + 4 + 8 + 16 s, and then up to 30 s each, in ten minutes.
		if n := len(r.writes()); n < 20 || n > 50 {
			t.Errorf("%d writes in ten minutes", n)
		}
		r.publish("a.1", "a.2")
		time.Sleep(100 * time.Millisecond)
		r.expect(line(0, 1, 1, "a.1", "a.2"))
	})
}

// TestSurplusSliceThatCannotBeDeleted checks that a driver that may not delete slices is ready, as
// the scheduler ignores the surplus one, and that it tries again after pauses.
func TestSurplusSliceThatCannotBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, o := newRig(t), &observer{}
		r.config.Observer = o
		r.addSlice("z", driver, node, node)
		r.server.Fail(func(q *apitest.Request) *apitest.Fault {
			if q.Verb == "delete" {
				return &apitest.Fault{Code: 403}
			}
			return nil
		})
		r.start()
		r.publish("a.1")
		time.Sleep(9 * time.Minute)
		// The pauses are random up to 10 s, so 5 s on average.
		if n := len(r.writes()); n > 200 {
			t.Errorf("%d writes in nine minutes, want no more than 200", n)
		}
		if err := r.Check(t.Context()); err != nil {
			t.Errorf("Check returns %v", err)
		}
		if n := r.logged("delete ResourceSlice z"); n != 1 {
			t.Errorf("the log has %d lines about it, want 1", n)
		}
		r.server.Fail(nil)
		time.Sleep(10 * time.Second)
		r.expect(line(0, 1, 1, "a.1"))
		r.stop()
		if n := len(o.inventories); n != 1 {
			t.Errorf("the inventory was published %d times, want once", n)
		}
	})
}

func TestMissingNodeIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.server.DeleteNode(node)
		r.start()
		r.publish("a.1")
		time.Sleep(time.Minute)
		r.expectWrites()
		const want = `get Node n1: nodes "n1" not found`
		if err := r.Check(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check returns %v", err)
		}
		r.server.AddNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
		time.Sleep(10 * time.Second)
		r.expect(line(0, 1, 1, "a.1"))
	})
}

func TestNameOfAnotherNodesSliceIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.addSlice(prefix+"0", driver, "other", "other")
		r.start()
		r.publish("a.1")
		time.Sleep(time.Minute)
		if n := r.logged("belongs to another node or driver: delete it"); n != 1 {
			t.Errorf("the log has %d lines about it, want 1", n)
		}
		if err := r.server.DeleteSlice(prefix + "0"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		r.expect(line(0, 1, 1, "a.1"))
	})
}

// TestOwnNameInAnotherPoolIsReplaced starts with a slice of that name whose pool cannot be changed.
func TestOwnNameInAnotherPoolIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.addSlice(prefix+"0", driver, node, "x")
		r.start()
		r.publish("a.1")
		time.Sleep(time.Second)
		r.expect(line(0, 1, 1, "a.1"))
	})
}

// TestWatchBrokenAtStart lets the first requests of the watch fail in a way that client-go does not
// retry by itself.
func TestWatchBrokenAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		failures := 0
		r.server.Fail(func(*apitest.Request) *apitest.Fault {
			if failures++; failures <= 4 {
				return &apitest.Fault{}
			}
			return nil
		})
		r.start()
		r.publish("a.1")
		time.Sleep(5 * time.Second)
		r.expect(line(0, 1, 1, "a.1"))
	})
}

// TestRefusedStormIsLoggedOnce changes a device again and again in a slice that breaks a rule.
func TestRefusedStormIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.failWrites(&apitest.Fault{Code: 422, Message: "denied"})
		r.start()
		for i := range 1000 {
			r.publish(vfs("a", 1+i%2)...)
			time.Sleep(10 * time.Millisecond)
		}
		if n := r.logged("The API server refuses a ResourceSlice"); n != 1 {
			t.Errorf("the log has %d lines about it, want 1", n)
		}
	})
}

// TestSliceOfTheSameGenerationMakesNoPoolIncomplete adds a slice of another client. With the same
// generation, the scheduler would count one slice too many.
func TestSliceOfTheSameGenerationMakesNoPoolIncomplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		r.expect(line(0, 1, 1, "a.1"))
		time.Sleep(time.Second)
		r.server.Fail(func(q *apitest.Request) *apitest.Fault {
			if q.Verb == "delete" {
				return &apitest.Fault{Code: 403}
			}
			return nil
		})
		r.addSlice("z", driver, node, node)
		r.editSlices(func(s *resourcev1.ResourceSlice) { s.Spec.Pool.Generation = 1 })
		time.Sleep(time.Second)
		if devices, incomplete, err := schedulerView(r.server.Slices()); len(devices) != 1 || incomplete || err != nil {
			t.Errorf("the scheduler sees devices %v, incomplete: %t, error %v:\n%s", devices, incomplete, err, r.pool())
		}
	})
}

// TestFightAboutOtherNamesIsDamped lets another driver create its slice whenever it is deleted,
// with a higher generation.
func TestFightAboutOtherNamesIsDamped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1")
		for i := range int64(6000) {
			if len(r.server.Slices()) == 1 {
				r.addSliceOf("z", driver, node, node, 2*i)
			}
			time.Sleep(100 * time.Millisecond)
		}
		// A cycle is a write and a deletion, each 15 to 30 s in the end.
		if n := len(r.writes()); n < 40 || n > 120 {
			t.Errorf("%d writes in ten minutes", n)
		}
	})
}

// TestCheckPassesInAStorm keeps changing devices faster than the API server stores them.
func TestCheckPassesInAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.server.Fail(func(q *apitest.Request) *apitest.Fault {
			if q.IsWrite() {
				time.Sleep(7 * time.Millisecond)
			}
			return nil
		})
		r.start()
		r.publish("a.00")
		time.Sleep(time.Second)
		for i := range 6000 {
			r.publish(vfs("a", 1+i%64)...)
			time.Sleep(5 * time.Millisecond)
			if err := r.Check(t.Context()); err != nil {
				t.Fatalf("after %d changes, Check returns %v", i, err)
			}
		}
	})
}

func TestOldAPIServerIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.server.Fail(func(q *apitest.Request) *apitest.Fault {
			if q.Resource == "resourceslices" {
				return &apitest.Fault{Code: 404, Message: "404 page not found"}
			}
			return nil
		})
		r.start()
		r.publish("a.1")
		time.Sleep(5 * time.Minute)
		if n := r.logged("upgrade to Kubernetes 1.34"); n != 1 {
			t.Errorf("the log has %d lines about it, want 1:\n%s", n, strings.Join(r.log, "\n"))
		}
		if err := r.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "upgrade to Kubernetes 1.34") {
			t.Errorf("Check returns %v", err)
		}
	})
}
