// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/internal/apitest"
)

// published returns the devices of all slices, with their taints.
func (h *host) published() (list []string) {
	for _, s := range h.api.Slices() {
		for _, d := range s.Spec.Devices {
			text := d.Name
			for _, taint := range d.Taints {
				key := strings.TrimPrefix(taint.Key, driverName+"/")
				text += fmt.Sprintf(" %s=%s:%s", key, taint.Value, taint.Effect)
			}
			list = append(list, text)
		}
	}
	return list
}

func (h *host) waitPublished(want ...string) {
	h.t.Helper()
	await(h.t, "the slices to have "+strings.Join(want, ", "), func() bool {
		return cmp.Equal(want, h.published())
	})
}

func TestAPIServerHasTheDevices(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	devices := tree(t, nil, color("1"), broken("2", "it fades"))
	r := h.start(p, devices, WithEviction(func(d *devtree.Device) bool { return d.ID == "3" }))
	h.waitPublished("1", "2 unhealthy=fade:NoSchedule")
	await(t, "the check to succeed", func() bool { return r.CheckPublished(t.Context()) == nil })
	h.prepare(h.allocate("paint", 1, result("one", "1")))
	devices = tree(t, devices, color("2"), broken("3", "it fades"))
	p.publish(devices)
	h.waitPublished("1 gone=:NoSchedule", "2", "3 unhealthy=fade:NoExecute")

	await(t, "the status", func() bool { return len(r.Status().Slices) == 1 && r.Status().Publishing == nil })
	s := r.Status()
	want := Status{
		Driver: driverName, Pool: nodeName, Devices: 3, Healthy: 1, Gone: 1, Runtime: "containerd://2.1.4",
	}
	s.Registration, s.Slices = RegistrationStatus{}, nil
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if s := r.Status().Slices[0]; s.Devices != 3 || s.Tainted != 2 || s.Written.IsZero() {
		t.Errorf("slice %+v", s)
	}
	if reg := r.Status().Registration; !reg.Registered || reg.Since.IsZero() || reg.Connections == 0 {
		t.Errorf("registration %+v", reg)
	}
}

// The kubelet deletes all slices of the node when it starts.
func TestSlicesComeBackAfterARestartOfTheKubelet(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	h.start(p, tree(t, nil, color("1")))
	h.waitPublished("1")
	h.kubelet.Stop()
	h.api.DeleteSlices(nodeName)
	h.startKubelet()
	h.waitPublished("1")
}

func TestNothingIsDoneBeforeTheFirstTree(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	r := h.run(p)
	if err := r.CheckPublished(t.Context()); err == nil {
		t.Error("the driver says that it has published")
	}
	<-p.watching
	await(t, "the driver to watch its slices", func() bool {
		isWatch := func(request *apitest.Request) bool { return request.Verb == "watch" }
		return slices.ContainsFunc(h.api.Requests(), isWatch)
	})
	if n := len(h.api.Writes()); n > 0 || h.published() != nil {
		t.Errorf("%d writes", n)
	}
	if err := r.CheckRegistered(t.Context()); err == nil || err.Error() != "the devices have not been read yet" {
		t.Errorf("check: %v", err)
	}
	p.publish(tree(t, nil))
	h.waitRegistered(1)
	await(t, "the check to succeed", func() bool { return r.CheckPublished(t.Context()) == nil })
}

// observed records what an Observer is told.
type observed struct {
	mu    sync.Mutex
	lines []string
	trees map[*devtree.Tree]bool
}

func (o *observed) add(line string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		line += ": " + err.Error()
	}
	o.lines = append(o.lines, line)
}

func (o *observed) SliceWritten(slice, operation string, _ time.Duration, err error) {
	o.add(operation+" "+slice, err)
}

func (o *observed) Published(tree *devtree.Tree) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.trees[tree] = true
}

func (o *observed) has(tree *devtree.Tree) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.trees[tree]
}

func (o *observed) Registered(err error) { o.add("registered", err) }

func (o *observed) Prepared(claim *Claim, _ time.Duration, err error) {
	o.add("prepared "+claim.String()+" "+strings.Repeat("d", len(claim.Devices)), err)
}

