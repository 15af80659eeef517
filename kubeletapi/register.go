package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// register tells the kubelet behind the socket of an endpoint of ours. The kubelet connects to the endpoint before it answers.
func register(ctx context.Context, kubeletSocket string, request *pluginapi.RegisterRequest) error {
	conn, err := grpc.NewClient("passthrough:///kubelet", // the dialer knows the address; as a URL a path could mean something else
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", kubeletSocket)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = pluginapi.NewRegistrationClient(conn).Register(ctx, request)
	return err
}

// standing is how a resource stands with the kubelet: its newest attempt to register, and the streams opened since that attempt began.
// A stream from before does not count: that kubelet is dead or has forgotten it.
type standing struct {
	mu      sync.Mutex
	attempt int // 0 before the first
	view    standingView
}

type standingView struct {
	answered bool // the Register call has ended, with err
	err      error
	live     int       // streams that are open now
	opened   time.Time // when the first stream was opened, zero when none was
	ended    time.Time // when the Register call, or later the last stream, ended
}

// phase is what the keeper makes of a standing.
type phase int

const (
	idle      phase = iota // no attempt: no kubelet, or no socket yet
	calling                // Register is under way; it has a deadline of its own
	failed                 // Register failed
	answered               // Register succeeded, and ListAndWatch is awaited
	following              // the kubelet follows the list
	lost                   // it did, and does no longer
)

func (v standingView) phase() phase {
	switch {
	case !v.answered:
		return calling
	case v.live > 0 && (v.err == nil || status.Code(v.err) == codes.DeadlineExceeded):
		return following // a kubelet that answered too late, but follows the list, knows us well enough
	case v.err != nil:
		return failed
	case v.opened.IsZero():
		return answered
	}
	return lost
}

// check is nil when the kubelet follows the list, and otherwise says how far it has come.
func (v standingView) check() error {
	switch v.phase() {
	case following:
		return nil
	case failed:
		return fmt.Errorf("the kubelet refuses the registration: %w", v.err)
	case answered:
		return errNotFollowed
	case lost:
		return errors.New("the kubelet follows the list no longer")
	}
	return errors.New("the kubelet has not answered the registration, or there is no kubelet")
}

// begin makes a new attempt the newest, and returns its number.
func (s *standing) begin() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempt++
	s.view = standingView{}
	return s.attempt
}

// answer ends the Register call of the attempt. It tells whether that is still the newest.
func (s *standing) answer(attempt int, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if attempt != s.attempt {
		return false
	}
	s.view.answered, s.view.err, s.view.ended = true, err, time.Now()
	return true
}

// open counts a stream. The function that it returns takes the stream off again; it tells whether the last stream of the newest
// attempt is gone.
func (s *standing) open() (end func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	attempt := s.attempt
	s.view.live++
	if s.view.opened.IsZero() {
		s.view.opened = time.Now()
	}
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if attempt != s.attempt {
			return false
		}
		s.view.live--
		if s.view.live > 0 {
			return false
		}
		s.view.ended = time.Now()
		return true
	}
}

func (s *standing) look() standingView {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view
}
