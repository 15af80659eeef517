package kernelmode

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

// A listener is a Plugin that listens to events of the test's, in a time of the test's own, and asks the kernel, which the test plays.
type listener struct {
	*testHost
	*Plugin
	t    *testing.T
	sink events.Sink
	tree atomic.Pointer[devtree.Tree]
}

// listening runs a test with a listener on a host whose device is up.
func listening(t *testing.T, test func(t *testing.T, l *listener)) {
	t.Helper()
	h := newTestHost(t, lookalike.WithoutIOMMU())
	h.up(t, h.addPF(t, 0, addressA))
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	must(t, os.WriteFile(filepath.Join(h.Sysfs(), "bus/pci/uevent"), nil, 0o600))
	synctest.Test(t, func(t *testing.T) {
		l := &listener{testHost: h, t: t}
		cfg := h.config()
		cfg.Sources = []func() (events.Source, error){func() (events.Source, error) {
			return sourceFunc(func(ctx context.Context, sink events.Sink) error {
				l.sink = sink
				<-ctx.Done()
				return nil
			}), nil
		}}
		p, err := New(cfg)
		must(t, err)
		l.Plugin = p
		l.Hearing.PretendSysfs()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- p.watch(ctx, func(context.Context) ([]byte, error) { return []byte(h.statusText()), nil }, func(tree *devtree.Tree) { l.tree.Store(tree) })
		}()
		synctest.Wait()
		test(t, l)
		cancel()
		must(t, <-ended)
	})
}

// question is what the kernel was asked last; "" when it was not.
func (l *listener) question() string {
	l.t.Helper()
	text, err := os.ReadFile(filepath.Join(l.Sysfs(), "bus/pci/uevent"))
	must(l.t, err)
	return strings.TrimPrefix(strings.TrimSpace(string(text)), "change ")
}

func (l *listener) answer() {
	l.t.Helper()
	e := events.Event{Time: time.Now()}
	must(l.t, events.ParseUevent(&e, []byte("change@/bus/pci\x00ACTION=change\x00DEVPATH=/bus/pci\x00SUBSYSTEM=bus\x00SYNTH_UUID="+l.question()+"\x00")))
	l.sink.Event(&e)
	synctest.Wait()
}

func TestAPluginThatIsNotAnsweredLooksMoreOftenUntilItIs(t *testing.T) {
	said := captureLog(t)
	listening(t, func(t *testing.T, l *listener) {
		ctx := t.Context()
		if l.CheckKernelHeard(ctx) == nil || l.CheckFirstLook(ctx) != nil || l.CheckEventLoop(ctx) != nil {
			t.Errorf("heard %v, looked %v, turns %v; want that just the first is open", l.CheckKernelHeard(ctx), l.CheckFirstLook(ctx), l.CheckEventLoop(ctx))
		}
		pass(10 * time.Second)
		if lines := said("Deaf"); len(lines) != 1 || l.CheckKernelHeard(ctx) == nil {
			t.Errorf("without an answer: check %v, logged %q; want that it is deaf, once", l.CheckKernelHeard(ctx), lines)
		}
		must(t, os.Remove(filepath.Join(l.etc, "c6xx_dev0.conf")))
		first := l.question()
		pass(deafAuditInterval + auditSettle)
		if got := l.tree.Load().Resource("cy1_dc0").Len(); got != 0 {
			t.Errorf("%d units are listed %v after their file went unheard", got, deafAuditInterval+auditSettle)
		}
		if l.question() == first {
			t.Error("who is deaf does not ask again")
		}
		l.answer()
		if lines := said("are heard now"); len(lines) != 1 || l.CheckKernelHeard(ctx) != nil {
			t.Errorf("with an answer: check %v, logged %q; want that it is heard, once", l.CheckKernelHeard(ctx), lines)
		}
	})
}

func TestALossIsReasonToAskWhetherTheKernelIsHeard(t *testing.T) {
	listening(t, func(t *testing.T, l *listener) {
		first := l.question()
		l.sink.Resync("lost")
		synctest.Wait()
		if l.question() == first {
			t.Fatal("a loss leads to no question")
		}
		l.answer()
		pass(time.Hour)
		if err := l.CheckKernelHeard(t.Context()); err != nil {
			t.Errorf("the answer that was lost is missed: %v", err)
		}
	})
}

func TestTheProofThatTheKernelIsHeardIsLoggedAsSuch(t *testing.T) {
	said := captureLog(t)
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	must(t, flags.Set("v", "4"))
	listening(t, func(t *testing.T, l *listener) {
		l.answer()
		want := `"Event" source="uevent" action="change" path="/bus/pci" ledTo="proof that the kernel is heard"`
		if lines := said(`"Event"`); len(lines) != 1 || lines[0] != want {
			t.Errorf("logged %q, want once %q", lines, want)
		}
	})
}

// Event runs in the reader of a socket.
func TestToFileAnEventAllocatesNothing(t *testing.T) {
	h := newTestHost(t)
	p, err := New(h.config())
	must(t, err)
	l := newLoop(p, nil, nil)
	for name, message := range map[string]string{
		"of a function": "change@/devices/pci0000:6b/0000:6b:00.1\x00SUBSYSTEM=pci\x00PCI_CLASS=B4000\x00",
		"of the bus":    "change@/bus/pci\x00SUBSYSTEM=bus\x00SYNTH_UUID=bf6d4b6e-0000-4000-8000-000000000000\x00",
		"of a disk":     "change@/devices/pci0000:00/0000:00:04.0/virtio1/block/vda\x00SUBSYSTEM=block\x00DEVNAME=vda\x00",
	} {
		var e events.Event
		must(t, events.ParseUevent(&e, []byte(message)))
		if n := testing.AllocsPerRun(100, func() { l.Event(&e); l.mailbox.Take(&l.batch) }); n > 0 {
			t.Errorf("an event %s allocates %v times, want 0", name, n)
		}
	}
}
