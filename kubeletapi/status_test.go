// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/internal/unixsocket"
	"qatplugin/kubeletapi/kubelettest"
)

// resource returns the state of one resource; its zero value if there is none.
func (r *runningManager) resource(name string) ResourceStatus {
	for _, s := range r.Resources() {
		if s.Name == name {
			return s
		}
	}
	return ResourceStatus{}
}

// awaitPhase waits until a resource is in the phase, with an error that contains want, or without
// one if want is empty.
func (r *runningManager) awaitPhase(name string, phase Phase, want string) (s ResourceStatus) {
	r.t.Helper()
	eventually(r.t, name+" is "+string(phase)+": "+want, func() bool {
		s = r.resource(name)
		return s.Phase == phase && (want == "" && s.Err == nil ||
			want != "" && s.Err != nil && strings.Contains(s.Err.Error(), want))
	})
	return s
}

// TestResourcesFollowTheKubelet checks each phase of a resource at a Manager whose kubelet refuses,
// accepts, disconnects and ends.
func TestResourcesFollowTheKubelet(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	m := run(t, dir, p, fastRetries)
	if got := m.Resources(); len(got) != 0 {
		t.Errorf("without a Tree there are resources: %+v", got)
	}
	now := with(t, tree(t, tree(t, nil, "yellow", "1", "2"), "blue"), "yellow", unhealthy("3", "dry"))
	p.publish(now)
	missing := "kubelet.sock not found in " + dir
	m.awaitPhase(yellow, PhaseIdle, missing)
	if got := m.Resources(); len(got) != 2 || got[0].Name != blue || got[1].Name != yellow {
		t.Errorf("resources %+v, want blue and yellow in this order", got)
	}

	var refuse atomic.Bool
	hang := make(chan struct{})
	refuse.Store(true)
	k := startKubelet(t, dir, kubelettest.OnRegister(func(_ context.Context, r *pluginapi.RegisterRequest) error {
		switch {
		case r.ResourceName == blue:
			<-hang
		case refuse.Load():
			return errors.New("not now")
		}
		return nil
	}))
	m.awaitPhase(yellow, PhaseFailed, "not now")
	m.awaitPhase(blue, PhaseRegistering, "has not answered")
	close(hang)
	refuse.Store(false)
	m.awaitPhase(blue, PhaseWatching, "")
	before := time.Now()
	p.publish(tree(t, now, "blue", "1"))
	waitIDs(t, k, blue, "1")
	s := m.awaitPhase(yellow, PhaseWatching, "")
	if s.Devices != 3 || s.Healthy != 2 || s.Streams != 1 {
		t.Errorf("yellow has %d devices, %d healthy, %d streams, want 3, 2, 1", s.Devices, s.Healthy, s.Streams)
	}
	eventually(t, "two lists of blue are counted", func() bool { return m.resource(blue).Lists == 2 })
	s = m.resource(blue)
	size := uint64(proto.Size(&pluginapi.ListAndWatchResponse{Devices: k.Lists()[blue].Devices}))
	if s.Bytes != size { // the first list is empty
		t.Errorf("%d bytes were sent, the kubelet received %d", s.Bytes, size)
	}
	if s.LastList.Before(before) || s.LastList.After(time.Now()) {
		t.Errorf("the last list was sent at %v, want a time after %v", s.LastList, before)
	}

	if _, err := k.Allocate(t.Context(), yellow, []string{"1", "2"}); err != nil {
		t.Error(err)
	}
	if _, err := k.Allocate(t.Context(), yellow, []string{"3"}); err == nil {
		t.Error("an unhealthy device was allocated")
	}
	if s := m.resource(yellow); s.Allocated != 2 || s.Failed != 1 {
		t.Errorf("%d devices allocated and %d calls failed, want 2 and 1", s.Allocated, s.Failed)
	}
	k.Stop()
	if s := m.awaitPhase(yellow, PhaseIdle, missing); s.Streams != 0 || s.Allocated != 2 {
		t.Errorf("after the end of the kubelet: %d streams, %d devices allocated, want 0 and 2", s.Streams, s.Allocated)
	}
}

// TestResourcesAfterTheStreamEnds checks the phases of a resource whose socket cannot be created
// and of one whose stream has ended.
func TestResourcesAfterTheStreamEnds(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	never := func(c *config) { c.gracePeriod = time.Hour }
	other, err := unixsocket.Listen(socketOf(dir, "blue"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Remove)
	m := run(t, dir, p, never)
	p.publish(tree(t, tree(t, nil, "yellow", "1"), "blue", "1"))
	m.awaitPhase(yellow, PhaseWatching, "")
	m.awaitPhase(blue, PhaseIdle, "cannot be served")
	k.Disconnect(yellow)
	m.awaitPhase(yellow, PhaseLost, "no longer follows the list")
}

// TestResourcesThatAreNotServedYet checks that a resource of a Tree has a state before Run.
func TestResourcesThatAreNotServedYet(t *testing.T) {
	m := NewManager(namespace, newFakePlugin())
	m.publish(tree(t, nil, "yellow", "1"))
	got := m.Resources()
	if len(got) != 1 || got[0].Name != yellow || got[0].Devices != 1 || got[0].Phase != PhaseIdle || got[0].Err == nil {
		t.Errorf("resources %+v, want yellow with one device, idle, with an error", got)
	}
}
