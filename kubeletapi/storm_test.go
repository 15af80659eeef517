// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

// TestStormReachesKubeletAsFewLists changes a resource 1280 times in about 0.28 s, as 64 VFs
// that are removed, added and bound again and again. It counts the lists at the kubelet.
func TestStormReachesKubeletAsFewLists(t *testing.T) {
	const changes = 1280
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	trees := toggledTrees(t, 64)
	p.publish(trees[0])
	before := waitIDs(t, k, yellow, deviceIDs(devicesOf(trees[0], "yellow"))...)
	tick := time.NewTicker(280 * time.Millisecond / changes)
	defer tick.Stop()
	for i := range changes {
		<-tick.C
		p.publish(trees[(i+1)%2])
	}
	p.publish(tree(t, trees[0], "yellow", "last"))
	after := waitIDs(t, k, yellow, "last")
	if lists := after.Seq - before.Seq; lists > changes/10 {
		t.Errorf("%d changes made %d lists, want at most a tenth", changes, lists)
	}
}

// listsAtOnce is how many lists a stream sends at once after a quiet second.
const listsAtOnce = 10

// TestStormPace checks the guarantees about the pace of a stream in a storm with random gaps. The
// stream sends few lists. It sends the first changes at once, and every change within the largest
// window. After a quiet time, it sends the first change at once again.
func TestStormPace(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			m, services := newTestServices(ctx, klog.Logger{}, "yellow")
			bound := services["yellow"].pace.max
			m.publish(tree(t, nil, "yellow", "0"))
			stream := openFakeStream(ctx, services["yellow"])
			var published []time.Time // of the Tree with device "1", "2" and so on
			publish := func() {
				published = append(published, time.Now())
				m.publish(tree(t, m.publisher.Tree(), "yellow", strconv.Itoa(len(published))))
			}
			changes := rapid.IntRange(400, 1200).Draw(rt, "changes")
			longest := rapid.IntRange(0, 1000).Draw(rt, "longest gap, µs")
			time.Sleep(time.Second)
			for range changes {
				publish()
				time.Sleep(time.Duration(rapid.IntRange(0, longest).Draw(rt, "gap")) * time.Microsecond)
			}
			time.Sleep(2 * bound)
			publish()
			synctest.Wait()
			cancel()
			<-stream.done

			lists := stream.sent[1:] // without that of device "0"
			if len(lists)-1 > changes/10 {
				rt.Errorf("%d changes made %d lists, want at most a tenth", changes, len(lists)-1)
			}
			atOnce := []int{changes}
			for i := range listsAtOnce {
				atOnce = append(atOnce, i)
			}
			for _, i := range atOnce {
				if at, _ := sentBy(lists, i+1); !at.Equal(published[i]) {
					rt.Errorf("change %d of %d is sent after %v, want at once", i, changes, at.Sub(published[i]))
				}
			}
			for i := range published {
				if at, ok := sentBy(lists, i+1); !ok || at.Sub(published[i]) > bound {
					rt.Errorf("change %d is sent: %t, after %v; want at most %v", i, ok, at.Sub(published[i]), bound)
				}
			}
		})
	})
}

// sentBy returns when the first list was sent that contains the device with this number or a higher
// one.
func sentBy(lists []sentList, number int) (time.Time, bool) {
	for _, l := range lists {
		if n, _ := strconv.Atoi(l.ids[0]); n >= number {
			return l.at, true
		}
	}
	return time.Time{}, false
}

// TestSlowStormIsNotFasterThanBound checks changes that come almost too slowly to be gathered. Once
// the window has grown, the stream sends at most one list in that time.
func TestSlowStormIsNotFasterThanBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m, services := newTestServices(ctx, klog.Logger{}, "yellow")
		now := tree(t, nil, "yellow", "0")
		m.publish(now)
		stream := openFakeStream(ctx, services["yellow"])
		for i := range 1000 {
			time.Sleep(1500 * time.Microsecond)
			m.publish(tree(t, now, "yellow", strconv.Itoa(i+1)))
		}
		cancel()
		<-stream.done
		// 75 in 1.5 s, 10 at once, and the windows of 2 to 16 ms
		if lists := len(stream.sent); lists > 90 {
			t.Errorf("1000 changes in 1.5 s made %d lists, want about 85", lists)
		}
	})
}

// TestBurstsInARowAreGathered checks that a stream sends several lists at once only after a quiet
// second. PFs that appear one after the other, with short pauses, are a storm.
func TestBurstsInARowAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		m, services := newTestServices(ctx, klog.Logger{}, "yellow")
		now := tree(t, nil, "yellow", "0")
		m.publish(now)
		stream := openFakeStream(ctx, services["yellow"])
		number := 0
		// burst makes 16 changes within 8 ms, as a PF with 16 VFs that appears. It returns how many
		// lists the stream makes of them.
		burst := func() int {
			_, before, _ := stream.state()
			for range 16 {
				number++
				m.publish(tree(t, now, "yellow", strconv.Itoa(number)))
				time.Sleep(500 * time.Microsecond)
			}
			time.Sleep(50 * time.Millisecond)
			_, after, _ := stream.state()
			return after - before
		}
		time.Sleep(time.Second)
		if lists := burst(); lists <= listsAtOnce {
			t.Errorf("a first burst makes %d lists, want more than %d", lists, listsAtOnce)
		}
		for range 20 {
			if lists := burst(); lists > 6 { // one at once, and windows of 2, 4 and 8 ms
				t.Errorf("a burst soon after another makes %d lists, want at most 6", lists)
			}
		}
		time.Sleep(time.Second)
		if lists := burst(); lists <= listsAtOnce {
			t.Errorf("a burst after a quiet second makes %d lists, want more than %d", lists, listsAtOnce)
		}
		cancel()
		<-stream.done
	})
}

func devicesOf(t *devtree.Tree, resource string) (devices []*devtree.Device) {
	for d := range t.Resource(resource).Devices() {
		devices = append(devices, d)
	}
	return devices
}
