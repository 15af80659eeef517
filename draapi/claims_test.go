// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	resourcev1 "k8s.io/api/resource/v1"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"

	"qatplugin/devtree"
	"qatplugin/internal/apitest"
)

// description returns the devices of an answer, as far as the kubelet uses them.
func description(devices []*dra.Device) (list []string) {
	for _, d := range devices {
		for _, id := range d.GetCdiDeviceIds() {
			list = append(list, d.GetRequestNames()[0]+" "+d.GetPoolName()+"/"+d.GetDeviceName()+" "+id)
		}
	}
	return list
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

func TestContainerGetsTheDevicesOfItsClaim(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	r := h.start(p, tree(t, nil, color("a:1"), color("a:2")))
	claim := h.allocate("paint", 1, result("one", "a-2"), result("any/first", "a-1"))

	devices := h.prepare(claim)
	want := []string{
		"one node-1/a-2 color.example.com/claim=paint-1-a-2",
		"any node-1/a-1 color.example.com/claim=paint-1-a-1",
	}
	if diff := cmp.Diff(want, description(devices)); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	container, err := h.inject(devices[:1])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"COLOR_A_2=a:2"}, container.Process.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if n := container.Linux.Devices; len(n) != 1 || n[0].Path != "/dev/color/a:2" {
		t.Errorf("device nodes %+v", n)
	}
	holders, err := r.Holders(t.Context())
	wantHolders := map[string]string{"a:1": "default/paint", "a:2": "default/paint"}
	if diff := cmp.Diff(wantHolders, holders); diff != "" || err != nil {
		t.Errorf("holders (-want +got):\n%s%v", diff, err)
	}

	h.unprepare(claim)
	if files := h.files(); len(files) > 0 {
		t.Errorf("files after unprepare: %q", files)
	}
	if _, err := h.inject(devices); err == nil {
		t.Error("the runtime still resolves the devices")
	}
	h.unprepare(claim) // again
	h.unprepare(&dra.Claim{Namespace: "default", Name: "other", Uid: "unknown"})
}

func TestPluginDecidesWhatAClaimGets(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	h.start(p, tree(t, nil, color("1")))
	claim := h.allocate("paint", 1, result("one", "1"))

	p.setPrepare(func(context.Context, *Claim) error { return errors.New("the color has dried") })
	_, err := h.tryPrepare(claim)
	wantError(t, err, "the color has dried")
	if files := h.files(); len(files) > 0 {
		t.Errorf("files after an error: %q", files)
	}
	p.setPrepare(func(_ context.Context, c *Claim) error {
		if c.String() != "default/paint" || c.UID != "paint-1" || c.Devices[0].Request != "one" {
			t.Errorf("claim %+v", c)
		}
		c.Devices[0].Edits.Env["BRUSH"] = "wide"
		return nil
	})
	container, err := h.inject(h.prepare(claim))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"BRUSH=wide", "COLOR_1=1"}, container.Process.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	p.setPrepare(func(_ context.Context, c *Claim) error {
		c.Devices[0].Edits.Mounts = []devtree.Mount{{HostPath: "relative", ContainerPath: "/a"}}
		return nil
	})
	h.unprepare(claim)
	if _, err := h.tryPrepare(claim); err == nil {
		t.Error("invalid edits are accepted")
	}
}

