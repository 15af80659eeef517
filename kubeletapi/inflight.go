// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// inflight counts the unary calls in progress so that they can be answered before the
// streams end: the kubelet closes its connection as soon as its ListAndWatch stream ends,
// and a pod whose Allocate call breaks off fails for good (UnexpectedAdmissionError). A
// call is in progress until its answer is written, which only a [stats.Handler] learns.
type inflight struct {
	mu    sync.Mutex
	calls int
	idle  chan struct{} // nil until drain; closed when no call is in progress
}

// errStopping is the answer to a call after drain.
var errStopping = status.Error(codes.Unavailable, "the device plugin is stopping")

// callKey is the context key of a *bool: whether the call is counted.
type callKey struct{}

// acquire is a [grpc.UnaryServerInterceptor]. It counts a call or, after drain, rejects it.
func (f *inflight) acquire(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	f.mu.Lock()
	counted, ok := ctx.Value(callKey{}).(*bool)
	accepted := ok && f.idle == nil
	if accepted {
		*counted = true
		f.calls++
	}
	f.mu.Unlock()
	if !accepted {
		return nil, errStopping
	}
	return handler(ctx, req)
}

// TagRPC implements [stats.Handler].
func (f *inflight) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, callKey{}, new(bool))
}

// HandleRPC implements [stats.Handler]. It releases a call once its answer is written.
func (f *inflight) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.End); !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if counted, ok := ctx.Value(callKey{}).(*bool); !ok || !*counted {
		return
	}
	f.calls--
	if f.calls == 0 && f.idle != nil {
		close(f.idle)
	}
}

// TagConn implements [stats.Handler].
func (f *inflight) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements [stats.Handler].
func (f *inflight) HandleConn(context.Context, stats.ConnStats) {}

// drain rejects all further calls. The returned channel is closed when no call is in
// progress any more. drain may be called once.
func (f *inflight) drain() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.idle = make(chan struct{})
	if f.calls == 0 {
		close(f.idle)
	}
	return f.idle
}
