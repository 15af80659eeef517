package qat

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/follow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// must fails the test for an error of the look-alike host, which is never what a test is about.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newFoldOf is a fold of the host as it would start there, without binding.
func newFoldOf(h *lookalike.Host, limit int) *fold {
	cfg := Config{SysfsRoot: h.Sysfs(), DevRoot: h.Dev(), DPDKDriver: driverVFIO, VFIOInterface: vfioAuto}
	host := newHost(cfg)
	b := newBinder(context.Background(), host, func(Address) {})
	b.observe = true
	return newFold(host, b, follow.NewDirectories(), KernelVFDrivers(), limit)
}

// freshTree is what a full read of the host says.
func freshTree(t testing.TB, h *lookalike.Host) *devtree.Tree {
	t.Helper()
	f := newFoldOf(h, 0)
	must(t, f.lookAtAll(time.Now()))
	return f.tree
}

// ueventSource hands the uevents of a look-alike host to a plugin, through the real parser. Its queue, as the kernel's, never makes the
// sender wait.
type ueventSource struct {
	mu       sync.Mutex
	messages [][]byte
	wake     chan struct{}
}

func newUeventSource(h *lookalike.Host) *ueventSource {
	s := &ueventSource{wake: make(chan struct{}, 1)}
	h.Uevents(s.send)
	return s
}

func (s *ueventSource) send(message []byte) {
	s.mu.Lock()
	s.messages = append(s.messages, append([]byte(nil), message...))
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *ueventSource) take() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.messages
	s.messages = nil
	return list
}

func (s *ueventSource) Run(ctx context.Context, sink events.Sink) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		for _, message := range s.take() {
			e := events.Event{Time: time.Now()}
			if err := events.ParseUevent(&e, message); err != nil {
				return err
			}
			sink.Event(&e)
		}
	}
}