func TestClaimIsRefused(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	h.start(p, tree(t, nil, color("1"), color("2"), broken("3", "it fades in the sun")))
	h.prepare(h.allocate("first", 1, result("one", "1")))
	otherPool := result("one", "2")
	otherPool.Pool = "node-2"
	otherDriver := result("one", "1")
	otherDriver.Driver = "x.example.com"
	for _, tt := range []struct {
		name    string
		results []resourcev1.DeviceRequestAllocationResult
		want    string
	}{
		{"held", []resourcev1.DeviceRequestAllocationResult{result("one", "2"), result("two", "1")},
			"device 1 is held by claim default/first (UID first-1), which the kubelet has not unprepared"},
		{"gone", []resourcev1.DeviceRequestAllocationResult{result("one", "4")},
			"device 4 has left the node since the scheduler chose it; the kubelet tries again, in case it returns"},
		{"unhealthy", []resourcev1.DeviceRequestAllocationResult{result("one", "3")},
			"device 3 is unhealthy: it fades in the sun"},
		{"pool", []resourcev1.DeviceRequestAllocationResult{otherPool},
			"device 2 is of pool node-2, and the pool of this node is node-1"},
		{"other driver", []resourcev1.DeviceRequestAllocationResult{otherDriver},
			"the claim is allocated no device of driver color.example.com"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := h.tryPrepare(h.allocate("second", 1, tt.results...))
			wantError(t, err, tt.want)
		})
	}
	if diff := cmp.Diff([]string{"color.example.com-claim-first-1.json"}, h.files()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestDeviceThatLeavesWhileItsClaimIsPreparedIsHeld(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	devices := tree(t, nil, color("1"), color("2"))
	r := h.start(p, devices)
	p.setPrepare(func(context.Context, *Claim) error {
		p.publish(tree(t, devices, color("2")))
		return nil
	})
	h.prepare(h.allocate("paint", 1, result("one", "1")))
	if s := r.Status(); s.Devices != 2 || s.Gone != 1 {
		t.Errorf("%d devices, %d of them gone, want 2 and 1", s.Devices, s.Gone)
	}
}

func TestAdminAccessHoldsNothing(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	r := h.start(p, tree(t, nil, color("1"), broken("2", "it fades")))
	holder := h.allocate("holder", 1, result("one", "1"))
	h.prepare(holder)
	admin := []resourcev1.DeviceRequestAllocationResult{result("all", "1"), result("all", "2"), result("more", "1")}
	for i := range admin {
		admin[i].AdminAccess = new(bool)
		*admin[i].AdminAccess = true
	}
	devices := h.prepare(h.allocate("monitor", 1, admin...))
	if _, err := h.inject(devices); err != nil {
		t.Error(err)
	}
	holders, err := r.Holders(t.Context())
	if diff := cmp.Diff(map[string]string{"1": "default/holder"}, holders); diff != "" || err != nil {
		t.Errorf("holders (-want +got):\n%s%v", diff, err)
	}
	h.unprepare(holder)
	h.prepare(h.allocate("next", 1, result("one", "1")))
}

// Pods must end while the preparation of other claims waits for the API server.
func TestUnprepareDoesNotWaitForOtherClaims(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	h.start(p, tree(t, nil, color("1"), color("2")))
	ending := h.allocate("ending", 1, result("one", "1"))
	h.prepare(ending)
	const claims = 64
	answer := make(chan struct{})
	var asked atomic.Int32
	h.api.Fail(func(q *apitest.Request) *apitest.Fault {
		if q.Resource == "resourceclaims" {
			asked.Add(1)
			<-answer
		}
		return nil
	})
	var preparing sync.WaitGroup
	for i := range claims {
		claim := h.allocate(fmt.Sprint("waiting-", i), 1, result("one", "2"))
		preparing.Go(func() { _, _ = h.tryPrepare(claim) })
	}
	await(t, "the claims to be asked for", func() bool { return asked.Load() >= 16 })
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout/4) // it takes milliseconds
	defer cancel()
	if err := h.kubelet.Unprepare(ctx, driverName, ending); err != nil {
		t.Error(err)
	}
	close(answer)
	preparing.Wait()
}

// A container of a running pod must be able to start again, whatever the API server answers.
// While it starts, it also refuses what its grants allow.
func TestPreparedClaimNeedsNoAPIServer(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	h.start(p, tree(t, nil, color("1")))
	claim := h.allocate("paint", 1, result("one", "1"))
	before := description(h.prepare(claim))
	for _, fault := range []*apitest.Fault{{Code: 500}, {Code: 429, RetryAfter: 60}, {Code: 401}, {Code: 403}, {}} {
		h.api.Fail(func(*apitest.Request) *apitest.Fault { return fault })
		if diff := cmp.Diff(before, description(h.prepare(claim))); diff != "" {
			t.Errorf("answer with fault %+v (-before +after):\n%s", fault, diff)
		}
	}
}

