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
)

// endpoint is one resource's end of the kubelet's API: its gRPC server, which lasts, the socket, which is made anew whenever it
// vanishes, and the registration. But for the service it belongs to the keeper's goroutine.
//
// The server takes connections from one socket after another and keeps those that it has: a socket that somebody deleted costs a
// kubelet that is connected nothing.
type endpoint struct {
	k       *keeper
	name    string // full resource name
	path    string // of the socket
	service *service
	server  *grpc.Server
	serving sync.WaitGroup // one for each socket that the server takes connections from

	socket        *socket // nil before the first
	madeAt        time.Time
	listenAt      time.Time // after a failure: when to try again
	listenBackOff backOff
	listenTrouble trouble
	predecessor   bool      // another process served the socket until now
	registerAt    time.Time // not to register before; zero when there is nothing to wait for

	kubelet         fileID // the kubelet.sock that the newest attempt to register went to
	phase           phase  // of the newest attempt, as last seen
	begunAt         time.Time
	cancel          context.CancelFunc // of the newest attempt
	retryAt         time.Time          // when the newest attempt gives way to the next; zero for never
	registerBackOff backOff
	registerTrouble trouble
}

// errNotFollowed says that a registration that seemed to succeed led to nothing.
var errNotFollowed = errors.New("the kubelet took the registration but does not call ListAndWatch")

func newEndpoint(k *keeper, resource string) (*endpoint, error) {
	path, err := socketPath(k.m.config.dir, k.m.namespace, resource)
	if err != nil {
		return nil, err
	}
	e := &endpoint{
		k:    k,
		name: ResourceName(k.m.namespace, resource),
		path: path,
		server: grpc.NewServer(
			grpc.UnaryInterceptor(k.m.calls.intercept),
			grpc.StatsHandler(&k.m.calls),
			grpc.WaitForHandlers(true),
			// A ping every two hours is the default. The kubelet is on this machine, and its end closes the socket.
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: math.MaxInt64}),
		),
		cancel: func() {},
	}
	e.service = newService(k.m, k.log, k.streams, resource)
	pluginapi.RegisterDevicePluginServer(e.server, e.service)
	return e, nil
}

// tend does what is missing between the endpoint and the kubelet. It returns when it must be called again at the latest, zero for never.
// changed says that the directory may have changed, so that making the socket may go now.
func (e *endpoint) tend(ctx context.Context, kubelet fileID, now time.Time, changed bool) time.Time {
	if kubelet.isZero() {
		// Without a kubelet there is nobody to connect to a socket, and the next one deletes it first thing.
		e.abandon(time.Time{})
		e.kubelet = fileID{}
		return time.Time{}
	}
	if !e.socket.there() {
		if !changed && now.Before(e.listenAt) {
			return e.listenAt
		}
		if err := e.listen(); err != nil {
			e.predecessor = errors.Is(err, errInUse)
			e.listenAt = now.Add(e.listenBackOff.next(&e.k.m.config))
			e.listenTrouble.report(e.k.log, e.k.m.config.repeatInterval, err, "Cannot serve the resource, trying again", "resource", e.name)
			return e.listenAt
		}
		if e.predecessor {
			// The kubelet cannot tell two instances apart. If it heard of the end of the old one's stream after our registration, it
			// would take us for gone, for good (pkg/kubelet/cm/devicemanager/manager.go, PluginDisconnected).
			e.predecessor, e.registerAt = false, now.Add(e.k.m.config.settle)
		}
		switch e.phase {
		case calling:
			// A kubelet that has not connected yet now tries to reach the socket that went, and would for long.
			if e.service.standing.look().live == 0 {
				e.abandon(now.Add(e.k.m.config.settle))
			}
		case lost: // the stream went and the socket too: this was a restart
			e.retryAt = now
		}
	}
	if now.Before(e.registerAt) {
		return e.registerAt
	}
	if e.kubelet != kubelet {
		e.registerBackOff.reset()
		e.attempt(ctx, kubelet)
		return time.Time{}
	}
	e.judge(now)
	if e.retryAt.IsZero() || now.Before(e.retryAt) {
		return e.retryAt
	}
	if e.phase == answered {
		e.registerTrouble.report(e.k.log, e.k.m.config.repeatInterval, errNotFollowed, "Registering again", "resource", e.name)
	}
	e.attempt(ctx, kubelet)
	return time.Time{}
}

