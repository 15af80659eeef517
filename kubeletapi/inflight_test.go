// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

func TestDrainWaitsForUnaryCallsOnly(t *testing.T) {
	f := &inflight{}
	isClosed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	start := func() context.Context { return f.TagRPC(context.Background(), &stats.RPCTagInfo{}) }
	acquire := func(ctx context.Context) error {
		_, err := f.acquire(ctx, nil, nil, func(context.Context, any) (any, error) { return nil, nil })
		return err
	}
	stream, first, second := start(), start(), start() // a stream passes no unary interceptor
	for _, call := range []context.Context{first, second} {
		if err := acquire(call); err != nil {
			t.Fatalf("before drain: %v", err)
		}
	}
	f.HandleRPC(first, &stats.OutPayload{})
	f.HandleRPC(stream, &stats.End{})
	f.HandleRPC(first, &stats.End{})
	idle, _ := f.reject()
	if isClosed(idle) {
		t.Error("drain does not wait for the second call")
	}
	late := start()
	if err := acquire(late); status.Code(err) != codes.Unavailable {
		t.Errorf("call after drain: %v, want Unavailable", err)
	}
	f.HandleRPC(late, &stats.End{})
	if isClosed(idle) {
		t.Error("the end of a rejected call counts")
	}
	f.HandleRPC(second, &stats.End{})
	if !isClosed(idle) {
		t.Error("drain waits although all calls have ended")
	}
	if idle, noStarts := (&inflight{}).reject(); !isClosed(idle) || !isClosed(noStarts) {
		t.Error("drain waits although there was no call")
	}
}
