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

// palette is a Plugin with all optional interfaces; a nil function is one that the test does not expect.
type palette struct {
	*hand
	allocate func(resource string, devices []string) (*devtree.ContainerEdits, error)
	post     func(devices []string, edits *devtree.ContainerEdits) error
	prefer   func(available, must []string, size int) ([]string, error)
	offered  bool
	preStart func(devices []string) error
}

func ids(devices []*devtree.Device) []string {
	var out []string
	for _, d := range devices {
		out = append(out, d.ID)
	}
	return out
}

func (p *palette) Allocate(_ context.Context, resource string, devices []*devtree.Device) (*devtree.ContainerEdits, error) {
	return p.allocate(resource, ids(devices))
}

func (p *palette) PostAllocate(_ context.Context, _ string, devices []*devtree.Device, edits *devtree.ContainerEdits) error {
	return p.post(ids(devices), edits)
}

func (p *palette) PreferredAllocation(_ context.Context, _ string, available, must []*devtree.Device, size int) ([]string, error) {
	return p.prefer(ids(available), ids(must), size)
}

func (p *palette) PreferenceAvailable() bool { return p.offered }

func (p *palette) PreStartContainer(_ context.Context, _ string, devices []*devtree.Device) error {
	return p.preStart(ids(devices))
}

// allocating is a kubelet that holds yellow 1, 2, 3 and the unhealthy 4 of the plugin.
func allocating(t *testing.T, plugin Plugin, h *hand) *kubelettest.Kubelet {
	t.Helper()
	dir := kubeletDir(t)
	k := startKubelet(t, dir)
	run(t, dir, plugin)
	b := tree(t, nil, "yellow", "2", "3").Edit()
	one := device("1")
	one.Env = map[string]string{"COLOR": "one", "ONE": "1"}
	one.Annotations = map[string]string{"color.example.com/one": "yes"}
	one.Mounts = []devtree.Mount{{HostPath: "/opt/color", ContainerPath: "/color", ReadOnly: true}}
	one.CDINames = []string{"color.example.com/yellow=1"}
	put(t, b, "yellow", one)
	put(t, b, "yellow", sick("4", "on fire"))
	h.set(b.Build())
	waitIDs(t, k, yellow, "1", "2", "3", "4")
	return k
}

func node(name string) *pluginapi.DeviceSpec {
	return &pluginapi.DeviceSpec{HostPath: "/dev/color/" + name, ContainerPath: "/dev/color/" + name, Permissions: "rw"}
}

func TestAllocateGivesTheDevicesEditsInTheRequestsOrder(t *testing.T) {
	h := newHand()
	k := allocating(t, h, h)
	got, err := k.Allocate(t.Context(), yellow, []string{"3", "1"}, []string{"2"})
	if err != nil {
		t.Fatal(err)
	}
	want := &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{
		{
			Devices:     []*pluginapi.DeviceSpec{node("3"), node("all"), node("1")},
			Envs:        map[string]string{"COLOR": "one", "ONE": "1"},
			Annotations: map[string]string{"color.example.com/one": "yes"},
			Mounts:      []*pluginapi.Mount{{HostPath: "/opt/color", ContainerPath: "/color", ReadOnly: true}},
			CdiDevices:  []*pluginapi.CDIDevice{{Name: "color.example.com/yellow=1"}},
		},
		{Devices: []*pluginapi.DeviceSpec{node("2"), node("all")}},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("Allocate (-want +got):\n%s", diff)
	}
}

