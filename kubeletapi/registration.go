// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"cmp"
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

// register calls Register on the kubelet's socket. The kubelet connects to the socket of
// the resource before it answers.
func register(ctx context.Context, socket string, request *pluginapi.RegisterRequest) error {
	conn, err := grpc.NewClient("passthrough:///kubelet", // only the dialer knows the path: it may be no valid URL
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = pluginapi.NewRegistrationClient(conn).Register(ctx, request)
	return err
}

// registration tracks the newest attempt to register one resource, and the ListAndWatch
// streams that opened since it began. An older stream does not count: its kubelet has
// died or has forgotten the resource. All methods may be called from any goroutine.
type registration struct {
	wake   signal // of the reconciler: the Register call returned or the last stream ended
	counts counts // since the resource is served

	mu      sync.Mutex
	attempt int
	state   registrationState

	shortened error // why the kubelet does not get all devices; nil if it does
	unserved  error // why the socket could not be created; nil if it could, or is not needed
}

type registrationState struct {
	answered bool // the Register call returned err
	err      error
	streams  int       // open now
	opened   time.Time // when the first stream opened; zero if none did
	ended    time.Time // when the Register call returned or, later, the last stream ended
	reason   error     // why the last stream ended
}

// A Phase is how far the registration of a resource has come.
type Phase string

const (
	PhaseIdle        Phase = "idle"        // no attempt: the kubelet or the socket is missing
	PhaseRegistering Phase = "registering" // the Register call is in progress
	PhaseFailed      Phase = "failed"      // the Register call failed
	PhaseRegistered  Phase = "registered"  // the Register call succeeded, and ListAndWatch must follow
	PhaseWatching    Phase = "watching"    // a ListAndWatch stream is open
	PhaseLost        Phase = "lost"        // the last ListAndWatch stream ended
)

func (s registrationState) phase() Phase {
	switch {
	case !s.answered:
		return PhaseRegistering
	case s.streams > 0 && (s.err == nil || status.Code(s.err) == codes.DeadlineExceeded):
		return PhaseWatching // even if the kubelet answered too late
	case s.err != nil:
		return PhaseFailed
	case s.opened.IsZero():
		return PhaseRegistered
	}
	return PhaseLost
}

var errNoStream = errors.New("the kubelet accepted the registration but does not call ListAndWatch")

// check returns nil if the kubelet follows the list of devices, or else an error that
// tells how far the registration has come.
func (s registrationState) check() error {
	switch s.phase() {
	case PhaseWatching:
		return nil
	case PhaseFailed:
		return fmt.Errorf("the kubelet refuses the registration: %w", s.err)
	case PhaseRegistered:
		return errNoStream
	case PhaseLost:
		return fmt.Errorf("the kubelet no longer follows the list: %w", s.reason)
	}
	return errors.New("the kubelet has not answered the registration")
}

// reset forgets the newest attempt and returns the number of the next one.
func (r *registration) reset() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempt++
	r.state = registrationState{}
	return r.attempt
}

// complete records the result of the attempt's Register call. It returns false if the attempt has
// been abandoned.
func (r *registration) complete(attempt int, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if attempt != r.attempt {
		return false
	}
	r.state.answered, r.state.err, r.state.ended = true, err, time.Now()
	r.wake.send()
	return true
}

// openStream counts a stream as open. The stream calls closeStream with the reason when it ends.
func (r *registration) openStream() (closeStream func(reason error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	attempt := r.attempt
	r.state.streams++
	if r.state.opened.IsZero() {
		r.state.opened = time.Now()
	}
	return func(reason error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if attempt != r.attempt {
			return
		}
		r.state.streams--
		if r.state.streams == 0 {
			r.state.ended, r.state.reason = time.Now(), cmp.Or(reason, errStopping)
			r.wake.send()
		}
	}
}

// shorten records why the kubelet does not get all devices; nil means that it gets all. It returns
// the previous value.
func (r *registration) shorten(err error) (before error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, r.shortened = r.shortened, err
	return before
}

// setUnserved records why the socket could not be created; nil means that it exists.
func (r *registration) setUnserved(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unserved = err
}

// check returns nil if the kubelet follows the list and the list contains all devices. Otherwise
// the error states what is wrong.
func (r *registration) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem()
}

// problem is check for a caller that holds mu.
func (r *registration) problem() error {
	if r.unserved != nil {
		return fmt.Errorf("it cannot be served: %w", r.unserved)
	}
	if err := r.state.check(); err != nil {
		return err
	}
	return r.shortened
}

func (r *registration) current() registrationState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}
