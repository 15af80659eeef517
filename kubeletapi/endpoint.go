// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"math"
	"net"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/internal/retry"
	"qatplugin/internal/unixsocket"
)

// endpoint makes a service available to the kubelet: it serves a socket, which it
// replaces whenever the file disappears, and registers the resource. Except for the
// service, it belongs to the goroutine of the reconciler.
//
// The gRPC server outlives its sockets and keeps their connections, so deleting the file
// does not disturb a connected kubelet.
type endpoint struct {
	service *service
	path    string // of the socket
	config  config
	server  *grpc.Server
	calls   *inflight
	running sync.WaitGroup // goroutines that serve a socket or register

	stopStreams context.CancelFunc // ends the service's streams

	// The socket
	socket     *unixsocket.Socket // nil before the first
	listenedAt time.Time          // when socket was created
	inUse      bool               // another process serves the path

	// The newest attempt to register
	attemptedSock unixsocket.FileID // the kubelet.sock that it goes to
	phase         Phase             // as of the last updatePhase
	startedAt     time.Time
	cancel        context.CancelFunc // nil before the first attempt

	// The next attempts
	listenAt   time.Time // not to create the socket before, unless the directory changes
	registerAt time.Time // not to register before, whatever the phase; zero for no limit
	retryAt    time.Time // when to register again with the same kubelet.sock; zero for never

	listenBackOff, registerBackOff retry.BackOff
	listenError, registerError     retry.ErrorLog
	streamError                    retry.ErrorLog // of streams that end soon after they start
}

// windowSize is the number of bytes of requests that a server buffers for a stream or a connection.
// It is the minimum of gRPC.
const windowSize = 64 << 10

// streamWorkers is how many goroutines a server keeps for calls and streams: the kubelet's stream,
// and a call. Further ones get goroutines of their own.
const streamWorkers = 2

func newEndpoint(s *service, path string, c config, stopStreams context.CancelFunc) *endpoint {
	calls := &inflight{}
	e := &endpoint{
		service: s,
		path:    path,
		config:  c,
		calls:   calls,
		server: grpc.NewServer(
			grpc.ChainUnaryInterceptor(s.logErrors, s.observeAllocations, calls.acquire),
			grpc.StatsHandler(calls),
			grpc.MaxRecvMsgSize(maxRequest),
			grpc.WaitForHandlers(true),
			// A goroutine that has handled a call has the stack that the next one needs.
			grpc.NumStreamWorkers(streamWorkers),
			grpc.ForceServerCodecV2(newCodec()),
			// Static windows disable gRPC's bandwidth estimates, which cost a ping for each call.
			grpc.StaticStreamWindowSize(windowSize),
			grpc.StaticConnWindowSize(windowSize),
			// No pings: a kubelet on the same host cannot vanish without closing.
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: math.MaxInt64}),
		),
		stopStreams:     stopStreams,
		phase:           PhaseIdle,
		listenBackOff:   retry.BackOff{First: c.backOffMin, Limit: c.backOffMax},
		registerBackOff: retry.BackOff{First: c.backOffMin, Limit: c.backOffMax},
		listenError:     retry.ErrorLog{Log: s.log, Interval: c.repeatInterval},
		registerError:   retry.ErrorLog{Log: s.log, Interval: c.repeatInterval},
		streamError:     retry.ErrorLog{Log: s.log, Interval: c.repeatInterval},
	}
	pluginapi.RegisterDevicePluginServer(e.server, s)
	return e
}

// reconcile creates the socket if it is missing and registers the resource if the kubelet
// does not follow its list. For dirChanged and the result, see [reconciler.reconcile].
func (e *endpoint) reconcile(
	ctx context.Context, kubeletSock unixsocket.FileID, now time.Time, dirChanged bool,
) time.Time {
	if kubeletSock == (unixsocket.FileID{}) {
		// Nobody would connect to a socket, and the next kubelet first deletes it.
		e.abandonAttempt()
		e.attemptedSock = unixsocket.FileID{}
		return time.Time{}
	}
	if !e.socket.Exists() {
		if !dirChanged && now.Before(e.listenAt) {
			return e.listenAt
		}
		if err := e.listen(); err != nil {
			e.inUse = errors.Is(err, unixsocket.ErrInUse)
			e.service.registration.setUnserved(err)
			e.listenAt = now.Add(e.listenBackOff.Next())
			e.listenError.Report(err, "Cannot serve the resource, trying again", "resource", e.service.name)
			return e.listenAt
		}
		e.adjustToNewSocket(now)
	}
	if now.Before(e.registerAt) {
		return e.registerAt
	}
	if e.attemptedSock == kubeletSock {
		e.updatePhase(now)
		if e.retryAt.IsZero() || now.Before(e.retryAt) {
			return e.retryAt
		}
		if e.phase == PhaseRegistered {
			e.registerError.Report(errNoStream, "Registering again", "resource", e.service.name)
		}
	} else {
		e.registerBackOff.Reset()
	}
	e.startAttempt(ctx, kubeletSock)
	return time.Time{}
}

