package kernelmode

import (
	"context"
	"errors"
	"flag"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

// A bench is a loop in a bubble of its own time, whose adf_ctl is a function and whose events the test makes.
type bench struct {
	*testHost
	t      *testing.T
	plugin *Plugin
	loop   *loop
	runs   atomic.Int32
	tree   atomic.Pointer[devtree.Tree]
	stop   func()
}

// onBench runs a test with a loop on a host whose device is up. status, if not nil, may say something else than the host.
func onBench(t *testing.T, audit time.Duration, status func(run int, says string) (string, error), test func(t *testing.T, b *bench, d *testDevice)) {
	t.Helper()
	h := newTestHost(t, lookalike.WithoutIOMMU())
	d := h.addPF(t, 0, addressA)
	h.up(t, d)
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	synctest.Test(t, func(t *testing.T) {
		b := &bench{testHost: h, t: t}
		cfg := h.config()
		cfg.AuditInterval = audit
		p, err := New(cfg)
		must(t, err)
		b.plugin = p
		b.loop = newLoop(p, func() ([]byte, error) {
			run := int(b.runs.Add(1))
			says := h.statusText()
			if status != nil {
				says, err := status(run, says)
				return []byte(says), err
			}
			return []byte(says), nil
		}, func(tree *devtree.Tree) { b.tree.Store(tree) })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			b.loop.loop(ctx)
			b.loop.runs.Wait()
			close(ended)
		}()
		b.stop = func() { cancel(); <-ended }
		defer b.stop()
		synctest.Wait()
		test(t, b, d)
	})
}

// pass lets time go by, and all that is due happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (b *bench) expectRuns(want int, when string) {
	b.t.Helper()
	synctest.Wait()
	if got := int(b.runs.Load()); got != want {
		b.t.Errorf("adf_ctl ran %d times %s, want %d", got, when, want)
	}
}

func (b *bench) expectUnits(want ...string) {
	b.t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(append([]string{}, want...), lists(b.tree.Load())["cy1_dc0"]); diff != "" {
		b.t.Errorf("units (-want +got):\n%s", diff)
	}
}

// wrote is the event of a file.
func (b *bench) wrote(name string) {
	b.loop.Event(&events.Event{Origin: events.Inotify, Action: events.Write, Path: []byte(name), Time: time.Now()})
}

func (b *bench) config0() string { return filepath.Join(b.etc, "c6xx_dev0.conf") }

func TestAStreamOfEventsWhileADFCtlRunsIsOneMoreRun(t *testing.T) {
	var gate atomic.Pointer[chan struct{}]
	onBench(t, -1, func(_ int, says string) (string, error) {
		if c := gate.Load(); c != nil {
			<-*c
		}
		return says, nil
	}, func(t *testing.T, b *bench, d *testDevice) {
		b.expectUnits("SSL_dev0_0")
		b.expectRuns(1, "at the start")
		closed := make(chan struct{})
		gate.Store(&closed)
		b.wrote(b.config0())
		b.expectRuns(2, "after the first event")
		b.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
		for k := range 1000 {
			b.wrote(b.config0())
			if k%100 == 0 {
				synctest.Wait()
			}
		}
		b.expectUnits("SSL_dev0_0", "SSL_dev0_1") // the file is not kept waiting by adf_ctl
		b.expectRuns(2, "while it runs")
		b.down(t, d)
		close(closed)
		b.expectRuns(3, "in all")
		b.expectUnits()
		pass(time.Hour)
		b.expectRuns(3, "an hour later")
	})
}

