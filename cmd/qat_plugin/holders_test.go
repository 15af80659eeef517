// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"qatplugin/internal/status"
)

// fakeKubelet answers which pods hold devices.
type fakeKubelet struct {
	mu      sync.Mutex // guards all following fields
	holders map[string]string
	err     error
	delay   time.Duration
	asked   int
	changes int // how often the cache reported another answer
}

func (k *fakeKubelet) ask(ctx context.Context) (map[string]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	holders, err, delay := k.holders, k.err, k.delay
	k.mu.Unlock()
	defer k.mu.Lock()
	select {
	case <-time.After(delay):
		return holders, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (k *fakeKubelet) change() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes++
}

// answer sets the answer.
func (k *fakeKubelet) answer(holders map[string]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.holders = holders
}

// counts returns how often the kubelet was asked, and how often another answer was reported.
func (k *fakeKubelet) counts() (asked, changes int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked, k.changes
}

func TestKubeletIsAskedForHoldersOnlyWhileSomebodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKubelet{holders: map[string]string{vf: "default/a"}, delay: time.Millisecond}
		h := newHolderCache(k.ask, k.change)
		defer h.close()
		time.Sleep(time.Hour)
		if asked, _ := k.counts(); asked != 0 {
			t.Fatalf("asked %d times before somebody looked", asked)
		}
		for range 600 { // a minute
			if diff := cmp.Diff(map[string]string{vf: "default/a"}, h.get(t.Context())); diff != "" {
				t.Fatalf("holders (-want +got):\n%s", diff)
			}
			time.Sleep(100 * time.Millisecond)
		}
		asked, changes := k.counts()
		if asked < 5 || asked > 6 || changes != 1 {
			t.Errorf("asked %d times in a minute, want one each 10 s; %d changes reported, want 1", asked, changes)
		}
		time.Sleep(time.Hour)
		if again, _ := k.counts(); again != asked {
			t.Error("asked while nobody looked")
		}
	})
}

// The first reader waits for the answer, the next ones get it from the cache while it is renewed.
func TestOnlyReadersWithoutAnAnswerWaitForTheKubelet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKubelet{holders: map[string]string{vf: "default/a"}, delay: 100 * time.Millisecond}
		h := newHolderCache(k.ask, k.change)
		defer h.close()
		look := func(wantWait time.Duration, want map[string]string) {
			t.Helper()
			start := time.Now()
			got := h.get(t.Context())
			if diff := cmp.Diff(want, got); diff != "" || time.Since(start) != wantWait {
				t.Errorf("waited for %v, want %v; holders (-want +got):\n%s", time.Since(start), wantWait, diff)
			}
		}
		a, b := map[string]string{vf: "default/a"}, map[string]string{vf: "default/b"}
		look(k.delay, a)
		k.answer(b)
		time.Sleep(holdersMaxAge + time.Millisecond)
		look(0, a)
		time.Sleep(k.delay)
		synctest.Wait()
		look(0, b)
		if _, changes := k.counts(); changes != 2 {
			t.Errorf("%d changes reported, want 2", changes)
		}
		time.Sleep(time.Hour)
		k.answer(a)
		look(k.delay, a)
	})
}

func TestKubeletThatDoesNotAnswerDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKubelet{delay: 5 * time.Second, err: errors.New("refused")}
		h := newHolderCache(k.ask, k.change)
		defer h.close()
		start := time.Now()
		if got := h.get(t.Context()); got != nil || time.Since(start) != holdersWait {
			t.Errorf("%v after %v, want nothing after %v", got, time.Since(start), holdersWait)
		}
		time.Sleep(6 * time.Second) // the error has arrived
		start = time.Now()
		got := h.get(t.Context())
		if asked, _ := k.counts(); got != nil || time.Since(start) != 0 || asked != 1 {
			t.Errorf("%v after %v, asked %d times; want nothing at once, and no second question",
				got, time.Since(start), asked)
		}
		time.Sleep(time.Minute)
		h.get(t.Context())
		start = time.Now()
		if h.close(); time.Since(start) != 0 {
			t.Errorf("close waited for the kubelet for %v", time.Since(start))
		}
	})
}

// A request may outlive its server for a moment.
func TestKubeletIsNotAskedAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKubelet{holders: map[string]string{vf: "default/a"}}
		h := newHolderCache(k.ask, k.change)
		h.close()
		if got := h.get(t.Context()); got != nil {
			t.Errorf("holders %v", got)
		}
		if asked, _ := k.counts(); asked != 0 {
			t.Errorf("asked %d times", asked)
		}
	})
}

// podResources is the kubelet's PodResources API, of a node with one pod.
type podResources struct {
	podresourcesapi.UnimplementedPodResourcesListerServer
	device string // that the pod holds
}

func (p *podResources) List(
	context.Context, *podresourcesapi.ListPodResourcesRequest,
) (*podresourcesapi.ListPodResourcesResponse, error) {
	return &podresourcesapi.ListPodResourcesResponse{PodResources: []*podresourcesapi.PodResources{{
		Namespace: "default",
		Name:      "web",
		Containers: []*podresourcesapi.ContainerResources{{
			Devices: []*podresourcesapi.ContainerDevices{{ResourceName: resource, DeviceIds: []string{p.device}}},
		}},
	}}}, nil
}

func TestStatusNamesThePodThatHoldsAVF(t *testing.T) {
	socket := filepath.Join(shortDir(t), "kubelet.sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	server := grpc.NewServer()
	podresourcesapi.RegisterPodResourcesListerServer(server, &podResources{device: vf})
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Stop()
		must(t, <-served)
	}()
	r := startStatus(t, "-pod-resources-socket", socket)
	defer r.stop()
	addVF(t, r.host)
	awaitVF(t, r.kubelet)
	s := openStream(t, r.client(false), "")
	defer s.close()
	held := func(f status.VF) bool { return f.Address == vf && f.Holder == "default/web" }
	await(s, status.MessageSnapshot, func(s status.Snapshot) bool { return slices.ContainsFunc(s.VFs, held) })
}