// listen creates the socket and serves it.
func (e *endpoint) listen() error {
	s, err := unixsocket.Listen(e.path, 0o777)
	if err != nil {
		return err
	}
	if e.socket != nil {
		e.socket.Close() // nobody can connect to it without its file
	}
	e.socket, e.listenedAt, e.listenAt = s, time.Now(), time.Time{}
	e.listenBackOff.Reset()
	e.listenError.Clear()
	e.service.registration.setUnserved(nil)
	e.service.log.V(1).Info("Serving the resource", "resource", e.service.name, "socket", e.path)
	e.running.Go(func() {
		if err := e.server.Serve(s); err != nil && !errors.Is(err, net.ErrClosed) {
			e.service.log.Error(err, "Stopped serving the resource", "resource", e.service.name, "socket", e.path)
		}
	})
	return nil
}

// adjustToNewSocket changes when to register, because the socket was replaced.
func (e *endpoint) adjustToNewSocket(now time.Time) {
	if e.inUse {
		// Another process has just stopped to serve it. A kubelet that notices that after
		// our registration marks our devices unhealthy for good: it cannot tell the two
		// apart (pkg/kubelet/cm/devicemanager/manager.go, PluginDisconnected).
		e.inUse, e.registerAt = false, now.Add(e.config.gracePeriod)
	}
	switch e.phase {
	case PhaseRegistering:
		// A kubelet that is not connected yet keeps dialing the old socket.
		if e.service.registration.current().streams == 0 {
			e.abandonAttempt()
			e.retryAt = now.Add(e.config.gracePeriod)
		}
	case PhaseLost:
		e.retryAt = now
	}
}

// updatePhase updates the phase of the newest attempt. If it changed, updatePhase sets
// when the next attempt is due.
func (e *endpoint) updatePhase(now time.Time) {
	if e.phase == PhaseIdle {
		return
	}
	state, before := e.service.registration.current(), e.phase
	if e.phase = state.phase(); e.phase == before {
		return
	}
	if before == PhaseRegistering && e.phase != PhaseFailed {
		e.service.log.Info("Registered with the kubelet", "resource", e.service.name)
	}
	e.retryAt = time.Time{}
	switch e.phase {
	case PhaseFailed:
		isFirst := e.registerBackOff.Last == 0
		e.retryAt = now.Add(e.registerBackOff.Next())
		if isFirst && status.Code(state.err) == codes.Unavailable {
			// Most likely, the kubelet is about to listen on its new socket.
			e.service.log.V(1).Info("The kubelet is not ready", "resource", e.service.name, "reason", state.err.Error())
		} else {
			e.registerError.Report(state.err, "Cannot register with the kubelet, trying again",
				"resource", e.service.name)
		}
	case PhaseRegistered:
		e.retryAt = state.ended.Add(e.config.streamTimeout)
	case PhaseWatching:
		e.registerError.Clear()
	case PhaseLost:
		e.service.log.V(2).Info("The kubelet no longer follows the list", "resource", e.service.name,
			"reason", state.reason)
		switch isFirst := e.registerBackOff.Last == 0; {
		case state.ended.Sub(state.opened) > e.config.backOffMax:
			e.registerBackOff.Reset() // the stream was not flapping
			e.streamError.Clear()
		case !isFirst:
			e.streamError.Report(state.reason, "The stream to the kubelet keeps ending, registering again",
				"resource", e.service.name)
		}
		if e.listenedAt.After(e.startedAt) {
			e.retryAt = now // the socket disappeared before the stream ended: the kubelet restarted
		} else {
			e.retryAt = state.ended.Add(max(e.config.gracePeriod, e.registerBackOff.Next()))
		}
	}
}

// startAttempt starts to register with the kubelet that created kubelet.sock.
func (e *endpoint) startAttempt(ctx context.Context, kubeletSock unixsocket.FileID) {
	e.abandonAttempt()
	ctx, cancel := context.WithTimeout(ctx, e.config.registerTimeout)
	e.attemptedSock, e.phase, e.startedAt, e.cancel = kubeletSock, PhaseRegistering, time.Now(), cancel
	attempt := e.service.registration.reset()
	e.running.Go(func() {
		defer cancel()
		err := register(ctx, filepath.Join(e.config.dir, kubeletSocket), &pluginapi.RegisterRequest{
			Version:      pluginapi.Version,
			Endpoint:     filepath.Base(e.path),
			ResourceName: e.service.name,
			Options:      e.service.options(),
		})
		if !e.service.registration.complete(attempt, err) {
			return
		}
		for _, o := range e.service.observers {
			o.Registered(e.service.name, err)
		}
	})
}

// abandonAttempt cancels the newest attempt. Its answer and its streams no longer count.
func (e *endpoint) abandonAttempt() {
	if e.cancel != nil {
		e.cancel()
	}
	e.service.registration.reset()
	e.phase, e.retryAt = PhaseIdle, time.Time{}
}

// disconnect removes the socket, rejects further calls and waits a limited time for the calls in
// progress; see [inflight].
func (e *endpoint) disconnect() {
	e.socket.Remove() // first, so that the kubelet cannot connect again
	e.calls.drain(e.config.stopTimeout/2, e.config.preStartTimeout)
}

// stop ends the streams, stops the server and waits for all goroutines. Answers have flushTimeout
// to be written; then stop closes the open connections.
func (e *endpoint) stop() {
	e.stopStreams()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		e.server.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-time.After(e.config.flushTimeout):
		e.server.Stop()
		<-stopped
	}
	e.running.Wait()
}
