// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	dracel "k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
)

var draExamples = []string{"dra-one-vf", "dra-same-pf", "dra-same-numa-node", "dra-prioritized", "dra-admin"}

// classLister has the classes that the deployment installs.
type classLister []resourcev1.DeviceClass

// List implements [structured.DeviceClassLister].
func (l classLister) List() (all []*resourcev1.DeviceClass, err error) {
	for i := range l {
		all = append(all, &l[i])
	}
	return all, nil
}

// Get implements [structured.DeviceClassLister].
func (l classLister) Get(name string) (*resourcev1.DeviceClass, error) {
	for i := range l {
		if l[i].Name == name {
			return &l[i], nil
		}
	}
	return nil, fmt.Errorf("no class %s", name)
}

// allocate allocates a claim with the scheduler's own code on the node of the slices. It returns
// the requests of the claim with the devices that they get; nil if there are not enough. taken are
// the names of the devices that other claims have.
func allocate(
	t *testing.T, spec resourcev1.ResourceClaimSpec, published []*resourcev1.ResourceSlice, taken ...string,
) map[string][]resourcev1.Device {
	t.Helper()
	features := structured.Features{
		AdminAccess:        true,
		ConsumableCapacity: true,
		DeviceTaints:       true,
		PrioritizedList:    true,
	}
	devices := map[string]resourcev1.Device{}
	for _, s := range published {
		for _, d := range s.Spec.Devices {
			devices[d.Name] = d
		}
	}
	state := structured.AllocatedState{
		AllocatedDevices:         sets.New[structured.DeviceID](),
		AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity:       structured.NewConsumedCapacityCollection(),
	}
	for _, name := range taken {
		state.AllocatedDevices.Insert(structured.MakeDeviceID(driverName, published[0].Spec.Pool.Name, name))
	}
	allocator, err := structured.NewAllocator(t.Context(), features, state, classLister(dra(t).classes),
		published, dracel.NewCache(100, dracel.Features{EnableConsumableCapacity: true}))
	must(t, err)
	node := &corev1.Node{}
	node.Name = *published[0].Spec.NodeName
	claim := &resourcev1.ResourceClaim{Spec: *spec.DeepCopy()}
	setDefaults(claim)
	claim.Name = "claim"
	results, err := allocator.Allocate(t.Context(), node, []*resourcev1.ResourceClaim{claim})
	if err != nil {
		t.Fatalf("allocate: %v", err)
	}
	if len(results) == 0 {
		return nil
	}
	got := map[string][]resourcev1.Device{}
	for _, r := range results[0].Devices.Results {
		got[r.Request] = append(got[r.Request], devices[r.Device])
	}
	return got
}

// setDefaults does what the API server does (k8s.io/kubernetes/pkg/apis/resource/v1/defaults.go).
func setDefaults(claim *resourcev1.ResourceClaim) {
	complete := func(mode *resourcev1.DeviceAllocationMode, count *int64) {
		if *mode == "" {
			*mode = resourcev1.DeviceAllocationModeExactCount
		}
		if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
			*count = 1
		}
	}
	for i := range claim.Spec.Devices.Requests {
		r := &claim.Spec.Devices.Requests[i]
		if r.Exactly != nil {
			complete(&r.Exactly.AllocationMode, &r.Exactly.Count)
		}
		for j := range r.FirstAvailable {
			complete(&r.FirstAvailable[j].AllocationMode, &r.FirstAvailable[j].Count)
		}
	}
}

// example returns the claim and the pod of an example.
func example(t *testing.T, name string) (resourcev1.ResourceClaimSpec, *corev1.Pod) {
	t.Helper()
	got := decode(t, kustomize(t, manifests+"/"+others[name]))
	if len(got.templates) != 1 || len(got.pods) != 1 {
		t.Fatalf("%s is not one template and one pod", name)
	}
	pod := &got.pods[0]
	claims, used := pod.Spec.ResourceClaims, pod.Spec.Containers[0].Resources.Claims
	if len(claims) != 1 || *claims[0].ResourceClaimTemplateName != got.templates[0].Name ||
		len(used) != 1 || used[0].Name != claims[0].Name {
		t.Errorf("the pod has the claims %v, and its container uses %v", claims, used)
	}
	return got.templates[0].Spec.Spec, pod
}