func TestOnlyWhatConcernsTheDevicesRunsADFCtl(t *testing.T) {
	uevent := func(message string) func(t *testing.T, b *bench) {
		return func(t *testing.T, b *bench) {
			e := events.Event{Time: time.Now()}
			must(t, events.ParseUevent(&e, []byte(message)))
			b.loop.Event(&e)
		}
	}
	below := func(place func(b *bench) string, name string) func(t *testing.T, b *bench) {
		return func(_ *testing.T, b *bench) { b.wrote(filepath.Join(place(b), name)) }
	}
	etc, dev := func(b *bench) string { return b.etc }, func(b *bench) string { return b.Dev() }
	sysfs := func(b *bench) string { return b.Sysfs() }
	const devpath = "/devices/pci0000:3b/0000:3b:00.0"
	for name, test := range map[string]struct {
		event func(t *testing.T, b *bench)
		want  int
	}{
		"the function is bound":                     {uevent("bind@" + devpath + "\x00SUBSYSTEM=pci\x00PCI_CLASS=B4000\x00"), 1},
		"its state changed, behind a bridge":        {uevent("change@/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0\x00SUBSYSTEM=pci\x00"), 1},
		"its UIO device comes":                      {uevent("add@" + devpath + "/uio/uio0\x00SUBSYSTEM=uio\x00DEVNAME=uio0\x00"), 1},
		"its UIO device goes: once more, later":     {uevent("remove@" + devpath + "/uio/uio0\x00SUBSYSTEM=uio\x00DEVNAME=uio0\x00"), 2},
		"a node of the stack comes":                 {uevent("add@/devices/virtual/usdm_drv/usdm_drv\x00SUBSYSTEM=usdm_drv\x00DEVNAME=usdm_drv\x00"), 1},
		"another class of function":                 {uevent("bind@" + devpath + "\x00SUBSYSTEM=pci\x00PCI_CLASS=20000\x00"), 0},
		"another function, of which no class came":  {uevent("bind@/devices/pci0000:00/0000:00:1f.0\x00SUBSYSTEM=pci\x00"), 0},
		"another function's UIO device":             {uevent("add@/devices/pci0000:00/0000:00:1f.0/uio/uio7\x00SUBSYSTEM=uio\x00DEVNAME=uio7\x00"), 0},
		"another subsystem":                         {uevent("add@/devices/virtual/net/veth0\x00SUBSYSTEM=net\x00"), 0},
		"a configuration file":                      {below(etc, "c6xxvf_dev12.conf"), 1},
		"the directory of the configuration":        {below(etc, ""), 1},
		"a ConfigMap":                               {below(etc, "..data"), 1},
		"an editor's file":                          {below(etc, ".c6xx_dev0.conf.swp"), 0},
		"another file of /etc":                      {below(etc, "passwd"), 0},
		"the stack's node":                          {below(dev, "qat_adf_ctl"), 1},
		"/dev/null":                                 {below(dev, "null"), 0},
		"a UIO node: it is looked for, and is fine": {below(dev, "uio0"), 0},
		"a function in a driver of ours":            {below(sysfs, "bus/pci/drivers/c6xx/0000:3b:00.0"), 1},
		"another file there":                        {below(sysfs, "bus/pci/drivers/c6xx/unbind"), 0},
		"a driver: it is looked at, and is fine":    {below(sysfs, "bus/pci/drivers/vfio-pci"), 0},
		"the function's UIO directory":              {below(sysfs, devpath+"/uio"), 1},
		"another directory":                         {func(_ *testing.T, b *bench) { b.wrote(b.Dir()) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			onBench(t, -1, nil, func(t *testing.T, b *bench, _ *testDevice) {
				test.event(t, b)
				pass(time.Hour)
				b.expectRuns(1+test.want, "in all")
				b.expectUnits("SSL_dev0_0")
			})
		})
	}
}

func TestAContradictionIsAskedAboutSomeTimesOnly(t *testing.T) {
	onBench(t, -1, nil, func(t *testing.T, b *bench, d *testDevice) {
		b.setState(t, d, "restarting") // and its UIO device stays
		b.wrote(b.config0())
		pass(time.Hour)
		b.expectRuns(1+1+maxDoubts, "in all")
		b.wrote(filepath.Join(b.Dev(), "uio7"))
		pass(time.Hour)
		b.expectRuns(1+1+maxDoubts, "after a look that found nothing new")
	})
}

// A driver that holds what adf_ctl does not list was loaded after adf_ctl ran; no event may name that function.
func TestALookThatContradictsADFCtlAsksIt(t *testing.T) {
	onBench(t, -1, nil, func(t *testing.T, b *bench, d *testDevice) {
		must(t, b.AddPF(lookalike.PF{Address: addressB, DeviceID: "37c8"}))
		b.wrote(filepath.Join(b.Sysfs(), "bus/pci/drivers"))
		b.expectRuns(2, "after the look")
		n := b.device(t, &testDevice{kind: "c6xx", number: 1, address: addressB})
		b.up(t, n)
		b.conf(t, "c6xx_dev1", sec("SHIM", 1, 1, 0))
		pass(time.Minute)
		b.expectUnits("SHIM_dev1_0", "SSL_dev0_0")
	})
}

// What adf_ctl is about to say may be of a device that has gone since; the event of that came before anybody knew the device.
func TestADeviceThatGoesWhileADFCtlSpeaksOfItIsAskedAbout(t *testing.T) {
	var gate atomic.Pointer[chan struct{}] // of the bubble
	onBench(t, -1, func(run int, says string) (string, error) {
		if run == 2 {
			<-*gate.Load()
			return says + " qat_dev1 - type: c6xx, inst_id: 1, node_id: 0, bsf: " + addressB + ", state: down\n", nil
		}
		return says, nil
	}, func(t *testing.T, b *bench, _ *testDevice) {
		closed := make(chan struct{})
		gate.Store(&closed)
		b.wrote(b.config0())
		b.expectRuns(2, "after the first event")
		e := events.Event{Time: time.Now()}
		must(t, events.ParseUevent(&e, []byte("unbind@/devices/pci0000:d8/"+addressB+"\x00SUBSYSTEM=pci\x00PCI_CLASS=B4000\x00")))
		b.loop.Event(&e)
		synctest.Wait()
		close(closed)
		b.expectRuns(3, "in all")
		if left := b.plugin.LeftOut(); len(left) > 0 {
			t.Errorf("people are told of a device that has gone: %v", left)
		}
	})
}

