// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

// observations is an Observer that records the calls as lines of text.
type observations struct {
	mu     sync.Mutex
	calls  []string
	states []*devtree.Resource // of ListSent and ListUnchanged
}

func (o *observations) add(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, fmt.Sprintf(format, args...))
}

func (o *observations) StreamOpened(resource string) { o.add("opened %s", resource) }
func (o *observations) StreamClosed(resource string, err error) {
	o.add("closed %s: %t", resource, err != nil)
}

func (o *observations) ListSent(resource string, state *devtree.Resource, devices, bytes int) {
	o.add("sent %s: %d devices, %d bytes", resource, devices, bytes)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.states = append(o.states, state)
}

func (o *observations) ListUnchanged(resource string, state *devtree.Resource) {
	o.add("unchanged %s", resource)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.states = append(o.states, state)
}

func (o *observations) Allocated(resource string, devices []string, err error) {
	o.add("allocated %s %q: %s", resource, devices, status.Code(err))
}
func (o *observations) Registered(resource string, err error) {
	o.add("registered %s: %v", resource, err)
}

// await waits for the calls whose text begins with prefix, and returns them.
func (o *observations) await(t *testing.T, prefix string, n int) (calls []string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d calls of the Observer for %q", n, prefix), func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		calls = nil
		for _, c := range o.calls {
			if strings.HasPrefix(c, prefix) {
				calls = append(calls, c)
			}
		}
		return len(calls) >= n
	})
	return calls
}

// TestObserverSeesRegistrationListsAndAllocations checks each call of an Observer at a Manager with
// a kubelet. The bytes of a list come from the size of the message that the kubelet received.
func TestObserverSeesRegistrationListsAndAllocations(t *testing.T) {
	dir, p, o, second := kubeletDir(t), newFakePlugin(), &observations{}, &observations{}
	k := startKubelet(t, dir)
	m := run(t, dir, p, WithObserver(o), WithObserver(second))
	one := tree(t, nil, "yellow", "1")
	p.publish(one)
	waitIDs(t, k, yellow, "1")
	o.await(t, "sent", 1)

	edited := device("1")
	edited.Env = map[string]string{"COLOR": "y"} // which the kubelet does not see in a list
	two := with(t, one, "yellow", edited)
	p.publish(two)
	o.await(t, "unchanged", 1)
	three := with(t, two, "yellow", unhealthy("2", "dry"))
	p.publish(three)
	list := waitIDs(t, k, yellow, "1", "2")

	allocate := func(ids ...string) {
		_, _ = k.Allocate(t.Context(), yellow, ids)
	}
	allocate("1")
	allocate("1", "2")
	allocate("3")
	k.Stop()
	second.await(t, "closed", 1)

	size := func(devices ...*pluginapi.Device) int {
		return proto.Size(&pluginapi.ListAndWatchResponse{Devices: devices})
	}
	want := []string{
		"opened " + yellow,
		fmt.Sprintf("sent %s: 1 devices, %d bytes", yellow, size(list.Devices[0])),
		"unchanged " + yellow,
		fmt.Sprintf("sent %s: 2 devices, %d bytes", yellow, size(list.Devices...)),
		"allocated " + yellow + ` ["1"]: OK`,
		"allocated " + yellow + ` ["1" "2"]: FailedPrecondition`,
		"allocated " + yellow + ` ["3"]: NotFound`,
		"closed " + yellow + ": true",
		"registered " + yellow + ": <nil>",
	}
	for _, o := range []*observations{o, second} {
		o.await(t, "registered", 1)
		got := slices.Clone(o.await(t, "", len(want)))
		// The Register call returns at any time after the kubelet has connected.
		i := slices.Index(got, want[len(want)-1])
		got = append(slices.Delete(got, i, i+1), want[len(want)-1])
		if !slices.Equal(got, want) {
			t.Errorf("calls:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		states := []*devtree.Resource{one.Resource("yellow"), two.Resource("yellow"), three.Resource("yellow")}
		if !slices.Equal(o.states, states) {
			t.Errorf("states %p, want those of the published Trees %p", o.states, states)
		}
	}
	eventually(t, "no kubelet", func() bool { return m.Resources()[0].Phase == PhaseIdle })
}

// TestObserverSeesEachContainer checks that an Allocate call for several containers is reported
// once for each of them, or once if it fails.
func TestObserverSeesEachContainer(t *testing.T) {
	o := &observations{}
	s := &service{name: yellow, registration: &registration{}, observers: []Observer{o}}
	request := &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{
		{DevicesIds: []string{"1", "2"}}, {}, {DevicesIds: []string{"3"}},
	}}
	for _, err := range []error{nil, errStopping} {
		_, _ = s.observeAllocations(t.Context(), request, nil,
			func(context.Context, any) (any, error) { return nil, err })
	}
	_, _ = s.observeAllocations(t.Context(), &pluginapi.PreStartContainerRequest{}, nil,
		func(context.Context, any) (any, error) { return nil, nil })
	want := []string{
		"allocated " + yellow + ` ["1" "2"]: ` + codes.OK.String(),
		"allocated " + yellow + ` []: OK`,
		"allocated " + yellow + ` ["3"]: OK`,
		"allocated " + yellow + ` ["1" "2" "3"]: Unavailable`,
	}
	if !slices.Equal(o.calls, want) {
		t.Errorf("calls %q, want %q", o.calls, want)
	}
	var got ResourceStatus
	s.registration.describe(&got)
	if got.Allocated != 3 || got.Failed != 1 {
		t.Errorf("%d devices allocated and %d calls failed, want 3 and 1", got.Allocated, got.Failed)
	}
}

// TestObserverSeesRefusedRegistrations checks that Registered has the kubelet's error, and that an
// attempt that was abandoned is not reported.
func TestObserverSeesRefusedRegistrations(t *testing.T) {
	dir, p, o := kubeletDir(t), newFakePlugin(), &observations{}
	var refusals atomic.Int32
	startKubelet(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		if refusals.Add(1) <= 2 {
			return errors.New("not now")
		}
		return nil
	}))
	run(t, dir, p, fastRetries, WithObserver(o))
	p.publish(tree(t, nil, "yellow", "1"))
	calls := o.await(t, "registered", 3)
	for i, want := range []string{"not now", "not now", "<nil>"} {
		if !strings.HasPrefix(calls[i], "registered "+yellow+": ") || !strings.HasSuffix(calls[i], want) {
			t.Errorf("call %d is %q, want the result %s", i+1, calls[i], want)
		}
	}
	r := &registration{wake: make(signal, 1)}
	attempt := r.reset()
	r.reset()
	if r.complete(attempt, nil) {
		t.Error("an abandoned attempt is complete")
	}
}