// values returns an attribute of the devices of all requests, without repetitions, sorted.
func values(allocated map[string][]resourcev1.Device, attribute resourcev1.QualifiedName) []string {
	all := []string{}
	for _, devices := range allocated {
		for _, d := range devices {
			switch a := d.Attributes[attribute]; {
			case a.StringValue != nil:
				all = append(all, *a.StringValue)
			case a.IntValue != nil:
				all = append(all, fmt.Sprint(*a.IntValue))
			case a.BoolValue != nil:
				all = append(all, fmt.Sprint(*a.BoolValue))
			default:
				all = append(all, "none")
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestDRAExamples allocates the claims of the examples on a host with all kinds of PFs.
func TestDRAExamples(t *testing.T) {
	all := publishedSlices(t)
	var names []string
	for _, s := range all {
		for _, d := range s.Spec.Devices {
			names = append(names, d.Name)
		}
	}
	sizes := func(allocated map[string][]resourcev1.Device) map[string]int {
		n := map[string]int{}
		for request, devices := range allocated {
			n[request] = len(devices)
		}
		return n
	}
	check := func(t *testing.T, allocated map[string][]resourcev1.Device, attribute string, want ...string) {
		t.Helper()
		if got := values(allocated, resourcev1.QualifiedName(attribute)); !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", attribute, got, want)
		}
	}
	for _, name := range draExamples {
		spec, pod := example(t, name)
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(violations{}, violationsOf(t, &pod.Spec)); diff != "" {
				t.Errorf("Pod Security violations (-want +got):\n%s", diff)
			}
			var taken []string
			if name == "dra-admin" {
				taken = names
			}
			got := allocate(t, spec, all, taken...)
			want := map[string]int{}
			switch name {
			case "dra-one-vf":
				want["vf"] = 1
				check(t, got, "sym", "true")
				check(t, got, "dc", "true")
			case "dra-same-pf":
				want["vfs"] = 2
				if pfs := values(got, "pfAddress"); len(pfs) != 1 || pfs[0] == "none" {
					t.Errorf("the VFs are of the PFs %q, want one", pfs)
				}
			case "dra-same-numa-node":
				want["crypto"], want["compression"] = 1, 1
				check(t, got, "resource", "cy", "dc")
				if nodes := values(got, "resource.kubernetes.io/numaNode"); len(nodes) != 1 || nodes[0] == "none" {
					t.Errorf("the VFs are of the NUMA nodes %q, want one", nodes)
				}
			case "dra-prioritized":
				want["vf/gen6"] = 1
				check(t, got, "family", "6xxx")
				without := allocate(t, spec, all, namesOf(all, "6xxx")...)
				check(t, without, "family", "4xxx")
			case "dra-admin":
				pfs := len(values(map[string][]resourcev1.Device{"": slices.Concat(devicesOf(all)...)}, "pfAddress"))
				want["all"] = pfs // one of each PF, and the VF without a PF
				if n := len(values(got, "pfAddress")); n != pfs {
					t.Errorf("the VFs are of %d PFs, want %d", n, pfs)
				}
			}
			if diff := cmp.Diff(want, sizes(got)); diff != "" {
				t.Errorf("devices by request (-want +got):\n%s", diff)
			}
			if name != "dra-admin" && allocate(t, spec, all, names...) != nil {
				t.Error("the claim gets devices of other claims")
			}
		})
	}
}

// TestDRAExamplesPrintTheirVFs runs the pods' commands in a real shell, with the variables that the
// driver sets for two VFs, and a stand-in for sleep.
func TestDRAExamplesPrintTheirVFs(t *testing.T) {
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "sleep"), []byte("#!/bin/sh\n"), 0o700))
	vfs := []string{
		"QAT0=0000:6b:00.1", "QAT1=0000:6b:00.2", "QAT_0000_6b_00_1=0000:6b:00.1", "QAT_0000_6b_00_2=0000:6b:00.2",
	}
	for _, name := range draExamples {
		_, pod := example(t, name)
		command := pod.Spec.Containers[0].Command
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		cmd.Env = append([]string{"PATH=" + bin + ":" + os.Getenv("PATH"), "LC_ALL=C"}, vfs...)
		out, err := cmd.CombinedOutput()
		if want := strings.Join(vfs, "\n") + "\n"; err != nil || string(out) != want {
			t.Errorf("%s prints %q (%v), want %q", name, out, err, want)
		}
	}
}

func devicesOf(published []*resourcev1.ResourceSlice) (all [][]resourcev1.Device) {
	for _, s := range published {
		all = append(all, s.Spec.Devices)
	}
	return all
}

// namesOf returns the names of the devices of a family.
func namesOf(published []*resourcev1.ResourceSlice, family string) (names []string) {
	for _, d := range slices.Concat(devicesOf(published)...) {
		if *d.Attributes["family"].StringValue == family {
			names = append(names, d.Name)
		}
	}
	return names
}

// TestSampleRunsThroughDRA: the pods for the device plugin request a resource of which there is a
// class, so that they run unchanged. The scheduler makes a claim for them
// (k8s.io/kubernetes/pkg/scheduler/framework/plugins/dynamicresources/extended).
func TestSampleRunsThroughDRA(t *testing.T) {
	published := publishedSlices(t)
	for _, name := range []string{"sample", "crypto-perf", "compress-perf", "qatlib"} {
		for resource, count := range workload(t, name).Spec.Containers[0].Resources.Limits {
			if !strings.HasPrefix(string(resource), driverName+"/") {
				continue
			}
			i := slices.IndexFunc(dra(t).classes, func(c resourcev1.DeviceClass) bool {
				return c.Spec.ExtendedResourceName != nil && *c.Spec.ExtendedResourceName == string(resource)
			})
			if i < 0 {
				t.Errorf("%s: no class for %s", name, resource)
				continue
			}
			request := resourcev1.DeviceRequest{
				Name: "container-0-request-0",
				Exactly: &resourcev1.ExactDeviceRequest{
					DeviceClassName: dra(t).classes[i].Name,
					Count:           count.Value(),
				},
			}
			claim := resourcev1.ResourceClaimSpec{
				Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{request}},
			}
			got := values(allocate(t, claim, published), "resource")
			if want := strings.TrimPrefix(string(resource), driverName+"/"); !slices.Equal(got, []string{want}) {
				t.Errorf("%s gets a device of %q, want %s", name, got, want)
			}
		}
	}
}
