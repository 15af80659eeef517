package qat

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
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
	*lookalike.Host
	*Plugin
	t         *testing.T
	sink      events.Sink
	publisher devtree.Publisher
}

// listening runs a test with a listener on a host.
func listening(t *testing.T, h *lookalike.Host, cfg Config, test func(t *testing.T, l *listener)) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(h.Sysfs(), "bus/pci/uevent"), nil, 0o600))
	synctest.Test(t, func(t *testing.T) {
		l := &listener{Host: h, t: t}
		cfg.SysfsRoot, cfg.DevRoot, cfg.ObserveOnly, cfg.HealthInterval, cfg.AuditInterval = h.Sysfs(), h.Dev(), true, -1, -1
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
		go func() { ended <- p.Watch(ctx, func(tree *devtree.Tree) { l.publisher.Publish(tree) }) }()
		synctest.Wait()
		test(t, l)
		cancel()
		must(t, <-ended)
	})
}

func (l *listener) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
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
	h := newHost4xxx(t)
	said := captureLog(t)
	listening(t, h, Config{}, func(t *testing.T, l *listener) {
		if l.CheckKernelHeard(t.Context()) == nil || l.CheckFirstLook(t.Context()) != nil || l.CheckEventLoop(t.Context()) != nil {
			t.Errorf("heard %v, looked %v, turns %v; want that just the first is open", l.CheckKernelHeard(t.Context()), l.CheckFirstLook(t.Context()), l.CheckEventLoop(t.Context()))
		}
		l.pass(10 * time.Second)
		if lines := said("Deaf"); len(lines) != 1 || l.CheckKernelHeard(t.Context()) == nil {
			t.Errorf("without an answer: check %v, logged %q; want that it is deaf, once", l.CheckKernelHeard(t.Context()), lines)
		}
		must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
		must(t, h.Bind(vfA1, driverVFIO))
		first := l.question()
		l.pass(deafAuditInterval + auditSettle)
		if l.publisher.Tree().Resource("cy").Len() != 1 {
			t.Errorf("a VF is not listed %v after it came unheard", deafAuditInterval+auditSettle)
		}
		if l.question() == first {
			t.Error("who is deaf does not ask again")
		}
		l.answer()
		if lines := said("are heard now"); len(lines) != 1 || l.CheckKernelHeard(t.Context()) != nil {
			t.Errorf("with an answer: check %v, logged %q; want that it is heard, once", l.CheckKernelHeard(t.Context()), lines)
		}
		must(t, h.Unbind(vfA1))
		l.pass(time.Hour)
		if l.publisher.Tree().Resource("cy").Len() != 1 {
			t.Error("who hears looks more often than it was told to")
		}
	})
}

func TestALossIsReasonToAskWhetherTheKernelIsHeard(t *testing.T) {
	listening(t, newHost4xxx(t), Config{}, func(t *testing.T, l *listener) {
		first := l.question()
		l.sink.Resync("lost")
		synctest.Wait()
		if l.question() == first {
			t.Fatal("a loss leads to no question")
		}
		l.answer()
		l.pass(time.Hour)
		if err := l.CheckKernelHeard(t.Context()); err != nil {
			t.Errorf("the answer that was lost is missed: %v", err)
		}
	})
}

func TestADryRunAsksTheKernelNothing(t *testing.T) {
	listening(t, newHost4xxx(t), Config{DryRun: true}, func(t *testing.T, l *listener) {
		l.pass(time.Hour)
		if q := l.question(); q != "" {
			t.Errorf("the kernel was asked %q", q)
		}
	})
}

func TestTheLogTellsWhichVFIsNotListedThoughNothingHappens(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.SetVFs(pfA, 16))
	said := captureLog(t)
	listening(t, h, Config{}, func(t *testing.T, l *listener) {
		l.answer()
		l.pass(time.Hour)
		line := `"Not listed" reason="driver vfio-pci does not hold it, and -bind=false leaves that to others" devices=["` + strings.Join(h.VFs(pfA), `","`) + `"]`
		if lines := said("Not listed"); len(lines) != 1 || lines[0] != line {
			t.Errorf("logged %q, want once %q", lines, line)
		}
	})
}

