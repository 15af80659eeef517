// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

// startAllocating returns a kubelet that has the healthy devices 1, 2 and 3 of the plugin
// and the unhealthy 4.
func startAllocating(t *testing.T, plugin Plugin, p *fakePlugin) (*kubelettest.Kubelet, *runningManager) {
	t.Helper()
	dir := kubeletDir(t)
	k := startKubelet(t, dir)
	r := run(t, dir, plugin)
	b := tree(t, nil, "yellow", "2", "3").Edit()
	one := device("1")
	one.Env = map[string]string{"COLOR": "one", "ONE": "1"}
	one.Annotations = map[string]string{"color.example.com/one": "yes"}
	one.Mounts = []devtree.Mount{{HostPath: "/opt/color", ContainerPath: "/color", ReadOnly: true}}
	one.CDINames = []string{"color.example.com/yellow=1"}
	put(t, b, "yellow", one)
	put(t, b, "yellow", unhealthy("4", "on fire"))
	p.publish(b.Build())
	waitIDs(t, k, yellow, "1", "2", "3", "4")
	return k, r
}

func deviceSpec(name string) *pluginapi.DeviceSpec {
	return &pluginapi.DeviceSpec{HostPath: "/dev/color/" + name, ContainerPath: "/dev/color/" + name, Permissions: "rw"}
}

func TestAllocateMergesDeviceEditsInRequestOrder(t *testing.T) {
	p := newFakePlugin()
	k, r := startAllocating(t, p, p)
	got, err := k.Allocate(t.Context(), yellow, []string{"3", "1"}, []string{"2"})
	if err != nil {
		t.Fatal(err)
	}
	want := &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{
		{
			Devices:     []*pluginapi.DeviceSpec{deviceSpec("3"), deviceSpec("all"), deviceSpec("1")},
			Envs:        map[string]string{"COLOR": "one", "ONE": "1"},
			Annotations: map[string]string{"color.example.com/one": "yes"},
			Mounts:      []*pluginapi.Mount{{HostPath: "/opt/color", ContainerPath: "/color", ReadOnly: true}},
			CdiDevices:  []*pluginapi.CDIDevice{{Name: "color.example.com/yellow=1"}},
		},
		{Devices: []*pluginapi.DeviceSpec{deviceSpec("2"), deviceSpec("all")}},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("Allocate (-want +got):\n%s", diff)
	}
	for _, line := range []string{`"Allocated" "resource"="` + yellow + `" "devices"=["3" "1"]`, `"devices"=["2"]`} {
		if r.log.count(line) != 1 {
			t.Errorf("the log lacks %s:\n%s", line, r.log)
		}
	}
}

func TestAllocateFailsAsAWhole(t *testing.T) {
	for _, tt := range []struct {
		name       string
		containers [][]string
		code       codes.Code
		want       []string // parts of the error
	}{
		{"unknown device", [][]string{{"9"}}, codes.NotFound, []string{`"9"`, yellow}},
		{"unhealthy device", [][]string{{"4"}}, codes.FailedPrecondition, []string{`"4"`, "on fire"}},
		{"one unknown device", [][]string{{"1", "9"}}, codes.NotFound, []string{`"9"`}},
		{
			"unhealthy device in second container", [][]string{{"1"}, {"2", "4"}},
			codes.FailedPrecondition, []string{`"4"`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newFakePlugin()
			plugin := &fullPlugin{fakePlugin: p}
			plugin.allocate = func(string, []*devtree.Device) (*devtree.ContainerEdits, error) {
				t.Error("the plugin's Allocate was called for a part of a request that must fail")
				return nil, nil
			}
			k, r := startAllocating(t, plugin, p)
			got, err := k.Allocate(t.Context(), yellow, tt.containers...)
			if status.Code(err) != tt.code {
				t.Errorf("Allocate = %v, %v, want code %s", got, err, tt.code)
			}
			for _, part := range tt.want {
				if !strings.Contains(fmt.Sprint(err), part) {
					t.Errorf("error %q does not contain %s", err, part)
				}
			}
			if r.log.count("Call failed") != 1 {
				t.Errorf("the failure is not logged:\n%s", r.log)
			}
		})
	}
}

func TestAllocateUsesNewestTree(t *testing.T) {
	p := newFakePlugin()
	k, _ := startAllocating(t, p, p)
	p.publish(tree(t, nil, "yellow", "new")) // the kubelet may not have it yet
	if _, err := k.Allocate(t.Context(), yellow, []string{"1"}); status.Code(err) != codes.NotFound {
		t.Errorf("Allocate of a removed device = %v, want NotFound", err)
	}
	if _, err := k.Allocate(t.Context(), yellow, []string{"new"}); err != nil {
		t.Errorf("Allocate of a new device = %v", err)
	}
}

