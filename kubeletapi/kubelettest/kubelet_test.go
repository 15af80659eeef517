// SPDX-License-Identifier: Apache-2.0

package kubelettest_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/kubeletapi/kubelettest"
)

const resource = "color.example.com/yellow"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stub is a plugin that sends the lists of devices that the test gives it.
type stub struct {
	pluginapi.UnimplementedDevicePluginServer
	lists   chan []string
	started chan []string // devices of PreStartContainer
}

func (s *stub) GetDevicePluginOptions(
	context.Context, *pluginapi.Empty,
) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{PreStartRequired: true}, nil
}

// ListAndWatch ends the stream at a nil list.
func (s *stub) ListAndWatch(
	_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse],
) error {
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case ids := <-s.lists:
			if ids == nil {
				return errors.New("ended by the test")
			}
			r := &pluginapi.ListAndWatchResponse{}
			for _, id := range ids {
				r.Devices = append(r.Devices, &pluginapi.Device{ID: id, Health: pluginapi.Healthy})
			}
			if err := stream.Send(r); err != nil {
				return err
			}
		}
	}
}

func (s *stub) Allocate(_ context.Context, r *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	out := &pluginapi.AllocateResponse{}
	for _, c := range r.ContainerRequests {
		ids := map[string]string{"IDS": strings.Join(c.DevicesIds, ",")}
		answer := &pluginapi.ContainerAllocateResponse{Envs: ids}
		out.ContainerResponses = append(out.ContainerResponses, answer)
	}
	return out, nil
}

// GetPreferredAllocation chooses the devices that must be included, and the first of the
// available ones. It answers for no container if there are none.
func (s *stub) GetPreferredAllocation(
	_ context.Context, r *pluginapi.PreferredAllocationRequest,
) (*pluginapi.PreferredAllocationResponse, error) {
	c := r.ContainerRequests[0]
	if len(c.AvailableDeviceIDs) == 0 {
		return &pluginapi.PreferredAllocationResponse{}, nil
	}
	ids := slices.Concat(c.MustIncludeDeviceIDs, c.AvailableDeviceIDs)[:c.AllocationSize]
	return &pluginapi.PreferredAllocationResponse{
		ContainerResponses: []*pluginapi.ContainerPreferredAllocationResponse{{DeviceIDs: ids}},
	}, nil
}

func (s *stub) PreStartContainer(
	ctx context.Context, r *pluginapi.PreStartContainerRequest,
) (*pluginapi.PreStartContainerResponse, error) {
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 30*time.Second {
		return nil, errors.New("the deadline is missing, or later than the kubelet's 30 seconds")
	}
	s.started <- r.DevicesIds
	return &pluginapi.PreStartContainerResponse{}, nil
}

