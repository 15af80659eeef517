// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"k8s.io/klog/v2"
	healthapi "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"qatplugin/draapi/internal/inventory"
)

// A Config describes a driver to a [Server].
type Config struct {
	Driver string
	Pool   string
	Root   string // the kubelet's directory; absolute
	PodUID string // part of the sockets' names, so that several instances can serve; may be ""

	// Prepare and Unprepare answer for one claim. They are called concurrently, for different
	// claims or for the same one. They must return when ctx ends.
	Prepare   func(context.Context, *dra.Claim) ([]*dra.Device, error)
	Unprepare func(context.Context, *dra.Claim) error

	// Inventory returns the newest Inventory, and a channel that is closed when there is another.
	Inventory func() (*inventory.Inventory, <-chan struct{})

	// Registered is called when the kubelet has answered a registration, with its error if it has
	// refused it. HealthSent is called after each message of a stream.
	Registered func(error)
	HealthSent func(devices, bytes int)

	Log klog.Logger
}

const (
	// maxSocketPath is the longest path that fits into sockaddr_un.sun_path with its final NUL
	// (unix(7)). The kubelet connects to the full path.
	maxSocketPath = 107

	maxStreams = 128 // calls and streams of one connection; the kubelet runs up to 110 pods
	maxClaims  = 16  // that are prepared at the same time, and that are unprepared

	windowSize = 64 << 10 // bytes that a server buffers for a stream or a connection; gRPC's minimum

	stopTimeout  = 5 * time.Second        // for calls in progress when Run ends
	flushTimeout = 200 * time.Millisecond // for the last answers then
)

// A Server serves the kubelet. Any goroutine may call its methods.
type Server struct {
	config       Config
	registryDir  string
	pluginDir    string
	registryPath string // of the registration socket
	draPath      string // of the socket for calls
	calls        callCounter
	preparing    chan struct{} // a token for each claim in progress
	unpreparing  chan struct{} // as preparing; unprepared claims do not wait for the API server
	state        state
	streamsEnd   chan struct{} // closed to end the health streams
}

// New returns a Server. It returns an error if the path of a socket is too long.
func New(c Config) (*Server, error) {
	suffix := ""
	if c.PodUID != "" {
		suffix = "-" + c.PodUID
	}
	s := &Server{
		config:      c,
		registryDir: filepath.Join(c.Root, "plugins_registry"),
		pluginDir:   filepath.Join(c.Root, "plugins", c.Driver),
		preparing:   make(chan struct{}, maxClaims),
		unpreparing: make(chan struct{}, maxClaims),
		state:       state{wake: make(chan struct{}, 1)},
		streamsEnd:  make(chan struct{}),
	}
	s.registryPath = filepath.Join(s.registryDir, c.Driver+suffix+"-reg.sock")
	s.draPath = filepath.Join(s.pluginDir, "dra"+suffix+".sock")
	for _, path := range []string{s.registryPath, s.draPath} {
		if len(path) > maxSocketPath {
			return nil, fmt.Errorf("the path of socket %s has %d bytes: at most %d are allowed; use a shorter name of "+
				"the driver or of the kubelet's directory", path, len(path), maxSocketPath)
		}
	}
	return s, nil
}

// Run serves the kubelet until ctx ends. Then calls in progress have up to 5 s to return, and the
// sockets are removed. Calls that have not returned by then are canceled, and Run waits for them.
// It may be called once.
func (s *Server) Run(ctx context.Context) {
	options := []grpc.ServerOption{
		grpc.WaitForHandlers(true),
		grpc.MaxConcurrentStreams(maxStreams),
		// Static windows disable gRPC's bandwidth estimates, which cost a ping for each call.
		grpc.StaticStreamWindowSize(windowSize),
		grpc.StaticConnWindowSize(windowSize),
		// No pings: a kubelet on the same host cannot vanish without closing.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: math.MaxInt64}),
	}
	draServer := grpc.NewServer(append(options, grpc.UnaryInterceptor(s.calls.count), grpc.StatsHandler(&s.state))...)
	implementation := &service{Server: s}
	dra.RegisterDRAPluginServer(draServer, implementation)
	healthapi.RegisterDRAResourceHealthServer(draServer, implementation)
	registryServer := grpc.NewServer(options...)
	registerapi.RegisterRegistrationServer(registryServer, implementation)

	r := newReconciler(s, registryServer, draServer)
	r.run(ctx)

	// The kubelet closes its connection when the registration socket disappears, and so breaks off
	// calls in progress. So they end first.
	s.calls.wait(stopTimeout)
	close(s.streamsEnd)
	stop(draServer)
	r.registry.socket.Remove()
	r.dra.socket.Remove()
	r.close()
	stop(registryServer)
	r.running.Wait()
}