func TestAllocatorAndPostAllocator(t *testing.T) {
	type allocateFunc = func(string, []*devtree.Device) (*devtree.ContainerEdits, error)
	returns := func(edits *devtree.ContainerEdits, err error) allocateFunc {
		return func(string, []*devtree.Device) (*devtree.ContainerEdits, error) { return edits, err }
	}
	failAfterwards := func(err error) func([]*devtree.Device, *devtree.ContainerEdits) error {
		return func([]*devtree.Device, *devtree.ContainerEdits) error { return err }
	}
	own := &devtree.ContainerEdits{Env: map[string]string{"MINE": "1"}}
	defaults := &pluginapi.ContainerAllocateResponse{
		Devices: []*pluginapi.DeviceSpec{deviceSpec("3"), deviceSpec("all"), deviceSpec("2")},
	}
	for _, tt := range []struct {
		name     string
		allocate allocateFunc
		post     func([]*devtree.Device, *devtree.ContainerEdits) error
		want     *pluginapi.ContainerAllocateResponse
		code     codes.Code
		wantErr  string
	}{
		{
			name:     "ErrUseDefault selects the default",
			allocate: returns(nil, fmt.Errorf("nothing special: %w", ErrUseDefault)),
			want:     defaults,
		},
		{
			name:     "nil selects the default",
			allocate: returns(nil, nil),
			want:     defaults,
		},
		{
			name: "own edits replace the default",
			allocate: func(resource string, devices []*devtree.Device) (*devtree.ContainerEdits, error) {
				if ids := deviceIDs(devices); resource != "yellow" || !slices.Equal(ids, []string{"3", "2"}) {
					return nil, fmt.Errorf("called for %q of %q", ids, resource)
				}
				return own, nil
			},
			want: &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"MINE": "1"}},
		},
		{
			name:     "PostAllocate modifies the default",
			allocate: returns(nil, ErrUseDefault),
			post: func(devices []*devtree.Device, edits *devtree.ContainerEdits) error {
				edits.Annotations["order"] = strings.Join(deviceIDs(devices), ",")
				edits.Env["QAT0"] = devices[0].ID
				edits.DeviceNodes = edits.DeviceNodes[:1]
				return nil
			},
			want: &pluginapi.ContainerAllocateResponse{
				Annotations: map[string]string{"order": "3,2"},
				Envs:        map[string]string{"QAT0": "3"},
				Devices:     []*pluginapi.DeviceSpec{deviceSpec("3")},
			},
		},
		{
			name:     "PostAllocate does not modify the Allocator's own edits",
			allocate: returns(own, nil),
			post: func(_ []*devtree.Device, edits *devtree.ContainerEdits) error {
				edits.Env["MORE"] = "2"
				return nil
			},
			want: &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"MINE": "1", "MORE": "2"}},
		},
		{
			name: "modified arguments are not seen elsewhere",
			allocate: func(_ string, devices []*devtree.Device) (*devtree.ContainerEdits, error) {
				slices.Reverse(devices)
				return nil, ErrUseDefault
			},
			post: func(devices []*devtree.Device, edits *devtree.ContainerEdits) error {
				edits.Annotations["order"] = strings.Join(deviceIDs(devices), ",")
				slices.Reverse(devices)
				return nil
			},
			want: &pluginapi.ContainerAllocateResponse{
				Annotations: map[string]string{"order": "3,2"},
				Devices:     defaults.Devices,
			},
		},
		{
			name:     "plain error",
			allocate: returns(nil, errors.New("out of paint")),
			code:     codes.Unknown,
			wantErr:  "Allocate for color.example.com/yellow: out of paint",
		},
		{
			name:     "ErrGone",
			allocate: returns(nil, ErrUseDefault),
			post:     failAfterwards(fmt.Errorf("paint: %w", devtree.ErrGone)),
			code:     codes.NotFound,
			wantErr:  "Allocate for color.example.com/yellow: paint: the device has gone",
		},
		{
			name:     "ErrUnfit",
			allocate: returns(nil, ErrUseDefault),
			post:     failAfterwards(fmt.Errorf("%w: dried", devtree.ErrUnfit)),
			code:     codes.FailedPrecondition,
			wantErr:  "Allocate for color.example.com/yellow: the device cannot be used: dried",
		},
		{
			name:     "gRPC status",
			allocate: returns(nil, status.Error(codes.ResourceExhausted, "out of paint")),
			code:     codes.ResourceExhausted,
			wantErr:  "Allocate for color.example.com/yellow: out of paint",
		},
		{
			name:     "deadline exceeded",
			allocate: returns(nil, ErrUseDefault),
			post:     failAfterwards(context.DeadlineExceeded),
			code:     codes.DeadlineExceeded,
		},
		{
			name:     "canceled",
			allocate: returns(nil, fmt.Errorf("ask the shop: %w", context.Canceled)),
			code:     codes.Canceled,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newFakePlugin()
			k, _ := startAllocating(t, &fullPlugin{fakePlugin: p, allocate: tt.allocate, post: tt.post}, p)
			for range 2 { // the first call must not affect the second
				got, err := k.Allocate(t.Context(), yellow, []string{"3", "2"})
				if status.Code(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.wantErr) {
					t.Fatalf("Allocate = %v, want code %s and %q", err, tt.code, tt.wantErr)
				}
				if err != nil {
					continue
				}
				want := &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{tt.want}}
				if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
					t.Errorf("Allocate (-want +got):\n%s", diff)
				}
			}
			if diff := cmp.Diff(map[string]string{"MINE": "1"}, own.Env); diff != "" {
				t.Errorf("the plugin's edits were modified (-want +got):\n%s", diff)
			}
		})
	}
}