func TestAllocateRefusesAllOrNothing(t *testing.T) {
	for _, test := range []struct {
		name       string
		containers [][]string
		code       codes.Code
		says       []string
	}{
		{"unknown device", [][]string{{"9"}}, codes.NotFound, []string{`"9"`, yellow}},
		{"unhealthy device", [][]string{{"4"}}, codes.FailedPrecondition, []string{`"4"`, "on fire"}},
		{"unknown device beside a good one", [][]string{{"1", "9"}}, codes.NotFound, []string{`"9"`}},
		{"unhealthy device in the second container", [][]string{{"1"}, {"2", "4"}}, codes.FailedPrecondition, []string{`"4"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHand()
			p := &palette{hand: h, allocate: func(string, []string) (*devtree.ContainerEdits, error) {
				t.Error("the plugin was asked to allocate a part of a request that must fail")
				return nil, nil
			}}
			k := allocating(t, p, h)
			got, err := k.Allocate(t.Context(), yellow, test.containers...)
			if status.Code(err) != test.code {
				t.Errorf("Allocate = %v, %v, want code %s", got, err, test.code)
			}
			for _, part := range test.says {
				if !strings.Contains(fmt.Sprint(err), part) {
					t.Errorf("error %q does not say %s", err, part)
				}
			}
		})
	}
}

func TestAllocateSeesTheNewestTree(t *testing.T) {
	h := newHand()
	k := allocating(t, h, h)
	h.set(tree(t, nil, "yellow", "new")) // published, perhaps not yet at the kubelet
	if _, err := k.Allocate(t.Context(), yellow, []string{"1"}); status.Code(err) != codes.NotFound {
		t.Errorf("Allocate of a device that is gone = %v, want NotFound", err)
	}
	if _, err := k.Allocate(t.Context(), yellow, []string{"new"}); err != nil {
		t.Errorf("Allocate of a device that just came = %v", err)
	}
}

func TestPluginHasItsSayInAllocate(t *testing.T) {
	useDefault := func(string, []string) (*devtree.ContainerEdits, error) {
		return nil, fmt.Errorf("nothing special: %w", ErrUseDefault)
	}
	own := &devtree.ContainerEdits{Env: map[string]string{"MINE": "1"}}
	noPost := func([]string, *devtree.ContainerEdits) error { return nil }
	for _, test := range []struct {
		name     string
		allocate func(string, []string) (*devtree.ContainerEdits, error)
		post     func([]string, *devtree.ContainerEdits) error
		want     *pluginapi.ContainerAllocateResponse
		code     codes.Code
		says     string
	}{
		{
			name: "default asked for with ErrUseDefault", allocate: useDefault, post: noPost,
			want: &pluginapi.ContainerAllocateResponse{Devices: []*pluginapi.DeviceSpec{node("3"), node("all"), node("2")}},
		},
		{
			name: "default asked for with nil", post: noPost,
			allocate: func(string, []string) (*devtree.ContainerEdits, error) { return nil, nil },
			want:     &pluginapi.ContainerAllocateResponse{Devices: []*pluginapi.DeviceSpec{node("3"), node("all"), node("2")}},
		},
		{
			name: "own edits", post: noPost,
			allocate: func(resource string, devices []string) (*devtree.ContainerEdits, error) {
				if resource != "yellow" || !slices.Equal(devices, []string{"3", "2"}) {
					return nil, fmt.Errorf("asked for %q of %q", devices, resource)
				}
				return own, nil
			},
			want: &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"MINE": "1"}},
		},
		{
			name: "annotated afterwards", allocate: useDefault,
			post: func(devices []string, edits *devtree.ContainerEdits) error {
				edits.Annotations["order"] = strings.Join(devices, ",")
				edits.Env["QAT0"] = devices[0]
				edits.DeviceNodes = edits.DeviceNodes[:1]
				return nil
			},
			want: &pluginapi.ContainerAllocateResponse{
				Annotations: map[string]string{"order": "3,2"}, Envs: map[string]string{"QAT0": "3"}, Devices: []*pluginapi.DeviceSpec{node("3")},
			},
		},
		{
			name:     "own edits annotated afterwards stay the plugin's",
			allocate: func(string, []string) (*devtree.ContainerEdits, error) { return own, nil },
			post:     func(_ []string, edits *devtree.ContainerEdits) error { edits.Env["MORE"] = "2"; return nil },
			want:     &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"MINE": "1", "MORE": "2"}},
		},
		{
			name: "plain error", post: noPost,
			allocate: func(string, []string) (*devtree.ContainerEdits, error) { return nil, errors.New("out of paint") },
			code:     codes.Unknown, says: `allocate of "color.example.com/yellow": out of paint`,
		},
		{
			name: "a device that has gone", post: func([]string, *devtree.ContainerEdits) error { return fmt.Errorf("paint: %w", devtree.ErrGone) },
			allocate: func(string, []string) (*devtree.ContainerEdits, error) { return nil, ErrUseDefault },
			code:     codes.NotFound, says: `allocate of "color.example.com/yellow": paint: the device has gone`,
		},
		{
			name: "a device that cannot be used", post: func([]string, *devtree.ContainerEdits) error { return fmt.Errorf("%w: dried", devtree.ErrUnfit) },
			allocate: func(string, []string) (*devtree.ContainerEdits, error) { return nil, ErrUseDefault },
			code:     codes.FailedPrecondition, says: `allocate of "color.example.com/yellow": the device cannot be used: dried`,
		},
		{
			name: "error with a gRPC status", post: noPost,
			allocate: func(string, []string) (*devtree.ContainerEdits, error) {
				return nil, status.Error(codes.ResourceExhausted, "out of paint")
			},
			code: codes.ResourceExhausted, says: "out of paint",
		},
		{
			name: "error afterwards", allocate: useDefault,
			post: func([]string, *devtree.ContainerEdits) error { return context.DeadlineExceeded },
			code: codes.DeadlineExceeded,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHand()
			k := allocating(t, &palette{hand: h, allocate: test.allocate, post: test.post}, h)
			for range 2 { // what the first call did must not be seen by the second
				got, err := k.Allocate(t.Context(), yellow, []string{"3", "2"})
				if status.Code(err) != test.code || !strings.Contains(fmt.Sprint(err), test.says) {
					t.Fatalf("Allocate = %v, want code %s that says %q", err, test.code, test.says)
				}
				if err != nil {
					continue
				}
				want := &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{test.want}}
				if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
					t.Errorf("Allocate (-want +got):\n%s", diff)
				}
			}
			if diff := cmp.Diff(map[string]string{"MINE": "1"}, own.Env); diff != "" {
				t.Errorf("the plugin's own edits were changed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOptionsAreWhatThePluginImplements(t *testing.T) {
	for _, test := range []struct {
		name   string
		plugin func(*hand) Plugin
		want   *pluginapi.DevicePluginOptions
	}{
		{"none", func(h *hand) Plugin { return h }, &pluginapi.DevicePluginOptions{}},
		{"all", func(h *hand) Plugin { return &palette{hand: h, offered: true} }, &pluginapi.DevicePluginOptions{PreStartRequired: true, GetPreferredAllocationAvailable: true}},
		{"preference withdrawn", func(h *hand) Plugin { return &palette{hand: h} }, &pluginapi.DevicePluginOptions{PreStartRequired: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, h := kubeletDir(t), newHand()
			registered := make(chan *pluginapi.DevicePluginOptions, 1)
			k := startKubelet(t, dir, kubelettest.OnRegister(func(_ context.Context, r *pluginapi.RegisterRequest) error {
				registered <- r.Options
				return nil
			}))
			run(t, dir, test.plugin(h))
			h.set(tree(t, nil, "yellow", "1"))
			waitIDs(t, k, yellow, "1")
			if diff := cmp.Diff(test.want, <-registered, protocmp.Transform()); diff != "" {
				t.Errorf("Register (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, k.Options(yellow), protocmp.Transform()); diff != "" {
				t.Errorf("GetDevicePluginOptions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCallsThatThePluginLacksAreUnimplemented(t *testing.T) {
	h := newHand()
	k := allocating(t, h, h)
	if _, err := k.GetPreferredAllocation(t.Context(), yellow, []string{"1"}, nil, 1); status.Code(err) != codes.Unimplemented {
		t.Errorf("GetPreferredAllocation = %v, want Unimplemented", err)
	}
	if err := k.PreStartContainer(t.Context(), yellow, []string{"1"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("PreStartContainer = %v, want Unimplemented", err)
	}
}

func TestPreferredAllocation(t *testing.T) {
	for _, test := range []struct {
		name            string
		available, must []string
		size            int
		sees            []string // available devices that the plugin is offered
		chosen          []string
		err             error
		want            []string
		code            codes.Code
	}{
		{name: "choice is passed on", available: []string{"1", "2", "3"}, must: []string{"2"}, size: 2, sees: []string{"1", "2", "3"}, chosen: []string{"2", "3"}, want: []string{"2", "3"}},
		{name: "devices that went or are sick are not offered", available: []string{"9", "1", "4"}, size: 1, sees: []string{"1"}, chosen: []string{"1"}, want: []string{"1"}},
		{name: "must include forgotten", available: []string{"1", "2"}, must: []string{"2"}, size: 1, sees: []string{"1", "2"}, chosen: []string{"1"}},
		{name: "one that is not available", available: []string{"1"}, size: 1, sees: []string{"1"}, chosen: []string{"3"}},
		{name: "one twice", available: []string{"1"}, size: 2, sees: []string{"1"}, chosen: []string{"1", "1"}},
		{name: "too many", available: []string{"1", "2"}, size: 1, sees: []string{"1", "2"}, chosen: []string{"1", "2"}},
		{name: "unknown must include", available: []string{"1"}, must: []string{"9"}, size: 1, code: codes.NotFound},
		{name: "plugin's error", available: []string{"1"}, size: 1, sees: []string{"1"}, err: errors.New("no"), code: codes.Unknown},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHand()
			p := &palette{hand: h, offered: true, prefer: func(available, must []string, size int) ([]string, error) {
				if !slices.Equal(available, test.sees) || !slices.Equal(must, test.must) || size != test.size {
					t.Errorf("the plugin was offered %q, %q, %d, want %q, %q, %d", available, must, size, test.sees, test.must, test.size)
				}
				return test.chosen, test.err
			}}
			k := allocating(t, p, h)
			got, err := k.GetPreferredAllocation(t.Context(), yellow, test.available, test.must, test.size)
			if status.Code(err) != test.code || !slices.Equal(got, test.want) {
				t.Errorf("GetPreferredAllocation = %q, %v, want %q, code %s", got, err, test.want, test.code)
			}
		})
	}
}

func TestPreStartContainer(t *testing.T) {
	h := newHand()
	var started []string
	var refusal error
	k := allocating(t, &palette{hand: h, preStart: func(devices []string) error { started = devices; return refusal }}, h)
	if err := k.PreStartContainer(t.Context(), yellow, []string{"2", "1"}); err != nil || !slices.Equal(started, []string{"2", "1"}) {
		t.Errorf("PreStartContainer of 2, 1 = %v, the plugin was given %q", err, started)
	}
	if err := k.PreStartContainer(t.Context(), yellow, []string{"9"}); status.Code(err) != codes.NotFound {
		t.Errorf("PreStartContainer of an unknown device = %v, want NotFound", err)
	}
	refusal = errors.New("brush is dirty")
	if err := k.PreStartContainer(t.Context(), yellow, []string{"1"}); !strings.Contains(fmt.Sprint(err), "brush is dirty") {
		t.Errorf("PreStartContainer = %v, want the plugin's error", err)
	}
}