// stop stops the server. Answers have flushTimeout to be written.
func stop(server *grpc.Server) {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		server.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-time.After(flushTimeout):
		server.Stop()
		<-stopped
	}
}

// service implements the APIs. Its methods run on the goroutines of the gRPC servers.
type service struct {
	dra.UnimplementedDRAPluginServer
	healthapi.UnimplementedDRAResourceHealthServer
	registerapi.UnimplementedRegistrationServer
	*Server
}

// NodePrepareResources prepares the claims of a pod. Each has a result of its own.
func (s *service) NodePrepareResources(
	ctx context.Context, request *dra.NodePrepareResourcesRequest,
) (*dra.NodePrepareResourcesResponse, error) {
	answers := make([]*dra.NodePrepareResourceResponse, len(request.GetClaims()))
	each(ctx, s.preparing, request.GetClaims(), func(i int, claim *dra.Claim) {
		devices, err := s.config.Prepare(ctx, claim)
		answers[i] = &dra.NodePrepareResourceResponse{Devices: devices, Error: text(err)}
	})
	response := &dra.NodePrepareResourcesResponse{Claims: map[string]*dra.NodePrepareResourceResponse{}}
	for i, claim := range request.GetClaims() {
		response.Claims[claim.GetUid()] = answers[i]
	}
	return response, ctx.Err()
}

// NodeUnprepareResources unprepares the claims of a pod. Each has a result of its own.
func (s *service) NodeUnprepareResources(
	ctx context.Context, request *dra.NodeUnprepareResourcesRequest,
) (*dra.NodeUnprepareResourcesResponse, error) {
	answers := make([]*dra.NodeUnprepareResourceResponse, len(request.GetClaims()))
	each(ctx, s.unpreparing, request.GetClaims(), func(i int, claim *dra.Claim) {
		answers[i] = &dra.NodeUnprepareResourceResponse{Error: text(s.config.Unprepare(ctx, claim))}
	})
	response := &dra.NodeUnprepareResourcesResponse{Claims: map[string]*dra.NodeUnprepareResourceResponse{}}
	for i, claim := range request.GetClaims() {
		response.Claims[claim.GetUid()] = answers[i]
	}
	return response, ctx.Err()
}

// each calls f for each claim, concurrently as far as there is room for tokens, and returns when
// all calls have returned. It calls f for no further claim when ctx has ended.
func each(ctx context.Context, tokens chan struct{}, claims []*dra.Claim, f func(int, *dra.Claim)) {
	var running sync.WaitGroup
	defer running.Wait()
	for i, claim := range claims {
		select {
		case tokens <- struct{}{}:
		case <-ctx.Done():
			return
		}
		running.Go(func() {
			defer func() { <-tokens }()
			f(i, claim)
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// GetInfo returns the name of the driver, its socket for calls, and its APIs.
func (s *service) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type:     registerapi.DRAPlugin,
		Name:     s.config.Driver,
		Endpoint: s.draPath,
		SupportedVersions: []string{
			dra.DRAPluginService, healthapi.DRAResourceHealth_ServiceDesc.ServiceName,
		},
	}, nil
}

// NotifyRegistrationStatus records the kubelet's answer to the registration.
func (s *service) NotifyRegistrationStatus(
	_ context.Context, status *registerapi.RegistrationStatus,
) (*registerapi.RegistrationStatusResponse, error) {
	var err error
	if !status.GetPluginRegistered() {
		err = errors.New(status.GetError())
		s.config.Log.Error(err, "The kubelet refuses the registration, and tries again", "driver", s.config.Driver)
	} else {
		s.config.Log.Info("Registered with the kubelet", "driver", s.config.Driver, "socket", s.registryPath)
	}
	s.state.answer(err)
	s.config.Registered(err)
	return &registerapi.RegistrationStatusResponse{}, nil
}

// A callCounter counts the calls in progress.
type callCounter struct {
	mu    sync.Mutex // guards the fields below
	calls int
	idle  chan struct{} // nil unless wait waits; closed when no call is in progress
}

// count is a [grpc.UnaryServerInterceptor].
func (c *callCounter) count(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.calls--
		if c.calls == 0 && c.idle != nil {
			close(c.idle)
			c.idle = nil
		}
	}()
	return handler(ctx, req)
}

// wait returns when no call is in progress, or after the timeout.
func (c *callCounter) wait(timeout time.Duration) {
	c.mu.Lock()
	if c.calls == 0 {
		c.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	c.idle = idle
	c.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(timeout):
	}
}

// Status returns how the kubelet sees the driver.
func (s *Server) Status() Status { return s.state.status() }