// judge looks at what became of the newest attempt, and when it has become something else, sets when the next is due.
func (e *endpoint) judge(now time.Time) {
	if e.phase == idle {
		return
	}
	view, c := e.service.standing.look(), &e.k.m.config
	before := e.phase
	if e.phase = view.phase(); e.phase == before {
		return
	}
	if before == calling && e.phase != failed {
		e.k.log.Info("Registered with the kubelet", "resource", e.name)
	}
	e.retryAt = time.Time{}
	switch e.phase {
	case failed:
		first := e.registerBackOff == backOff{}
		e.retryAt = now.Add(e.registerBackOff.next(c))
		if first && status.Code(view.err) == codes.Unavailable {
			// Most often the kubelet made its socket and is about to listen to it. If not, the next attempt says so in a moment.
			e.k.log.V(1).Info("The kubelet is not ready", "resource", e.name, "reason", view.err.Error())
			break
		}
		e.registerTrouble.report(e.k.log, c.repeatInterval, view.err, "Cannot register with the kubelet, trying again", "resource", e.name)
	case answered:
		e.retryAt = view.ended.Add(c.streamDeadline)
	case following:
		e.registerTrouble.over()
	case lost:
		e.k.log.V(2).Info("The kubelet follows the list no longer", "resource", e.name)
		if view.ended.Sub(view.opened) > c.backOffMax {
			e.registerBackOff.reset() // it was no flapping
		}
		if e.madeAt.After(e.begunAt) {
			e.retryAt = now // the socket vanished before the stream did: this was a restart
			break
		}
		e.retryAt = view.ended.Add(max(c.settle, e.registerBackOff.next(c)))
	}
}

// attempt registers with the kubelet that made kubelet.sock.
func (e *endpoint) attempt(ctx context.Context, kubelet fileID) {
	e.cancel()
	c := &e.k.m.config
	ctx, cancel := context.WithTimeout(ctx, c.registerDeadline)
	e.cancel = cancel
	e.kubelet, e.phase, e.begunAt, e.retryAt = kubelet, calling, time.Now(), time.Time{}
	number := e.service.standing.begin()
	e.k.attempts.Go(func() {
		defer cancel()
		err := register(ctx, filepath.Join(c.dir, kubeletSocket), &pluginapi.RegisterRequest{
			Version:      pluginapi.Version,
			Endpoint:     filepath.Base(e.path),
			ResourceName: e.name,
			Options:      e.service.options(),
		})
		if e.service.standing.answer(number, err) {
			e.k.m.signal()
		}
	})
}

// abandon gives the newest attempt up. The next one to the same kubelet is due at retryAt.
func (e *endpoint) abandon(retryAt time.Time) {
	e.cancel()
	e.service.standing.begin()
	e.phase, e.retryAt = idle, retryAt
}

// listen makes the socket and has the server take connections from it.
func (e *endpoint) listen() error {
	s, err := listen(e.path)
	if err != nil {
		return err
	}
	if e.socket != nil {
		e.socket.Close() // its file is gone, nobody can connect to it any more
	}
	e.socket, e.madeAt, e.listenAt = s, time.Now(), time.Time{}
	e.listenBackOff.reset()
	e.listenTrouble.over()
	e.k.log.V(1).Info("Serving the resource", "resource", e.name, "socket", e.path)
	e.serving.Go(func() {
		if err := e.server.Serve(s); err != nil && !errors.Is(err, net.ErrClosed) {
			e.k.log.Error(err, "Serving the resource ended", "resource", e.name, "socket", e.path)
		}
	})
	return nil
}

// stop ends the server. The calls that it answered are flushed, the streams end by themselves; what is stuck is broken off.
func (e *endpoint) stop() {
	graceful := make(chan struct{})
	go func() { e.server.GracefulStop(); close(graceful) }()
	limit := time.NewTimer(e.k.m.config.flushDeadline)
	defer limit.Stop()
	select {
	case <-graceful:
	case <-limit.C:
		e.server.Stop()
		<-graceful
	}
	e.serving.Wait()
}
