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

// preference is one call of GetPreferredAllocation.
type preference struct {
	Resource               string
	Available, MustInclude []string
	Size                   int
}

// choosyPlugin prefers the devices with the highest IDs.
type choosyPlugin struct {
	fakePlugin
	mu    sync.Mutex
	calls []preference
}

func (p *choosyPlugin) PreferredAllocation(_ context.Context, resource string, available, mustInclude []*devtree.Device, size int) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	call := preference{resource, ids(available), ids(mustInclude), size}
	p.calls = append(p.calls, call)
	chosen := slices.Clone(call.MustInclude)
	for _, id := range slices.Backward(call.Available) {
		if len(chosen) < size && !slices.Contains(chosen, id) {
			chosen = append(chosen, id)
		}
	}
	return chosen, nil
}

func (p *choosyPlugin) asked() []preference {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

// undecidedPlugin has no preference.
type undecidedPlugin struct{ choosyPlugin }

func (p *undecidedPlugin) PreferredAllocation(
	ctx context.Context, resource string, available, mustInclude []*devtree.Device, size int,
) ([]string, error) {
	if _, err := p.choosyPlugin.PreferredAllocation(ctx, resource, available, mustInclude, size); err != nil {
		return nil, err
	}
	return nil, kubeletapi.ErrUseDefault
}

// ids of the devices, ascending.
func ids(devices []*devtree.Device) []string {
	var ids []string
	for _, d := range devices {
		ids = append(ids, d.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestKubeletAsksForThePreferredDevices(t *testing.T) {
	n, p := startNode(t), &choosyPlugin{}
	p.edit(t, healthyDevices("generic", 6))
	n.startPlugin(p)
	n.wantCount(generic, 6, 6)
	pod := devicemanager.Pod("pod", devicemanager.Container("c", generic, 2))
	n.mustRun(pod, "c")
	if diff := cmp.Diff([]string{deviceID(4), deviceID(5)}, n.Assigned(pod, "c", generic)); diff != "" {
		t.Errorf("container's devices (-want +got):\n%s", diff)
	}
	all := []string{deviceID(0), deviceID(1), deviceID(2), deviceID(3), deviceID(4), deviceID(5)}
	if diff := cmp.Diff([]preference{{"generic", all, nil, 2}}, p.asked()); diff != "" {
		t.Errorf("questions to the plugin (-want +got):\n%s", diff)
	}
}

// What an init container had goes on to the pod's containers: then the kubelet says which devices must be in the answer.
func TestDevicesOfAnInitContainerMustBeIncluded(t *testing.T) {
	n, p := startNode(t), &choosyPlugin{}
	p.edit(t, healthyDevices("generic", 6))
	n.startPlugin(p)
	n.wantCount(generic, 6, 6)
	holder := devicemanager.Pod("holder", devicemanager.Container("c", generic, 2)) // has 4 and 5
	n.mustRun(holder, "c")

	pod := devicemanager.Pod("pod", devicemanager.Container("c", generic, 3))
	pod.Spec.InitContainers = []v1.Container{devicemanager.Container("init", generic, 1)} // gets 3
	if err := n.Admit(pod); err != nil {
		t.Fatal(err)
	}
	n.Remove(holder)
	if diff := cmp.Diff([]string{deviceID(1), deviceID(2), deviceID(3)}, n.Assigned(pod, "c", generic)); diff != "" {
		t.Errorf("container's devices (-want +got):\n%s", diff)
	}
	calls := p.asked()
	want := preference{"generic", []string{deviceID(0), deviceID(1), deviceID(2), deviceID(3)}, []string{deviceID(3)}, 3}
	if diff := cmp.Diff(want, calls[len(calls)-1]); diff != "" {
		t.Errorf("last question to the plugin (-want +got):\n%s", diff)
	}
}

// The kubelet chooses itself if the plugin has no preference, even where devices must be included.
func TestKubeletChoosesIfThePluginHasNoPreference(t *testing.T) {
	n, p := startNode(t), &undecidedPlugin{}
	p.edit(t, healthyDevices("generic", 6))
	n.startPlugin(p)
	n.wantCount(generic, 6, 6)
	pod := devicemanager.Pod("pod", devicemanager.Container("c", generic, 3))
	pod.Spec.InitContainers = []v1.Container{devicemanager.Container("init", generic, 1)}
	if err := n.Admit(pod); err != nil {
		t.Fatal(err)
	}
	if got := n.Assigned(pod, "c", generic); len(got) != 3 {
		t.Errorf("the container has %q, want 3 devices", got)
	}
	if calls := p.asked(); len(calls) == 0 || len(calls[len(calls)-1].MustInclude) != 1 {
		t.Errorf("questions to the plugin: %v, want the last one to include a device", calls)
	}
}

// startingPlugin wants to know when a container starts.
type startingPlugin struct {
	fakePlugin
	mu      sync.Mutex
	started [][]string
	refuse  error
}

func (p *startingPlugin) PreStartContainer(_ context.Context, _ string, devices []*devtree.Device) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = append(p.started, ids(devices))
	return p.refuse
}

func TestPluginIsToldBeforeAContainerStarts(t *testing.T) {
	n, p := startNode(t), &startingPlugin{}
	p.edit(t, healthyDevices("generic", 2))
	n.startPlugin(p)
	n.wantCount(generic, 2, 2)
	n.mustRun(devicemanager.Pod("pod", devicemanager.Container("c", generic, 2)), "c")
	p.mu.Lock()
	defer p.mu.Unlock()
	if diff := cmp.Diff([][]string{{deviceID(0), deviceID(1)}}, p.started); diff != "" {
		t.Errorf("containers that the plugin was told of (-want +got):\n%s", diff)
	}
}

func TestContainerDoesNotStartWhenThePluginRefuses(t *testing.T) {
	n, p := startNode(t), &startingPlugin{refuse: errors.New("reset failed")}
	p.edit(t, healthyDevices("generic", 1))
	n.startPlugin(p)
	n.wantCount(generic, 1, 1)
	pod := devicemanager.Pod("pod", devicemanager.Container("c", generic, 1))
	if err := n.Admit(pod); err != nil {
		t.Fatal(err)
	}
	if _, err := n.StartContainer(t.Context(), pod, "c"); err == nil {
		t.Error("the container was started")
	}
}
