package kubeletapi

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/kubeletapi/kubelettest"
)

func (r *running) awaitRegistered(want string) {
	r.t.Helper()
	said := func() string {
		if err := r.m.CheckRegistered(context.Background()); err != nil {
			return err.Error()
		}
		return ""
	}
	eventually(r.t, "that the check says "+want, func() bool {
		got := said()
		return got == want || want != "" && strings.Contains(got, want)
	})
}

func TestTheCheckSaysWhichListTheKubeletDoesNotFollowAndWhy(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	var refuse atomic.Bool
	r := run(t, dir, h, WithBackOff(fast, slow))
	if err := r.m.CheckRegistered(t.Context()); err != nil {
		t.Errorf("without a resource: %v, want nil", err)
	}
	yellowOnly := tree(t, nil, "yellow", "1")
	h.set(yellowOnly)
	r.awaitRegistered(yellow + ": the kubelet has not answered the registration, or there is no kubelet")

	k := startKubelet(t, dir, kubelettest.OnRegister(func(_ context.Context, request *pluginapi.RegisterRequest) error {
		if refuse.Load() && request.ResourceName == blue {
			return errors.New("not blue")
		}
		return nil
	}))
	r.awaitRegistered("")

	refuse.Store(true)
	h.set(tree(t, yellowOnly, "blue", "1"))
	r.awaitRegistered("not blue")
	if err := r.m.CheckRegistered(t.Context()); err != nil && strings.Contains(err.Error(), yellow) {
		t.Errorf("yellow, which the kubelet follows, is named: %v", err)
	}
	refuse.Store(false)
	r.awaitRegistered("")

	k.Stop()
	r.awaitRegistered("or there is no kubelet")
	restart(t, k)
	r.awaitRegistered("")
}

func TestAResourceThatCannotBeServedIsNotRegistered(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	startKubelet(t, dir)
	r := run(t, dir, h)
	h.set(tree(t, nil, strings.Repeat("x", 63), "1")) // a good name, but too long for the path of a socket (unix(7))
	r.awaitRegistered("cannot be served; the log says why")
}

func TestAResourceThatTheKeeperHasNotSeenIsNotRegistered(t *testing.T) {
	m := NewManager(namespace, newHand())
	m.publish(tree(t, nil, "yellow", "1"))
	if err := m.CheckRegistered(t.Context()); err == nil || err.Error() != yellow+" is not served yet" {
		t.Errorf("the check says %v", err)
	}
}

func TestAStandingIsWellWhenTheKubeletFollows(t *testing.T) {
	refused, late := errors.New("no"), status.FromContextError(context.DeadlineExceeded).Err()
	for name, tt := range map[string]struct {
		view standingView
		want string // part of what is wrong
	}{
		"Register is under way":               {standingView{}, "not answered"},
		"a stream came before the answer":     {standingView{live: 1, opened: time.Unix(1, 0)}, "not answered"},
		"refused":                             {standingView{answered: true, err: refused}, "refuses the registration: no"},
		"refused, and a stream":               {standingView{answered: true, err: refused, live: 1, opened: time.Unix(1, 0)}, "refuses the registration: no"},
		"answered, and no stream yet":         {standingView{answered: true}, "does not call ListAndWatch"},
		"answered, and followed":              {standingView{answered: true, live: 1, opened: time.Unix(1, 0)}, ""},
		"answered too late, and followed":     {standingView{answered: true, err: late, live: 1, opened: time.Unix(1, 0)}, ""},
		"followed once, and now no more":      {standingView{answered: true, opened: time.Unix(1, 0)}, "follows the list no longer"},
		"answered too late, and not followed": {standingView{answered: true, err: late}, "refuses the registration: "},
	} {
		err := tt.view.check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