// serve serves a stub in the directory of the Kubelet until the test ends.
func serve(t *testing.T, k *kubelettest.Kubelet) *stub {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(k.Dir(), "stub.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s, server := &stub{lists: make(chan []string), started: make(chan []string, 1)}, grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return s
}

// request returns the registration of the stub.
func request() *pluginapi.RegisterRequest {
	return &pluginapi.RegisterRequest{Version: pluginapi.Version, Endpoint: "stub.sock", ResourceName: resource}
}

func register(t *testing.T, k *kubelettest.Kubelet, r *pluginapi.RegisterRequest) error {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+k.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = pluginapi.NewRegistrationClient(conn).Register(timeout(t), r)
	return err
}

func mustRegister(t *testing.T, k *kubelettest.Kubelet) {
	t.Helper()
	if err := register(t, k, request()); err != nil {
		t.Fatal(err)
	}
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func waitList(t *testing.T, k *kubelettest.Kubelet, cond func(kubelettest.List) bool) kubelettest.List {
	t.Helper()
	l, err := k.WaitList(timeout(t), resource, cond)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func isLive(l kubelettest.List) bool { return l.Live }
func isDead(l kubelettest.List) bool { return !l.Live }

func TestKubeletFollowsTheListsOfARegisteredPlugin(t *testing.T) {
	var seen []int
	k := kubelettest.New(t, kubelettest.OnList(func(l kubelettest.List) { seen = append(seen, l.Seq) }))
	s := serve(t, k)
	mustRegister(t, k)
	before := time.Now()
	s.lists <- []string{"1"}
	s.lists <- []string{"1", "2"}
	l, err := k.WaitDevices(timeout(t), resource, "1", "2")
	if err != nil || l.Resource != resource || l.Seq != 2 || !l.Live || l.Time.Before(before) {
		t.Errorf("WaitDevices = %+v, %v", l, err)
	}
	if got := l.IDs(); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("IDs %q", got)
	}
	if l.Health("2") != pluginapi.Healthy || l.Health("3") != "" {
		t.Errorf("health of 2 %q, and of 3 %q", l.Health("2"), l.Health("3"))
	}
	if got := k.Options(resource); !got.GetPreStartRequired() {
		t.Errorf("options %v", got)
	}
	s.lists <- nil
	waitList(t, k, isDead)
	k.Stop()
	if !slices.Equal(seen, []int{1, 2}) {
		t.Errorf("OnList saw the lists %v, want 1 and 2", seen)
	}
}

func TestCallsReachTheRegisteredPlugin(t *testing.T) {
	k := kubelettest.New(t)
	s := serve(t, k)
	mustRegister(t, k)
	ctx := timeout(t)
	r, err := k.Allocate(ctx, resource, []string{"2", "1"}, []string{"3"})
	if err != nil || len(r.ContainerResponses) != 2 || r.ContainerResponses[0].Envs["IDS"] != "2,1" {
		t.Errorf("Allocate = %v, %v", r, err)
	}
	ids, err := k.GetPreferredAllocation(ctx, resource, []string{"1", "2"}, []string{"2"}, 2)
	if err != nil || !slices.Equal(ids, []string{"2", "1"}) {
		t.Errorf("GetPreferredAllocation = %q, %v", ids, err)
	}
	if _, err := k.GetPreferredAllocation(ctx, resource, nil, nil, 0); err == nil {
		t.Error("GetPreferredAllocation accepts a response without containers")
	}
	if err := k.PreStartContainer(ctx, resource, []string{"1"}); err != nil {
		t.Fatal(err)
	}
	if got := <-s.started; !slices.Equal(got, []string{"1"}) {
		t.Errorf("PreStartContainer with %q", got)
	}
}

func TestCallsWithoutARegisteredPluginFail(t *testing.T) {
	k := kubelettest.New(t)
	s := serve(t, k)
	mustRegister(t, k)
	s.lists <- []string{"1"}
	waitList(t, k, isLive)
	k.Disconnect(resource)
	waitList(t, k, isDead)
	k.Disconnect(resource) // there is nothing to disconnect any more
	_, allocate := k.Allocate(t.Context(), resource, []string{"1"})
	_, prefer := k.GetPreferredAllocation(t.Context(), resource, []string{"1"}, nil, 1)
	start := k.PreStartContainer(t.Context(), resource, []string{"1"})
	for _, err := range []error{allocate, prefer, start} {
		if err == nil || !strings.Contains(err.Error(), "no plugin is registered") {
			t.Errorf("call without a plugin: %v", err)
		}
	}
	if got := k.Options(resource); got != nil {
		t.Errorf("options %v", got)
	}
}

// Like runClient of the real kubelet: the end of the old stream drops the new client.
func TestEndOfAnOldStreamDropsTheNewClient(t *testing.T) {
	k := kubelettest.New(t)
	s := serve(t, k)
	for range 2 {
		mustRegister(t, k)
		s.lists <- []string{"1"} // one of the streams sends it
	}
	s.lists <- nil
	waitList(t, k, isDead)
}

func TestStartDeletesSocketsAndForgetsEverything(t *testing.T) {
	var cleaned []string
	k := kubelettest.New(t, kubelettest.OnClean(func(names []string) { cleaned = names }))
	s := serve(t, k)
	if err := os.WriteFile(filepath.Join(k.Dir(), "kubelet_internal_checkpoint"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mustRegister(t, k)
	s.lists <- []string{"1"}
	waitList(t, k, isLive)
	k.Kill()
	if k.Alive() {
		t.Error("alive after Kill")
	}
	if _, err := os.Stat(k.Socket()); err != nil {
		t.Errorf("kubelet.sock after Kill: %v, want it left behind", err)
	}
	if err := k.Restart(); err != nil {
		t.Fatal(err)
	}
	if !k.Alive() {
		t.Error("not alive after Restart")
	}
	slices.Sort(cleaned)
	want := []string{"kubelet.sock", "kubelet_internal_checkpoint", "stub.sock"}
	if !slices.Equal(cleaned, want) {
		t.Errorf("found at the start: %q, want %q", cleaned, want)
	}
	entries, err := os.ReadDir(k.Dir())
	if err != nil || len(entries) != 2 || entries[0].Name() != "kubelet.sock" {
		t.Errorf("left in the directory: %v, %v, want kubelet.sock and the checkpoint", entries, err)
	}
	if lists, registrations := k.Lists(), k.Registrations(); len(lists)+len(registrations) != 0 {
		t.Errorf("after Restart, lists %v and registrations %v", lists, registrations)
	}
	k.Stop()
	if _, err := os.Stat(k.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("kubelet.sock after Stop: %v, want it removed", err)
	}
}

func TestRegisterRefusesWhatTheKubeletRefuses(t *testing.T) {
	var refuse error
	k := kubelettest.New(t, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		return refuse
	}))
	serve(t, k)
	version, name := request(), request()
	version.Version, name.ResourceName = "v1alpha", "yellow"
	for _, tt := range []struct {
		name    string
		request *pluginapi.RegisterRequest
		refuse  error
		want    string
	}{
		{"other version", version, nil, "not supported"},
		{"no namespace", name, nil, "invalid"},
		{"refused by the test", request(), errors.New("not you"), "not you"},
	} {
		refuse = tt.refuse
		if err := register(t, k, tt.request); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Register = %v, want %q", tt.name, err, tt.want)
		}
	}
	refuse = kubelettest.ErrIgnore
	if err := register(t, k, request()); err != nil || k.Options(resource) != nil {
		t.Errorf("ignored: Register = %v, options %v, want nil and none", err, k.Options(resource))
	}
	got := k.Registrations()
	if len(got) != 4 || got[0].Version != "v1alpha" || got[3].ResourceName != resource {
		t.Errorf("registrations %v", got)
	}
}

func TestFailedWaitDescribesTheLists(t *testing.T) {
	k := kubelettest.New(t)
	s := serve(t, k)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := k.WaitDevices(ended, resource, "1")
	if err == nil || !strings.Contains(err.Error(), "there is none") {
		t.Errorf("WaitDevices without a list: %v", err)
	}
	mustRegister(t, k)
	s.lists <- []string{"1"}
	waitList(t, k, isLive)
	for _, ids := range [][]string{{}, {"2"}, {"1", "2"}} {
		_, err := k.WaitDevices(ended, resource, ids...)
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), ": 1 devices, 1 healthy") {
			t.Errorf("WaitDevices(%q): %v", ids, err)
		}
	}
}

func TestStartNeedsADirectory(t *testing.T) {
	if _, err := kubelettest.Start(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start in a missing directory: %v, want ErrNotExist", err)
	}
}
