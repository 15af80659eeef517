package kubeletapi

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// gate counts the unary calls that are under way, so that an Allocate that is being answered when the process is told to end is
// answered: a pod whose Allocate breaks off fails for good (UnexpectedAdmissionError). The kubelet closes the connection as soon
// as its ListAndWatch stream ends, so the answer must be on its way before that. When it is, only a stats handler is told.
type gate struct {
	mu     sync.Mutex
	inside int
	empty  chan struct{} // made by shut, closed when nobody is inside
}

// pass is what a call carries with it.
type pass struct{ inside bool }

type passKey struct{}

// intercept lets a call in while the gate is open.
func (g *gate) intercept(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	g.mu.Lock()
	if g.empty != nil {
		g.mu.Unlock()
		return nil, status.Error(codes.Unavailable, "the device plugin is ending")
	}
	if p, ok := ctx.Value(passKey{}).(*pass); ok {
		p.inside = true
		g.inside++
	}
	g.mu.Unlock()
	return handler(ctx, request)
}

// TagRPC gives each call its pass.
func (g *gate) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, passKey{}, &pass{})
}

// HandleRPC lets a call out when its answer was written.
func (g *gate) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, end := s.(*stats.End); !end {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if p, ok := ctx.Value(passKey{}).(*pass); !ok || !p.inside {
		return
	}
	if g.inside--; g.inside == 0 && g.empty != nil {
		close(g.empty)
	}
}

// TagConn and HandleConn make the gate a stats.Handler.
func (g *gate) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (g *gate) HandleConn(context.Context, stats.ConnStats) {}

// shut lets no more calls in. The channel closes when the last one is out. It is called once.
func (g *gate) shut() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.empty = make(chan struct{})
	if g.inside == 0 {
		close(g.empty)
	}
	return g.empty
}
