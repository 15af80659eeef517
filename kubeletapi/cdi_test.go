// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	cdilib "tags.cncf.io/container-device-interface/pkg/cdi"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

// existing returns a device with nodes that exist, which the CDI library requires when
// it injects them.
func existing(id string) *devtree.Device {
	return &devtree.Device{ID: id, Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{HostPath: "/dev/zero", ContainerPath: "/dev/vfio/" + id, Permissions: "rw"},
			{HostPath: "/dev/null", ContainerPath: "/dev/null", Permissions: "r"},
		},
		Mounts: []devtree.Mount{{HostPath: "/tmp", ContainerPath: "/paint", ReadOnly: true}},
		Env:    map[string]string{"PAINT": "yellow", "A_POT": "full"},
	}}
}

// openRuntime returns the CDI library's view of dir, which is that of a container runtime.
func openRuntime(t testing.TB, dir string) *cdilib.Cache {
	t.Helper()
	cache, err := cdilib.NewCache(cdilib.WithSpecDirs(dir), cdilib.WithAutoRefresh(false))
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

func TestCDIInjectsWhatAllocateReturns(t *testing.T) {
	dir, specs, h := kubeletDir(t), filepath.Join(t.TempDir(), "run/cdi"), newFakePlugin() // specs does not exist
	k := startKubelet(t, dir)
	run(t, dir, h, WithCDI(specs, "vf"))
	h.publish(with(t, nil, "yellow", existing("0000:6b:00.1")))
	waitIDs(t, k, yellow, "0000:6b:00.1")

	answer, err := k.Allocate(t.Context(), yellow, []string{"0000:6b:00.1"})
	if err != nil {
		t.Fatal(err)
	}
	got := answer.ContainerResponses[0]
	if len(got.CdiDevices) != 1 || got.CdiDevices[0].Name != namespace+"/vf=0000:6b:00.1" {
		t.Fatalf("CDI devices %v", got.CdiDevices)
	}
	container := &oci.Spec{}
	if _, err := openRuntime(t, specs).InjectDevices(container, got.CdiDevices[0].Name); err != nil {
		t.Fatal(err)
	}
	var nodes, wantNodes []string
	for i, n := range container.Linux.Devices {
		nodes = append(nodes, n.Path+" "+container.Linux.Resources.Devices[i].Access)
	}
	for _, n := range got.Devices {
		wantNodes = append(wantNodes, n.ContainerPath+" "+n.Permissions)
	}
	if diff := cmp.Diff(wantNodes, nodes); diff != "" || len(nodes) != 2 {
		t.Errorf("nodes of Allocate, and of CDI (-want +got):\n%s", diff)
	}
	if d := container.Linux.Devices[0]; d.Major != 1 || d.Minor != 5 {
		t.Errorf("the node is %d:%d, want that of the host path, /dev/zero", d.Major, d.Minor)
	}
	wantMount := oci.Mount{Source: "/tmp", Destination: "/paint", Options: []string{"rbind", "rprivate", "ro"}}
	if diff := cmp.Diff([]oci.Mount{wantMount}, container.Mounts); diff != "" || len(got.Mounts) != 1 {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	wantEnv := []string{"A_POT=full", "PAINT=yellow"}
	if diff := cmp.Diff(wantEnv, container.Process.Env); diff != "" || len(got.Envs) != 2 {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

// A runtime may apply CDI specs after the kubelet's answer. A spec that differs from the edits of
// the plugin would undo them.
func TestPluginEditsOverrideCDISpecs(t *testing.T) {
	setBlue := func(edits *devtree.ContainerEdits) { edits.Env["PAINT"] = "blue" }
	for _, tt := range []struct {
		name      string
		change    func(edits *devtree.ContainerEdits)
		wantNames []string // IDs in the remaining CDI names
	}{
		{"nothing", func(*devtree.ContainerEdits) {}, []string{"1", "2"}},
		{"adds", func(e *devtree.ContainerEdits) { e.Env["BRUSH"] = "thin" }, []string{"1", "2"}},
		{"overwrites a variable", setBlue, nil},
		{"removes a variable", func(e *devtree.ContainerEdits) { delete(e.Env, "PAINT") }, nil},
		{"removes a mount", func(e *devtree.ContainerEdits) { e.Mounts = nil }, nil},
		{"removes a node", func(e *devtree.ContainerEdits) { e.DeviceNodes = e.DeviceNodes[1:] }, []string{"2"}},
		{"moves a node", func(e *devtree.ContainerEdits) { e.DeviceNodes[0].ContainerPath = "/dev/x" }, []string{"2"}},
		{"removes the names", func(e *devtree.ContainerEdits) { e.CDINames = nil }, nil},
	} {
		for _, by := range []string{"Allocate", "PostAllocate"} {
			t.Run(tt.name+" in "+by, func(t *testing.T) {
				dir, specs, h := kubeletDir(t), t.TempDir(), newFakePlugin()
				plugin := &fullPlugin{fakePlugin: h}
				var want devtree.ContainerEdits // what the plugin decides
				plugin.allocate = func(_ string, devices []*devtree.Device) (*devtree.ContainerEdits, error) {
					if by != "Allocate" {
						return nil, ErrUseDefault
					}
					edits := &devtree.ContainerEdits{}
					for _, d := range devices {
						edits.Merge(&d.ContainerEdits)
					}
					tt.change(edits)
					return edits, nil
				}
				plugin.post = func(_ []*devtree.Device, edits *devtree.ContainerEdits) error {
					if by == "PostAllocate" {
						tt.change(edits)
					}
					want.Merge(edits)
					return nil
				}
				k := startKubelet(t, dir)
				run(t, dir, plugin, WithCDI(specs, "vf"))
				h.publish(with(t, with(t, nil, "yellow", existing("1")), "yellow", existing("2")))
				waitIDs(t, k, yellow, "1", "2")
				answer, err := k.Allocate(t.Context(), yellow, []string{"1", "2"})
				if err != nil {
					t.Fatal(err)
				}
				got := answer.ContainerResponses[0]
				var names, wantNames []string
				for _, d := range got.CdiDevices {
					names = append(names, d.Name)
				}
				for _, id := range tt.wantNames {
					wantNames = append(wantNames, namespace+"/vf="+id)
				}
				if diff := cmp.Diff(wantNames, names); diff != "" {
					t.Errorf("CDI names (-want +got):\n%s", diff)
				}
				requireContainer(t, openRuntime(t, specs), got, &want)
			})
		}
	}
}

// requireContainer checks that a container has the nodes, mounts and environment of want. The
// container is created as a runtime does, from the kubelet's answer and the specs.
func requireContainer(
	t *testing.T, specs *cdilib.Cache, answer *pluginapi.ContainerAllocateResponse, want *devtree.ContainerEdits,
) {
	t.Helper()
	container := &oci.Spec{Process: &oci.Process{}, Linux: &oci.Linux{}}
	for name, value := range answer.Envs {
		container.Process.Env = append(container.Process.Env, name+"="+value)
	}
	for _, n := range answer.Devices {
		container.Linux.Devices = append(container.Linux.Devices, oci.LinuxDevice{Path: n.ContainerPath})
	}
	for _, m := range answer.Mounts {
		container.Mounts = append(container.Mounts, oci.Mount{Source: m.HostPath, Destination: m.ContainerPath})
	}
	var names []string
	for _, d := range answer.CdiDevices {
		names = append(names, d.Name)
	}
	if _, err := specs.InjectDevices(container, names...); err != nil {
		t.Fatal(err)
	}
	got, wanted := map[string]bool{}, map[string]bool{}
	for _, v := range container.Process.Env {
		got["variable "+v] = true
	}
	for _, n := range container.Linux.Devices {
		got["node "+n.Path] = true
	}
	for _, m := range container.Mounts {
		got["mount "+m.Source+" "+m.Destination] = true
	}
	for name, value := range want.Env {
		wanted["variable "+name+"="+value] = true
	}
	for _, n := range want.DeviceNodes {
		wanted["node "+n.ContainerPath] = true
	}
	for _, m := range want.Mounts {
		wanted["mount "+m.HostPath+" "+m.ContainerPath] = true
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("the container has (-want +got):\n%s", diff)
	}
}

func TestKubeletLearnsOfADeviceAfterItsSpecIsOnDisk(t *testing.T) {
	dir, specs, h := kubeletDir(t), t.TempDir(), newFakePlugin()
	var removing atomic.Bool // a spec may be removed while the list before is being checked
	k := startKubelet(t, dir, kubelettest.OnList(func(l kubelettest.List) {
		onDisk := openRuntime(t, specs).ListDevices()
		missing := func(d *pluginapi.Device) bool { return !slices.Contains(onDisk, namespace+"/vf="+d.ID) }
		if i := slices.IndexFunc(l.Devices, missing); i >= 0 && !removing.Load() {
			t.Errorf("the kubelet's list has %s, and its spec is not on disk", l.Devices[i].ID)
		}
	}))
	run(t, dir, h, WithCDI(specs, "vf"))
	now := &devtree.Tree{}
	for i := range 50 {
		id := strconv.Itoa(i)
		now = with(t, now, "yellow", existing(id))
		h.publish(now)
		waitList(t, k, yellow, id, func(l kubelettest.List) bool { return l.Health(id) != "" })
	}
	removing.Store(true)
	h.publish(tree(t, now, "yellow"))
	waitIDs(t, k, yellow)
	eventually(t, "the file is removed with its last device", func() bool {
		entries, err := os.ReadDir(specs)
		return err == nil && len(entries) == 0
	})
}

func TestRunWaitsForTheWriterOfSpecs(t *testing.T) {
	writing := func() bool {
		var stacks strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(stacks.String(), "cdi.(*syncer).sync")
	}
	many := new(devtree.Tree).Edit()
	for i := range 20_000 { // takes a while to write
		put(t, many, "yellow", device(fmt.Sprintf("%05d", i)))
	}
	h := newFakePlugin()
	r := run(t, kubeletDir(t), h, WithCDI(t.TempDir(), "vf"))
	h.publish(many.Build())
	eventually(t, "the specs are being written", writing)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if writing() {
		t.Error("specs are being written after Run has returned")
	}
}

func TestSpecsStayWhenRunReturns(t *testing.T) {
	dir, specs, h := kubeletDir(t), t.TempDir(), newFakePlugin()
	k := startKubelet(t, dir)
	r := run(t, dir, h, WithCDI(specs, ""))
	h.publish(with(t, nil, "yellow", existing("1")))
	waitIDs(t, k, yellow, "1")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{namespace + "/yellow=1"}, openRuntime(t, specs).ListDevices()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRunRefusesNamesThatCDIDoesNotAllow(t *testing.T) {
	m := NewManager(namespace, newFakePlugin(), WithKubeletDir(kubeletDir(t)), WithCDI(t.TempDir(), "v f"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // a Run that accepts the name returns at once
	if err := m.Run(ctx); err == nil || !strings.Contains(err.Error(), `CDI class "v f"`) {
		t.Errorf("Run = %v", err)
	}
}