// A pod that uses the name of a deleted claim has a claim with another UID.
func TestClaimIsDeletedAndCreatedAgain(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	h.start(p, tree(t, nil, color("1")))
	old := h.allocate("paint", 1, result("one", "1"))
	h.prepare(old)
	renewed := h.allocate("paint", 2, result("one", "1"))

	_, err := h.tryPrepare(renewed)
	wantError(t, err, "device 1 is held by claim default/paint (UID paint-1), which the kubelet has not unprepared")
	_, err = h.tryPrepare(&dra.Claim{Namespace: "default", Name: "paint", Uid: "paint-3"})
	wantError(t, err, "the claim was deleted and created again: its UID is paint-2, and paint-3 is to be prepared")
	h.unprepare(old)
	h.prepare(renewed)
	if diff := cmp.Diff([]string{"color.example.com-claim-paint-2.json"}, h.files()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// environment returns the environment of a container with the devices.
func environment(t *testing.T, container *oci.Spec, err error) []string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return container.Process.Env
}

// After a restart, the same call has the same answer, even if the devices have gone.
func TestPreparedClaimSurvivesARestart(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	first := h.start(p, tree(t, nil, color("1"), color("2")))
	claim := h.allocate("paint", 1, result("one", "1"), result("two", "2"))
	before := description(h.prepare(claim))
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	h.waitRegistered(0)

	p = newFakePlugin()
	p.setPrepare(func(context.Context, *Claim) error { return errors.New("must not be called") })
	r := h.start(p, tree(t, nil, broken("2", "it fades"), color("3")))
	devices := h.prepare(claim)
	if diff := cmp.Diff(before, description(devices)); diff != "" {
		t.Errorf("answer (-before +after):\n%s", diff)
	}
	container, err := h.inject(devices)
	if diff := cmp.Diff([]string{"COLOR_1=1", "COLOR_2=2"}, environment(t, container, err)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if s := r.Status(); s.Devices != 3 || s.Gone != 1 || s.Healthy != 1 {
		t.Errorf("%d devices, %d gone, %d healthy: want 3, 1 and 1", s.Devices, s.Gone, s.Healthy)
	}
	p.setPrepare(nil)
	_, err = h.tryPrepare(h.allocate("other", 1, result("one", "2")))
	if err == nil {
		t.Error("a device that an earlier process has given to another claim is prepared")
	}
	h.unprepare(claim)
	await(t, "the gone device to leave the pool", func() bool { return r.Status().Devices == 2 })
}

// The kubelet does not prepare a claim again when a container restarts. The runtime must not give
// the container the node that the device had before it left: that may be another device's by then.
func TestClaimFollowsTheNodesOfItsDevices(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	at := func(node string) *devtree.Device {
		d := color("1")
		d.DeviceNodes[0].HostPath = node
		return d
	}
	first := tree(t, nil, at("/dev/null"), color("2"))
	r := h.start(p, first)
	claim := h.allocate("paint", 1, result("one", "1"))
	devices := h.prepare(claim)
	wantMinor := func(minor int64) {
		t.Helper()
		await(t, fmt.Sprintf("device 1:%d", minor), func() bool {
			container, err := h.inject(devices)
			return err == nil && container.Linux.Devices[0].Minor == minor
		})
	}
	wantMinor(3)
	second := tree(t, first, color("2"))
	p.publish(second)
	third := tree(t, second, at("/dev/zero"), color("2"))
	p.publish(third)
	wantMinor(5)

	// The driver is not running when the device comes back.
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	next := newFakePlugin()
	r = h.run(next)
	next.publish(tree(t, third, at("/dev/full"), color("2")))
	wantMinor(7)
	if n := r.log.count("has other device nodes"); n != 1 {
		t.Errorf("%d lines in the log, want 1", n)
	}
	h.waitRegistered(1)
	h.unprepare(claim)
	if files := h.files(); len(files) > 0 {
		t.Errorf("files after unprepare: %q", files)
	}
}