func (o *observed) Unprepared(claim *Claim, _ time.Duration, err error) {
	o.add("unprepared "+claim.String()+" "+strings.Repeat("d", len(claim.Devices)), err)
}

func (o *observed) HealthSent(devices, bytes int) {
	if devices == 0 || bytes == 0 {
		o.add("no health", nil)
	}
}

func TestObserverReceivesActions(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	o := &observed{trees: map[*devtree.Tree]bool{}}
	first := tree(t, nil, color("1"))
	h.start(p, first, WithObserver(o))
	await(t, "the first Tree", func() bool { return o.has(first) })

	// The API server need not be told of this change.
	d := color("1")
	d.Env["BRUSH"] = "wide"
	d.NUMANodes = []int{0}
	second := tree(t, first, d)
	p.publish(second)
	await(t, "the second Tree", func() bool { return o.has(second) })
	writes := len(h.api.Writes())
	third := tree(t, second, color("1"), color("2"))
	p.publish(third)
	await(t, "the third Tree", func() bool { return o.has(third) })
	if n := len(h.api.Writes()); n != writes+1 {
		t.Errorf("%d writes for a change", n-writes)
	}

	claim := h.allocate("paint", 1, result("one", "1"), result("two", "2"))
	h.prepare(claim)
	h.unprepare(claim)
	h.unprepare(claim)
	p.setPrepare(func(context.Context, *Claim) error { return errors.New("dry") })
	if _, err := h.tryPrepare(claim); err == nil {
		t.Error("no error")
	}
	slice := h.api.Slices()[0].Name
	want := []string{
		"create " + slice, "update " + slice, "prepared default/paint dd", "unprepared default/paint dd",
		"unprepared default/paint ", "prepared default/paint : dry",
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var got []string
	for _, line := range o.lines {
		if line != "registered" {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got) != len(o.lines)-1 {
		t.Errorf("%q (-want +got):\n%s", o.lines, diff)
	}
}

// The first eight values of the attribute have a slice each. Further ones share these slices.
func TestValuesOfGroupByHaveTheirOwnSlices(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	var devices []*devtree.Device
	for pf := range 10 {
		for vf := range 2 {
			d := color(fmt.Sprintf("%d-%d", pf, vf))
			d.Attributes = map[string]any{"pf": int64(pf)}
			devices = append(devices, d)
		}
	}
	r := h.start(p, tree(t, nil, devices...), WithGroupBy("pf"))
	await(t, "the slices", func() bool { return r.CheckPublished(t.Context()) == nil && len(h.api.Slices()) > 0 })
	sliceOf := map[string]string{}
	for _, s := range h.api.Slices() {
		for _, d := range s.Spec.Devices {
			pf := d.Name[:1]
			if other, seen := sliceOf[pf]; seen && other != s.Name {
				t.Errorf("devices of PF %s are in %s and %s", pf, other, s.Name)
			}
			sliceOf[pf] = s.Name
		}
	}
	if n := len(h.api.Slices()); n != 8 || len(sliceOf) != 10 {
		t.Errorf("%d slices with devices of %d PFs, want 8 with those of 10", n, len(sliceOf))
	}
}

// containerd 1.6 ignores the devices of claims, and pods would run without them.
func TestRuntimeWithoutCDIGetsNoDevices(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	h.setRuntime("containerd://1.6.36")
	r := h.start(p, tree(t, nil, color("1")), WithEviction(func(*devtree.Device) bool { return true }))
	h.waitPublished("1 unhealthy=no-cdi:NoSchedule")
	const want = "containerd 1.6.36 ignores the CDI devices of claims, so pods would run without them: " +
		"upgrade the node to containerd 2.0 or newer"
	wantError(t, r.CheckRuntime(t.Context()), want)
	claim := h.allocate("paint", 1, result("one", "1"))
	_, err := h.tryPrepare(claim)
	wantError(t, err, "device 1 is unhealthy: "+want)
	admin := result("all", "1")
	admin.AdminAccess = new(bool)
	*admin.AdminAccess = true
	_, err = h.tryPrepare(h.allocate("monitor", 1, admin))
	wantError(t, err, want)
	if n := r.log.count("The container runtime ignores the devices of claims, so no device is offered"); n != 1 {
		t.Errorf("%d lines about it in the log:\n%s", n, r.log)
	}

	// After the upgrade, the next claim that fails makes the driver look again.
	h.setRuntime("containerd://2.2.0")
	await(t, "the claim to be prepared", func() bool {
		_, err := h.tryPrepare(claim)
		return err == nil
	})
	h.waitPublished("1")
}

func TestRuntimeIsKnownBeforeAnythingIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{t: t, api: apitest.New()}
		d := NewDriver(driverName, newFakePlugin(), WithNodeName(nodeName), WithRESTConfig(h.api.Config()),
			WithKubeletRoot("/k"), WithCDIDir(t.TempDir()))
		log := newLogRecorder()
		p, err := d.build(log.logger())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() { p.slices.Run(ctx) })
		d.publish(tree(t, nil, color("1")))
		h.setRuntime("containerd://1.6.36") // which only the publisher reads
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := h.published(); len(got) > 0 {
			t.Errorf("published without a known container runtime: %q", got)
		}
		h.api.DeleteNode(nodeName)
		running.Go(func() { d.watchRuntime(ctx) })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := h.published(); len(got) > 0 {
			t.Errorf("published without a Node: %q", got)
		}
		if n := log.count("Cannot get the Node"); n != 1 {
			t.Errorf("%d lines about the missing Node in the log:\n%s", n, log)
		}
		h.setRuntime("containerd://1.7.27")
		time.Sleep(runtimeMax)
		synctest.Wait()
		if diff := cmp.Diff([]string{"1 unhealthy=no-cdi:NoSchedule"}, h.published()); diff != "" {
			t.Errorf("slices (-want +got):\n%s", diff)
		}
		h.setRuntime("containerd://2.0.0") // nobody asks
		time.Sleep(runtimeInterval + time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]string{"1"}, h.published()); diff != "" {
			t.Errorf("slices after an upgrade (-want +got):\n%s", diff)
		}
		gets := func() (n int) {
			for _, request := range h.api.Requests() {
				if request.Resource == "nodes" {
					n++
				}
			}
			return n
		}
		before := gets()
		time.Sleep(time.Hour)
		if n := gets() - before; n > 0 {
			t.Errorf("%d requests for the Node in an hour", n)
		}
		for range 100 {
			d.askRuntime()
			synctest.Wait()
		}
		if n := gets() - before; n > 2 {
			t.Errorf("%d requests for the Node at once", n)
		}
	})
}

