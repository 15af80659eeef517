// SPDX-License-Identifier: Apache-2.0

package kubelettest_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"qatplugin/draapi/kubelettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeDriver serves a registration socket, and nothing else.
type fakeDriver struct {
	registerapi.UnimplementedRegistrationServer
	dra.UnimplementedDRAPluginServer
	info   *registerapi.PluginInfo
	status chan *registerapi.RegistrationStatus
}

func (d *fakeDriver) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return d.info, nil
}

func (d *fakeDriver) NotifyRegistrationStatus(
	_ context.Context, s *registerapi.RegistrationStatus,
) (*registerapi.RegistrationStatusResponse, error) {
	select {
	case d.status <- s:
	default: // the kubelet tries again
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

// NodePrepareResources forgets the claim.
func (d *fakeDriver) NodePrepareResources(
	context.Context, *dra.NodePrepareResourcesRequest,
) (*dra.NodePrepareResourcesResponse, error) {
	return &dra.NodePrepareResourcesResponse{}, nil
}

// serve serves the driver until the test ends.
func serve(t *testing.T, k *kubelettest.Kubelet, info *registerapi.PluginInfo) *fakeDriver {
	t.Helper()
	d := &fakeDriver{info: info, status: make(chan *registerapi.RegistrationStatus, 1)}
	info.Endpoint = filepath.Join(k.Root(), "plugins_registry", "driver-reg.sock")
	l, err := net.Listen("unix", info.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	registerapi.RegisterRegistrationServer(server, d)
	dra.RegisterDRAPluginServer(server, d)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return d
}

func TestRegistrationThatTheKubeletRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		info *registerapi.PluginInfo
		want string
	}{
		{
			"type",
			&registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: "driver"},
			"no handler registered for plugin type: CSIPlugin",
		},
		{
			"version",
			&registerapi.PluginInfo{Type: registerapi.DRAPlugin, Name: "driver", SupportedVersions: []string{"v9"}},
			`none of services supported by the plugin (["v9"])`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := kubelettest.New(t)
			d := serve(t, k, tt.info)
			s := <-d.status
			if s.GetPluginRegistered() || !strings.HasPrefix(s.GetError(), tt.want) {
				t.Errorf("status %v, want %s", s, tt.want)
			}
			if _, err := k.Prepare(t.Context(), "driver", &dra.Claim{}); err == nil ||
				err.Error() != "DRA driver driver is not registered" {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAnswerWithoutTheClaimIsAnError(t *testing.T) {
	k := kubelettest.New(t)
	serve(t, k, &registerapi.PluginInfo{
		Type: registerapi.DRAPlugin, Name: "driver", SupportedVersions: []string{dra.DRAPluginService},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := k.WaitRegistered(ctx, "driver", 1); err != nil {
		t.Fatal(err)
	}
	_, err := k.Prepare(ctx, "driver", &dra.Claim{Uid: "uid"})
	if err == nil || err.Error() != "NodePrepareResources skipped 1 ResourceClaims" {
		t.Errorf("error %v", err)
	}
	k.Stop()
	if err := k.WaitRegistered(ctx, "driver", 0); err != nil {
		t.Error(err)
	}
	if err := k.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := k.WaitRegistered(ctx, "driver", 1); err != nil {
		t.Error(err)
	}
	short, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	if err := k.WaitRegistered(short, "driver", 2); err == nil {
		t.Error("WaitRegistered returned no error")
	}
}