// Without validation, the codec of gRPC rejects invalid UTF-8 with an error that names neither the
// device nor the string. A runtime rejects the other edits that devtree does not allow.
func TestInvalidEditsOfThePluginFailTheRequest(t *testing.T) {
	for _, tt := range []struct {
		name    string
		edits   devtree.ContainerEdits
		wantErr string
	}{
		{
			"environment", devtree.ContainerEdits{Env: map[string]string{"A": "\xff"}},
			`value "\xff" of environment variable "A" is not valid UTF-8`,
		},
		{
			"mount", devtree.ContainerEdits{Mounts: []devtree.Mount{{HostPath: "/a\x00", ContainerPath: "/a"}}},
			`mount "/a\x00" to "/a": host path contains a NUL byte`,
		},
		{
			"CDI name", devtree.ContainerEdits{CDINames: []string{"yellow=1"}},
			`invalid CDI device name "yellow=1": must have the form vendor/class=name`,
		},
	} {
		for _, by := range []string{"Allocate", "PostAllocate"} {
			t.Run(tt.name+" of "+by, func(t *testing.T) {
				p := newFakePlugin()
				plugin := &fullPlugin{fakePlugin: p}
				plugin.allocate = func(string, []*devtree.Device) (*devtree.ContainerEdits, error) {
					if by == "Allocate" {
						return &tt.edits, nil
					}
					return nil, ErrUseDefault
				}
				plugin.post = func(_ []*devtree.Device, edits *devtree.ContainerEdits) error {
					if by == "PostAllocate" {
						edits.Merge(&tt.edits)
					}
					return nil
				}
				k, _ := startAllocating(t, plugin, p)
				_, err := k.Allocate(t.Context(), yellow, []string{"3", "2"})
				want := "Allocate for " + yellow + `: invalid edits of the plugin for devices ["3" "2"]: ` + tt.wantErr
				if s, _ := status.FromError(err); s.Code() != codes.Unknown || s.Message() != want {
					t.Errorf("Allocate =\n%v, want code Unknown and\n%s", err, want)
				}
			})
		}
	}
}