func TestVersionsThatIgnoreCDI(t *testing.T) {
	for _, tt := range []struct {
		version string
		assume  bool
		works   bool
	}{
		{"containerd://2.0.0", false, true},
		{"containerd://2.4.2", false, true},
		{"containerd://2.0.0-rc.1", false, true},
		{"containerd://1.7.27", false, false},
		{"containerd://1.7.27", true, true},
		{"containerd://1.6.8~ds1", false, false},
		{"containerd://v1.6.8", false, false},
		{"cri-o://1.34.1", false, true},
		{"cri-o://1.28.0", false, true},
		{"cri-o://1.27.9", false, false},
		{"docker://29.4.0", false, true}, // unknown
		{"containerd://Unknown", false, true},
		{"", false, true},
	} {
		if err := checkRuntime(tt.version, tt.assume); (err == nil) != tt.works {
			t.Errorf("checkRuntime(%q, %t) = %v", tt.version, tt.assume, err)
		}
	}
}

func TestSkippedDeviceIsLoggedOnce(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	last := tree(t, nil, color("a:1"), color("a-1"))
	r := h.start(p, last)
	for i := range 10 {
		last = tree(t, last, color("a:1"), color("a-1"), broken("2", fmt.Sprintf("spot %d", i)))
		p.publish(last)
	}
	await(t, "the last state", func() bool { return r.CheckPublished(t.Context()) == nil })
	if n := r.log.count("Not offering a device"); n != 1 {
		t.Errorf("%d lines in the log, want 1", n)
	}
}