func TestAFailureIsTriedAgainLessAndLessOften(t *testing.T) {
	onBench(t, -1, func(run int, says string) (string, error) {
		if run > 1 && run <= 12 {
			return "", errors.New("no")
		}
		return says, nil
	}, func(t *testing.T, b *bench, d *testDevice) {
		b.wrote(b.config0())
		pass(time.Second)
		b.expectRuns(4, "within a second")
		if got := reasonOf(b.plugin.LeftOut(), "adf_ctl"); got != "no" {
			t.Errorf("people are told %q", got)
		}
		b.expectUnits("SSL_dev0_0") // as it was
		pass(time.Hour)
		b.expectRuns(13, "within an hour")
		pass(time.Hour)
		b.expectRuns(13, "after it answered")
		if got := b.plugin.LeftOut(); len(got) > 0 {
			t.Errorf("left out: %v", got)
		}
	})
}

func TestTheAuditFindsWhatNoEventTold(t *testing.T) {
	for name, test := range map[string]struct {
		event bool // one comes late
		drift uint64
	}{"and counts it": {false, 1}, "and does not count what is told a moment later": {true, 0}} {
		t.Run(name, func(t *testing.T) {
			onBench(t, time.Minute, nil, func(t *testing.T, b *bench, _ *testDevice) {
				b.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
				pass(59 * time.Second)
				b.expectUnits("SSL_dev0_0")
				pass(time.Second)
				b.expectRuns(2, "with the audit")
				b.expectUnits("SSL_dev0_0")
				if test.event {
					b.wrote(b.config0())
				}
				pass(auditSettle)
				b.expectUnits("SSL_dev0_0", "SSL_dev0_1")
				b.expectRuns(3, "in all")
				pass(time.Minute)
				b.expectRuns(4, "with the next audit")
				b.stop()
				if b.loop.drift != test.drift {
					t.Errorf("drift %d, want %d", b.loop.drift, test.drift)
				}
			})
		})
	}
}

func TestLossIsMadeGoodByAResync(t *testing.T) {
	onBench(t, -1, nil, func(t *testing.T, b *bench, d *testDevice) {
		b.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
		b.loop.Resync("test")
		b.expectUnits("SSL_dev0_0", "SSL_dev0_1")
		b.expectRuns(2, "in all")
		b.down(t, d)
		b.loop.Resync("test")
		b.expectUnits()
	})
}

func TestWithoutEventsNothingWakesUp(t *testing.T) {
	onBench(t, -1, nil, func(t *testing.T, b *bench, _ *testDevice) {
		pass(24 * time.Hour)
		b.stop()
		if next := b.loop.schedule.next(); !next.IsZero() {
			t.Errorf("the loop would wake up at %v", next)
		}
		b.expectRuns(1, "in a day")
	})
}

func TestOmissionsAreLoggedWhenTheyChange(t *testing.T) {
	logged := captureLog(t)
	onBench(t, -1, nil, func(t *testing.T, b *bench, _ *testDevice) {
		b.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0), "\n[X]\n")
		for range 3 {
			b.wrote(b.config0())
			pass(time.Second)
		}
		b.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
		b.wrote(b.config0())
		pass(time.Second)
		b.stop()
	})
	want := []string{
		`"Left out" subject="[X]" reason="in c6xx_dev0.conf, NumProcesses is missing"`,
		`"Not left out any more" subject="[X]"`,
	}
	if diff := cmp.Diff(want, logged("eft out")); diff != "" {
		t.Errorf("logged (-want +got):\n%s", diff)
	}
}

func TestEachEventIsLoggedAtV4(t *testing.T) {
	logged := captureLog(t)
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	must(t, flags.Set("v", "4"))
	onBench(t, -1, nil, func(t *testing.T, b *bench, _ *testDevice) {
		b.wrote(filepath.Join(b.Dev(), "uio0"))
		synctest.Wait()
		b.wrote(filepath.Join(b.Dev(), "null"))
		synctest.Wait()
		b.stop()
		want := []string{
			`"Event" source="inotify" action="write" path="` + b.Dev() + `/uio0" ledTo="looked at drivers and nodes"`,
			`"Event" source="inotify" action="write" path="` + b.Dev() + `/null" ledTo="not of the QAT driver stack"`,
		}
		if diff := cmp.Diff(want, logged(`"Event"`)); diff != "" {
			t.Errorf("logged (-want +got):\n%s", diff)
		}
	})
}
