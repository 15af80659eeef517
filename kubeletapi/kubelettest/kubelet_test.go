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

// stub is an endpoint whose streams send what they are told.
type stub struct {
	pluginapi.UnimplementedDevicePluginServer
	lists chan []string
}

func (s *stub) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{PreStartRequired: true}, nil
}

// ListAndWatch ends the stream when it is told to send nil.
func (s *stub) ListAndWatch(_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case ids := <-s.lists:
			if ids == nil {
				return errors.New("told to end")
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
		out.ContainerResponses = append(out.ContainerResponses, &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"IDS": strings.Join(c.DevicesIds, ",")}})
	}
	return out, nil
}

func serve(t *testing.T, dir string) *stub {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "stub.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s, server := &stub{lists: make(chan []string)}, grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return s
}

func start(t *testing.T, dir string, opts ...kubelettest.Option) *kubelettest.Kubelet {
	t.Helper()
	k, err := kubelettest.Start(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	return k
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func register(t *testing.T, k *kubelettest.Kubelet, change func(*pluginapi.RegisterRequest)) error {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+k.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := &pluginapi.RegisterRequest{Version: pluginapi.Version, Endpoint: "stub.sock", ResourceName: resource}
	if change != nil {
		change(r)
	}
	_, err = pluginapi.NewRegistrationClient(conn).Register(limited(t), r)
	return err
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func ids(l kubelettest.List) []string {
	var out []string
	for _, d := range l.Devices {
		out = append(out, d.ID)
	}
	return out
}

func await(t *testing.T, k *kubelettest.Kubelet, cond func(kubelettest.List) bool) kubelettest.List {
	t.Helper()
	l, err := k.WaitList(limited(t), resource, cond)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestFollowsTheListOfARegisteredEndpoint(t *testing.T) {
	dir := shortDir(t)
	var seen []int
	k := start(t, dir, kubelettest.OnList(func(l kubelettest.List) { seen = append(seen, l.Seq) }))
	s := serve(t, dir)
	if err := register(t, k, nil); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	s.lists <- []string{"1"}
	s.lists <- []string{"1", "2"}
	l := await(t, k, func(l kubelettest.List) bool { return len(l.Devices) == 2 })
	if !slices.Equal(ids(l), []string{"1", "2"}) || l.Seq != 2 || l.Life != 1 || !l.Live || l.Time.Before(before) {
		t.Errorf("list = %+v", l)
	}
	if got := k.Options(resource); !got.GetPreStartRequired() {
		t.Errorf("options = %v", got)
	}
	r, err := k.Allocate(limited(t), resource, []string{"2", "1"}, []string{"3"})
	if err != nil || len(r.ContainerResponses) != 2 || r.ContainerResponses[0].Envs["IDS"] != "2,1" {
		t.Errorf("Allocate = %v, %v", r, err)
	}
	s.lists <- nil
	await(t, k, func(l kubelettest.List) bool { return !l.Live })
	if _, err := k.Allocate(limited(t), resource, []string{"1"}); err == nil {
		t.Error("Allocate after the stream ended = nil, want an error")
	}
	k.Stop()
	if !slices.Equal(seen, []int{1, 2}) {
		t.Errorf("OnList saw lists %v, want 1 and 2", seen)
	}
}

// What the real kubelet does (runClient): the end of the old stream takes the new client with it.
func TestEndOfAnOldStreamDropsTheNewClient(t *testing.T) {
	dir := shortDir(t)
	k, s := start(t, dir), serve(t, dir)
	for range 2 {
		if err := register(t, k, nil); err != nil {
			t.Fatal(err)
		}
		s.lists <- []string{"1"} // any of the streams takes it
	}
	s.lists <- nil
	await(t, k, func(l kubelettest.List) bool { return !l.Live })
}

func TestNewLifeCleansTheDirectoryAndKnowsNothing(t *testing.T) {
	dir := shortDir(t)
	var cleaned []string
	k, s := start(t, dir, kubelettest.OnClean(func(names []string) { cleaned = names })), serve(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "kubelet_internal_checkpoint"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := register(t, k, nil); err != nil {
		t.Fatal(err)
	}
	s.lists <- []string{"1"}
	await(t, k, func(kubelettest.List) bool { return true })
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
	slices.Sort(cleaned)
	if want := []string{"kubelet.sock", "kubelet_internal_checkpoint", "stub.sock"}; !slices.Equal(cleaned, want) {
		t.Errorf("found at the start %q, want %q", cleaned, want)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != "kubelet.sock" {
		t.Errorf("left in the directory: %v, %v, want kubelet.sock and the checkpoint", entries, err)
	}
	if lists := k.Lists(); len(lists) != 0 {
		t.Errorf("lists in the new life = %v", lists)
	}
	k.Stop()
	if _, err := os.Stat(k.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("kubelet.sock after Stop: %v, want it removed", err)
	}
}

func TestRegistrationsThatAreRefused(t *testing.T) {
	dir := shortDir(t)
	refuse := error(nil)
	k := start(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error { return refuse }))
	serve(t, dir)
	for _, test := range []struct {
		name   string
		change func(*pluginapi.RegisterRequest)
		refuse error
		says   string
	}{
		{"other version", func(r *pluginapi.RegisterRequest) { r.Version = "v1alpha" }, nil, "not supported"},
		{"no namespace", func(r *pluginapi.RegisterRequest) { r.ResourceName = "yellow" }, nil, "invalid"},
		{"by the test", nil, errors.New("not you"), "not you"},
	} {
		refuse = test.refuse
		if err := register(t, k, test.change); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: Register = %v, want one that says %q", test.name, err, test.says)
		}
	}
	refuse = kubelettest.ErrIgnore
	if err := register(t, k, nil); err != nil || k.Options(resource) != nil {
		t.Errorf("ignored: Register = %v, options %v, want nil and none", err, k.Options(resource))
	}
}

func TestWaitSaysWhatTheListsWere(t *testing.T) {
	dir := shortDir(t)
	k, s := start(t, dir), serve(t, dir)
	if err := register(t, k, nil); err != nil {
		t.Fatal(err)
	}
	s.lists <- []string{"1"}
	await(t, k, func(kubelettest.List) bool { return true })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := k.Wait(ctx, func(map[string]kubelettest.List) bool { return false })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), resource+": 1 devices, 1 healthy") {
		t.Errorf("Wait = %v", err)
	}
}

func TestDirectoryMustExist(t *testing.T) {
	if _, err := kubelettest.Start(filepath.Join(shortDir(t), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start in a missing directory = %v, want ErrNotExist", err)
	}
}