func TestASourceThatCannotBeOpenedIsNotHeard(t *testing.T) {
	h := newHost4xxx(t)
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{SysfsRoot: h.Sysfs(), DevRoot: h.Dev(), ObserveOnly: true, HealthInterval: -1, AuditInterval: -1, Sources: []func() (events.Source, error){
			func() (events.Source, error) { return nil, errors.New("no") },
		}})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Watch(ctx, func(*devtree.Tree) {}) }()
		synctest.Wait()
		if err := p.CheckKernelHeard(ctx); err == nil || !strings.Contains(err.Error(), "cannot be opened") {
			t.Errorf("the check says %v, want that a source cannot be opened", err)
		}
		cancel()
		must(t, <-ended)
	})
}

func TestTheProofThatTheKernelIsHeardIsLoggedAsSuch(t *testing.T) {
	said := captureLog(t)
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	must(t, flags.Set("v", "4"))
	listening(t, newHost4xxx(t), Config{}, func(t *testing.T, l *listener) {
		l.answer()
		want := `"Event" source="uevent" action="change" device="hearing" path="/bus/pci" ledTo="proof that the kernel is heard"`
		if lines := said(`"Event"`); len(lines) != 1 || lines[0] != want {
			t.Errorf("logged %q, want once %q", lines, want)
		}
	})
}

func TestAHostThatCannotBeListedWasNotLookedAt(t *testing.T) {
	h := newHost4xxx(t)
	said := captureLog(t)
	devices := filepath.Join(h.Sysfs(), "bus/pci/devices")
	must(t, os.Rename(devices, devices+".away"))
	listening(t, h, Config{}, func(t *testing.T, l *listener) {
		if l.CheckFirstLook(t.Context()) == nil {
			t.Error("it was looked at without a list of functions")
		}
		l.pass(deafAuditInterval)
		if lines := said("Cannot look at the host"); len(lines) != 1 {
			t.Errorf("logged %q, want one line", lines)
		}
		must(t, os.Rename(devices+".away", devices)) // as a file system is mounted: nobody is told
		l.pass(deafAuditInterval)
		must(t, l.CheckFirstLook(t.Context()))
	})
}

// Event runs in the reader of a socket.
func TestToFileAnEventAllocatesNothing(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
	p, err := New(Config{SysfsRoot: h.Sysfs(), DevRoot: h.Dev()})
	must(t, err)
	p.Hearing.PretendSysfs()
	l := newLoop(p, nil)
	l.fold = newFoldOf(h, 0)
	l.lookAtAll(time.Now()) // which asks
	for name, e := range map[string]*events.Event{
		"of a VF":    uevent(t, "change@/devices/pci0000:6b/"+vfA1, "SUBSYSTEM=pci", "PCI_ID=8086:4941"),
		"of the bus": uevent(t, "change@/bus/pci", "SUBSYSTEM=bus", "SYNTH_UUID=bf6d4b6e-0000-4000-8000-000000000000"),
		"of a disk":  uevent(t, "change@/devices/pci0000:00/0000:00:04.0/virtio1/block/vda", "SUBSYSTEM=block"),
	} {
		if n := testing.AllocsPerRun(100, func() { l.Event(e); l.mailbox.Take(&l.batch) }); n > 0 {
			t.Errorf("an event %s allocates %v times, want 0", name, n)
		}
	}
}

// captureLog keeps what is logged until the test ends; the function that it returns gives the lines with a text in them, without their
// time and place.
func captureLog(t *testing.T) func(part string) []string {
	t.Helper()
	var text bytes.Buffer
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", &text) // which gets the errors, too
	return func(part string) (lines []string) {
		klog.Flush()
		for line := range strings.Lines(text.String()) {
			if _, line, ok := strings.Cut(strings.TrimSpace(line), "] "); ok && strings.Contains(line, part) {
				lines = append(lines, line)
			}
		}
		return lines
	}
}
