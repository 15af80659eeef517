// SPDX-License-Identifier: Apache-2.0

package kubelettest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// List is a list of devices that a plugin has sent.
type List struct {
	Resource string              // "color.example.com/yellow"
	Devices  []*pluginapi.Device // as received; read-only
	Time     time.Time           // of arrival
	Seq      int                 // 1 for the first list of the resource since the Kubelet started
	Live     bool                // the Kubelet has a client; if not, a kubelet regards the devices as unhealthy
}

// IDs returns the IDs of the devices, in the order of the list.
func (l List) IDs() []string {
	ids := []string{}
	for _, d := range l.Devices {
		ids = append(ids, d.ID)
	}
	return ids
}

// Health returns the health of the device, "" if it is not in the list.
func (l List) Health(id string) string {
	for _, d := range l.Devices {
		if d.ID == id {
			return d.Health
		}
	}
	return ""
}

// Lists returns the newest list of each resource since the Kubelet started.
func (k *Kubelet) Lists() map[string]List {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.lists)
}

// Wait returns nil when cond holds for the newest lists by resource. It calls cond at
// once, and after changes. Lists in between may be skipped, the newest is not. If ctx
// ends first, the error describes the lists.
func (k *Kubelet) Wait(ctx context.Context, cond func(lists map[string]List) bool) error {
	for {
		k.mu.Lock()
		lists, changed := maps.Clone(k.lists), k.changed
		k.mu.Unlock()
		if cond(lists) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the lists are not as expected: %s: %w", describe(lists), ctx.Err())
		case <-changed:
		}
	}
}

// WaitList is Wait for the list of one resource. It returns that list.
func (k *Kubelet) WaitList(ctx context.Context, resource string, cond func(List) bool) (List, error) {
	var got List
	err := k.Wait(ctx, func(lists map[string]List) bool {
		l, ok := lists[resource]
		got = l
		return ok && cond(l)
	})
	return got, err
}

// WaitDevices waits for a live list of exactly these devices, in this order. It returns
// that list.
func (k *Kubelet) WaitDevices(ctx context.Context, resource string, ids ...string) (List, error) {
	l, err := k.WaitList(ctx, resource, func(l List) bool { return l.Live && slices.Equal(l.IDs(), ids) })
	if err != nil {
		err = fmt.Errorf("wait for devices %q of %s: %w", ids, resource, err)
	}
	return l, err
}

// notify wakes the callers of Wait. The caller holds mu.
func (k *Kubelet) notify() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// describe describes the lists for the failure of a test.
func describe(lists map[string]List) string {
	if len(lists) == 0 {
		return "there is none"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		l, healthy := lists[name], 0
		for _, d := range l.Devices {
			if d.Health == pluginapi.Healthy {
				healthy++
			}
		}
		parts = append(parts, fmt.Sprintf("%s: %d devices, %d healthy, list %d, live %t",
			name, len(l.Devices), healthy, l.Seq, l.Live))
	}
	return strings.Join(parts, "; ")
}