func TestOptionsReflectOptionalInterfaces(t *testing.T) {
	for _, tt := range []struct {
		name   string
		plugin func(*fakePlugin) Plugin
		want   *pluginapi.DevicePluginOptions
	}{
		{"none", func(p *fakePlugin) Plugin { return p }, &pluginapi.DevicePluginOptions{}},
		{
			"all", func(p *fakePlugin) Plugin { return &fullPlugin{fakePlugin: p} },
			&pluginapi.DevicePluginOptions{PreStartRequired: true, GetPreferredAllocationAvailable: true},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, p := kubeletDir(t), newFakePlugin()
			options := make(chan *pluginapi.DevicePluginOptions, 1)
			onRegister := func(_ context.Context, r *pluginapi.RegisterRequest) error {
				options <- r.Options
				return nil
			}
			k := startKubelet(t, dir, kubelettest.OnRegister(onRegister))
			run(t, dir, tt.plugin(p))
			p.publish(tree(t, nil, "yellow", "1"))
			waitIDs(t, k, yellow, "1")
			if diff := cmp.Diff(tt.want, <-options, protocmp.Transform()); diff != "" {
				t.Errorf("Register (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, k.Options(yellow), protocmp.Transform()); diff != "" {
				t.Errorf("GetDevicePluginOptions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCallsOfMissingInterfacesAreUnimplemented(t *testing.T) {
	p := newFakePlugin()
	k, _ := startAllocating(t, p, p)
	_, err := k.GetPreferredAllocation(t.Context(), yellow, []string{"1"}, nil, 1)
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("GetPreferredAllocation = %v, want Unimplemented", err)
	}
	if err := k.PreStartContainer(t.Context(), yellow, []string{"1"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("PreStartContainer = %v, want Unimplemented", err)
	}
}

func TestPreferredAllocation(t *testing.T) {
	for _, tt := range []struct {
		name            string
		available, must []string
		size            int
		offered         []string // available devices that the plugin gets
		chosen          []string
		err             error
		want            []string
		code            codes.Code
		logged          string
	}{
		{
			name:      "choice is returned",
			available: []string{"1", "2", "3"},
			must:      []string{"2"},
			size:      2,
			offered:   []string{"1", "2", "3"},
			chosen:    []string{"2", "3"},
			want:      []string{"2", "3"},
		},
		{
			name:      "missing and unhealthy devices are not offered",
			available: []string{"9", "1", "4"},
			size:      1,
			offered:   []string{"1"},
			chosen:    []string{"1"},
			want:      []string{"1"},
		},
		{
			name:      "empty choice is no preference",
			available: []string{"1", "2"},
			must:      []string{"2"},
			size:      1,
			offered:   []string{"1", "2"},
		},
		{
			name:      "ErrUseDefault is no preference",
			available: []string{"1", "2"},
			must:      []string{"2"},
			size:      1,
			offered:   []string{"1", "2"},
			chosen:    []string{"2"},
			err:       fmt.Errorf("all alike: %w", ErrUseDefault),
		},
		{
			name:      "choice without a device that must be included",
			available: []string{"1", "2"},
			must:      []string{"2"},
			size:      1,
			offered:   []string{"1", "2"},
			chosen:    []string{"1"},
			logged:    `device \"2\" must be included`,
		},
		{
			name:      "choice that is not available",
			available: []string{"1"},
			size:      1,
			offered:   []string{"1"},
			chosen:    []string{"3"},
			logged:    `device \"3\" chosen but not available`,
		},
		{
			name:      "duplicate choice",
			available: []string{"1"},
			size:      2,
			offered:   []string{"1"},
			chosen:    []string{"1", "1"},
			logged:    `device \"1\" chosen twice`,
		},
		{
			name:      "too many devices",
			available: []string{"1", "2"},
			size:      1,
			offered:   []string{"1", "2"},
			chosen:    []string{"1", "2"},
			logged:    "2 devices chosen, 1 requested",
		},
		{
			name:      "unknown device that must be included",
			available: []string{"1"},
			must:      []string{"9"},
			size:      1,
			code:      codes.NotFound,
			logged:    `unknown device \"9\"`,
		},
		{
			name:      "plugin error",
			available: []string{"1"},
			size:      1,
			offered:   []string{"1"},
			err:       errors.New("no"),
			code:      codes.Unknown,
			logged:    "GetPreferredAllocation for " + yellow + ": no",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newFakePlugin()
			plugin := &fullPlugin{fakePlugin: p, prefer: func(available, must []string, size int) ([]string, error) {
				if !slices.Equal(available, tt.offered) || !slices.Equal(must, tt.must) || size != tt.size {
					t.Errorf("the plugin got %q, %q, %d, want %q, %q, %d",
						available, must, size, tt.offered, tt.must, tt.size)
				}
				return tt.chosen, tt.err
			}}
			k, r := startAllocating(t, plugin, p)
			got, err := k.GetPreferredAllocation(t.Context(), yellow, tt.available, tt.must, tt.size)
			if status.Code(err) != tt.code || !slices.Equal(got, tt.want) {
				t.Errorf("GetPreferredAllocation = %q, %v, want %q, code %s", got, err, tt.want, tt.code)
			}
			logged, want := r.log.count(`"error"`), 0
			if tt.logged != "" {
				logged, want = r.log.count(tt.logged), 1
			}
			if logged != want {
				t.Errorf("%d log lines with %q, want %d:\n%s", logged, tt.logged, want, r.log)
			}
		})
	}
}

func TestPreStartContainer(t *testing.T) {
	p := newFakePlugin()
	var started []string
	var refusal error
	k, _ := startAllocating(t, &fullPlugin{fakePlugin: p, preStart: func(devices []string) error {
		started = devices
		return refusal
	}}, p)
	ids := []string{"2", "1"}
	if err := k.PreStartContainer(t.Context(), yellow, ids); err != nil || !slices.Equal(started, ids) {
		t.Errorf("PreStartContainer for 2 and 1 = %v, the plugin got %q", err, started)
	}
	if err := k.PreStartContainer(t.Context(), yellow, []string{"9"}); status.Code(err) != codes.NotFound {
		t.Errorf("PreStartContainer for an unknown device = %v, want NotFound", err)
	}
	refusal = errors.New("brush is dirty")
	err := k.PreStartContainer(t.Context(), yellow, []string{"1"})
	if !strings.Contains(fmt.Sprint(err), "brush is dirty") {
		t.Errorf("PreStartContainer = %v, want the plugin's error", err)
	}
}
