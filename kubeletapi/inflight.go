// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// inflight counts the unary calls in progress so that they can be answered before the
// streams end: the kubelet closes its connection as soon as its ListAndWatch stream ends,
// and a pod whose Allocate call breaks off fails for good (UnexpectedAdmissionError). A
// call is in progress until its answer is written, which only a [stats.Handler] learns.
type inflight struct {
	mu       sync.Mutex
	draining bool
	calls    group // all calls
	starts   group // calls of PreStartContainer
}

// group counts calls in progress.
type group struct {
	calls int
	idle  chan struct{} // nil until drain; closed when no call is in progress
}

// drain returns a channel that is closed when no call is in progress.
func (g *group) drain() <-chan struct{} {
	g.idle = make(chan struct{})
	if g.calls == 0 {
		close(g.idle)
	}
	return g.idle
}

// release counts a call as finished.
func (g *group) release() {
	g.calls--
	if g.calls == 0 && g.idle != nil {
		close(g.idle)
	}
}

// errStopping is the answer to a call after drain.
var errStopping = status.Error(codes.Unavailable, "the device plugin is stopping")

// callKey is the context key of a *call.
type callKey struct{}

// call records in which groups a call is counted: in calls if counted, and also in starts if
// starts.
type call struct{ counted, starts bool }

// acquire is a [grpc.UnaryServerInterceptor]. It counts a call or, after drain, rejects it.
func (f *inflight) acquire(
	ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	f.mu.Lock()
	c, ok := ctx.Value(callKey{}).(*call)
	accepted := ok && !f.draining
	if accepted {
		_, c.starts = req.(*pluginapi.PreStartContainerRequest)
		c.counted = true
		f.calls.calls++
		if c.starts {
			f.starts.calls++
		}
	}
	f.mu.Unlock()
	if !accepted {
		return nil, errStopping
	}
	return handler(ctx, req)
}

// TagRPC implements [stats.Handler].
func (f *inflight) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, callKey{}, new(call))
}

// HandleRPC implements [stats.Handler]. It releases a call once its answer is written.
func (f *inflight) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.End); !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok || !c.counted {
		return
	}
	f.calls.release()
	if c.starts {
		f.starts.release()
	}
}

// TagConn implements [stats.Handler].
func (f *inflight) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements [stats.Handler].
func (f *inflight) HandleConn(context.Context, stats.ConnStats) {}

// reject rejects all further calls. It returns a channel that is closed when no call is in
// progress, and another that is closed when no call of PreStartContainer is. It may be called once.
func (f *inflight) reject() (idle, noStarts <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.draining = true
	return f.calls.drain(), f.starts.drain()
}

// drain rejects all further calls, and waits for the calls in progress. It waits up to startTimeout
// for calls of PreStartContainer, and up to timeout for other calls.
func (f *inflight) drain(timeout, startTimeout time.Duration) {
	idle, noStarts := f.reject()
	select {
	case <-idle:
		return
	case <-time.After(timeout):
	}
	select {
	case <-noStarts:
	case <-time.After(startTimeout - timeout):
	}
}
