// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
)

func claimsOf(n int) (list []*dra.Claim) {
	for i := range n {
		list = append(list, &dra.Claim{Namespace: "default", Name: fmt.Sprint(i), Uid: fmt.Sprintf("uid-%d", i)})
	}
	return list
}

func TestClaimsArePreparedConcurrentlyWithinALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, highest atomic.Int64
		work := func() {
			highest.Store(max(highest.Load(), running.Add(1)))
			time.Sleep(time.Second)
			running.Add(-1)
		}
		s, err := New(Config{
			Driver: "color.example.com",
			Root:   "/k",
			Prepare: func(_ context.Context, c *dra.Claim) ([]*dra.Device, error) {
				work()
				if c.GetUid() == "uid-7" {
					return nil, errors.New("dry")
				}
				return []*dra.Device{{DeviceName: c.GetName()}}, nil
			},
			Unprepare: func(_ context.Context, c *dra.Claim) error {
				work()
				if c.GetUid() == "uid-7" {
					return errors.New("wet")
				}
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		prepared, err := (&service{Server: s}).NodePrepareResources(t.Context(),
			&dra.NodePrepareResourcesRequest{Claims: claimsOf(3 * maxClaims)})
		if err != nil || time.Since(start) != 3*time.Second || highest.Load() != maxClaims {
			t.Errorf("prepared after %v, at most %d at a time: %v", time.Since(start), highest.Load(), err)
		}
		unprepared, err := (&service{Server: s}).NodeUnprepareResources(t.Context(),
			&dra.NodeUnprepareResourcesRequest{Claims: claimsOf(3 * maxClaims)})
		if err != nil {
			t.Error(err)
		}
		got, want := map[string]string{}, map[string]string{}
		for i := range 3 * maxClaims {
			uid := fmt.Sprintf("uid-%d", i)
			p, u := prepared.GetClaims()[uid], unprepared.GetClaims()[uid]
			got[uid] = fmt.Sprintf("%d %q %q", len(p.GetDevices()), p.GetError(), u.GetError())
			want[uid] = `1 "" ""`
		}
		want["uid-7"] = `0 "dry" "wet"`
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("answers (-want +got):\n%s", diff)
		}
	})
}

func TestCallWithManyClaimsEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		s, err := New(Config{
			Driver: "color.example.com",
			Root:   "/k",
			Prepare: func(ctx context.Context, _ *dra.Claim) ([]*dra.Device, error) {
				calls.Add(1)
				<-ctx.Done()
				return nil, ctx.Err()
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = (&service{Server: s}).NodePrepareResources(ctx,
			&dra.NodePrepareResourcesRequest{Claims: claimsOf(1000)})
		if !errors.Is(err, context.DeadlineExceeded) || calls.Load() != maxClaims {
			t.Errorf("%d calls, error %v", calls.Load(), err)
		}
	})
}

func TestLongPathOfASocketIsRefused(t *testing.T) {
	for _, tt := range []struct {
		driver string
		ok     bool
	}{
		{"color.example.com", true},
		{"a234567890123456789012345678901234567890123456789012345678.com", false},
	} {
		uid := "11111111-1111-1111-1111-111111111111"
		_, err := New(Config{Driver: tt.driver, Root: "/var/lib/kubelet", PodUID: uid})
		if (err == nil) != tt.ok {
			t.Errorf("driver %s: %v", tt.driver, err)
		}
	}
}
