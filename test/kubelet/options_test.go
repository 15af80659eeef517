// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
	"qatplugin/test/kubelet/devicemanager"
)

// preferenceCall is a call of PreferredAllocation.
type preferenceCall struct {
	Resource               string
	Available, MustInclude []string
	Size                   int
}

// preferringPlugin prefers the devices with the highest IDs.
type preferringPlugin struct {
	fakePlugin
	mu       sync.Mutex
	recorded []preferenceCall
}

func (p *preferringPlugin) PreferredAllocation(
	_ context.Context, resource string, available, mustInclude []*devtree.Device, size int,
) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	call := preferenceCall{resource, sortedIDs(available), sortedIDs(mustInclude), size}
	p.recorded = append(p.recorded, call)
	chosen := slices.Clone(call.MustInclude)
	for _, id := range slices.Backward(call.Available) {
		if len(chosen) < size && !slices.Contains(chosen, id) {
			chosen = append(chosen, id)
		}
	}
	return chosen, nil
}

func (p *preferringPlugin) calls() []preferenceCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.recorded)
}

// undecidedPlugin records the calls but has no preference.
type undecidedPlugin struct{ preferringPlugin }

func (p *undecidedPlugin) PreferredAllocation(
	ctx context.Context, resource string, available, mustInclude []*devtree.Device, size int,
) ([]string, error) {
	if _, err := p.preferringPlugin.PreferredAllocation(ctx, resource, available, mustInclude, size); err != nil {
		return nil, err
	}
	return nil, kubeletapi.ErrUseDefault
}

func sortedIDs(devices []*devtree.Device) []string {
	var ids []string
	for _, d := range devices {
		ids = append(ids, d.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestKubeletAllocatesPreferredDevices(t *testing.T) {
	p := &preferringPlugin{}
	n, _ := serveDevices(t, p, 6)
	pod := podOf("pod", 2)
	n.mustRun(pod, "c")
	n.wantAssigned(pod, 4, 5)
	want := []preferenceCall{{"generic", deviceIDs(0, 1, 2, 3, 4, 5), nil, 2}}
	if diff := cmp.Diff(want, p.calls()); diff != "" {
		t.Errorf("calls of PreferredAllocation (-want +got):\n%s", diff)
	}
}

// The devices of an init container are used again by the containers of its pod. The kubelet passes
// them as devices that must be included.
func TestDevicesOfInitContainerMustBeIncluded(t *testing.T) {
	p := &preferringPlugin{}
	n, _ := serveDevices(t, p, 6)
	holder := podOf("holder", 2) // gets 4 and 5
	n.mustRun(holder, "c")

	pod := podOf("pod", 3)
	pod.Spec.InitContainers = []v1.Container{devicemanager.Container("init", generic, 1)} // gets 3
	n.mustAdmit(pod)
	n.Remove(holder)
	n.wantAssigned(pod, 1, 2, 3)
	calls := p.calls()
	want := preferenceCall{"generic", deviceIDs(0, 1, 2, 3), deviceIDs(3), 3}
	if diff := cmp.Diff(want, calls[len(calls)-1]); diff != "" {
		t.Errorf("last call of PreferredAllocation (-want +got):\n%s", diff)
	}
}

// The kubelet chooses itself if the plugin has no preference, even where devices must be included.
func TestKubeletChoosesIfThePluginHasNoPreference(t *testing.T) {
	p := &undecidedPlugin{}
	n, _ := serveDevices(t, p, 6)
	pod := podOf("pod", 3)
	pod.Spec.InitContainers = []v1.Container{devicemanager.Container("init", generic, 1)}
	if err := n.Admit(pod); err != nil {
		t.Fatal(err)
	}
	if got := n.Assigned(pod, "c", generic); len(got) != 3 {
		t.Errorf("the container has %q, want 3 devices", got)
	}
	calls := p.calls()
	if len(calls) == 0 || len(calls[len(calls)-1].MustInclude) != 1 {
		t.Errorf("calls of PreferredAllocation: %v, want the last one to include a device", calls)
	}
}

// preStartPlugin implements PreStartContainer.
type preStartPlugin struct {
	fakePlugin
	mu      sync.Mutex
	started [][]string
	err     error // what PreStartContainer returns
}

func (p *preStartPlugin) PreStartContainer(_ context.Context, _ string, devices []*devtree.Device) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = append(p.started, sortedIDs(devices))
	return p.err
}

func TestPreStartContainerIsCalled(t *testing.T) {
	p := &preStartPlugin{}
	n, _ := serveDevices(t, p, 2)
	n.mustRun(podOf("pod", 2), "c")
	p.mu.Lock()
	defer p.mu.Unlock()
	if diff := cmp.Diff([][]string{deviceIDs(0, 1)}, p.started); diff != "" {
		t.Errorf("calls of PreStartContainer (-want +got):\n%s", diff)
	}
}

func TestContainerDoesNotStartIfPreStartContainerFails(t *testing.T) {
	n, _ := serveDevices(t, &preStartPlugin{err: errors.New("reset failed")}, 1)
	pod := podOf("pod", 1)
	n.mustAdmit(pod)
	if _, err := n.StartContainer(t.Context(), pod, "c"); err == nil {
		t.Error("StartContainer succeeded, want an error")
	}
}
