package qat

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/follow"
)

// writes are what a plugin wrote to sysfs, or would have, for each device in order.
type writes struct {
	mu sync.Mutex
	of map[string][]string
}

func (w *writes) note(file, value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	device := value
	if strings.HasSuffix(file, "driver_override") {
		device = filepath.Base(filepath.Dir(file))
	}
	w.of[device] = append(w.of[device], fmt.Sprintf("%s > %s", value, file))
}

// mixedHost has VFs in every state that binding knows.
func mixedHost(t testing.TB) (h *lookalike.Host, generic []string) {
	t.Helper()
	h = lookalike.Start(t)
	must(t, h.LoadDriver(driverVFIO, "disable_denylist=1"))
	must(t, h.LoadDriver("c6xxvf"))
	must(t, h.LoadDriver("uio_pci_generic"))
	must(t, h.AddPF(lookalike.PF{Address: "0000:3d:00.0", DeviceID: "37c8", TotalVFs: 4}))
	must(t, h.SetVFs("0000:3d:00.0", 4)) // bound to c6xxvf, their kernel driver
	vfs := h.VFs("0000:3d:00.0")
	must(t, h.Unbind(vfs[0]))
	must(t, h.Unbind(vfs[1]))
	must(t, h.Bind(vfs[1], "uio_pci_generic"))
	return h, vfs
}

func TestADryRunSaysExactlyWhatARealRunWrites(t *testing.T) {
	run := func(dry, steal bool) (map[string][]string, []string) {
		h, vfs := mixedHost(t)
		cfg := Config{SysfsRoot: h.Sysfs(), DevRoot: h.Dev(), DryRun: dry, Steal: steal, HealthInterval: -1, AuditInterval: -1}
		p, err := New(cfg)
		must(t, err)
		w := &writes{of: map[string][]string{}}
		p.noteWrite = w.note
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		b := newBinder(ctx, p.host, func(Address) {})
		p.configure(b)
		f := newFold(p.host, b, follow.NewDirectories(), KernelVFDrivers(), 0)
		must(t, f.lookAtAll(time.Now()))
		b.wait()
		bound := 0
		for timeout := time.Now().Add(deadline); !dry && bound < 4 && time.Now().Before(timeout); {
			if !steal && bound == 3 {
				break
			}
			must(t, f.lookAtAll(time.Now()))
			bound = f.tree.Resource(Generic).Len()
		}
		if dry && f.tree.Resource(Generic).Len() > 0 {
			t.Errorf("a dry run bound something: %v", lists(f.tree))
		}
		b.wait()
		return w.of, vfs
	}
	for _, steal := range []bool{false, true} {
		t.Run(fmt.Sprintf("steal=%v", steal), func(t *testing.T) {
			dry, vfs := run(true, steal)
			real, _ := run(false, steal)
			if diff := cmp.Diff(firstTry(real), dry); diff != "" {
				t.Errorf("what a dry run says (-real run +dry run):\n%s", diff)
			}
			want := map[string][]string{
				vfs[0]: {"vfio-pci > bus/pci/devices/" + vfs[0] + "/driver_override", vfs[0] + " > bus/pci/drivers_probe"},
				vfs[1]: {"vfio-pci > bus/pci/devices/" + vfs[1] + "/driver_override", vfs[1] + " > bus/pci/drivers/uio_pci_generic/unbind", vfs[1] + " > bus/pci/drivers_probe"},
				vfs[2]: {"vfio-pci > bus/pci/devices/" + vfs[2] + "/driver_override", vfs[2] + " > bus/pci/drivers/c6xxvf/unbind", vfs[2] + " > bus/pci/drivers_probe"},
				vfs[3]: {"vfio-pci > bus/pci/devices/" + vfs[3] + "/driver_override", vfs[3] + " > bus/pci/drivers/c6xxvf/unbind", vfs[3] + " > bus/pci/drivers_probe"},
			}
			if !steal {
				delete(want, vfs[1])
			}
			if diff := cmp.Diff(want, dry); diff != "" {
				t.Errorf("what a dry run says (-want +got):\n%s", diff)
			}
		})
	}
}

// firstTry leaves out that the kernel may be asked to probe again: a look-alike host binds a moment after the write.
func firstTry(w map[string][]string) map[string][]string {
	for device, list := range w {
		w[device] = slices.Compact(list)
	}
	return w
}

func TestObservingBindsNothing(t *testing.T) {
	h, vfs := mixedHost(t)
	r := start(t, h, Config{ObserveOnly: true})
	must(t, h.Unbind(vfs[2]))
	must(t, h.Bind(vfs[2], driverVFIO))
	r.becomes(map[string][]string{"generic": {vfs[2]}})
	if bound := h.Bound("c6xxvf"); !slices.Equal(bound, vfs[3:]) {
		t.Errorf("c6xxvf has %v, want %v", bound, vfs[3:])
	}
}

func TestStealingTakesAVFFromAnyDriver(t *testing.T) {
	h, vfs := mixedHost(t)
	r := start(t, h, Config{Steal: true})
	r.becomes(map[string][]string{"generic": vfs})
}

// binding is a binder whose kernel is the test itself: attributes are files that can be made to fail.
type binding struct {
	t    testing.TB
	dir  string
	b    *binder
	vf   *Function
	now  time.Time
	done chan Address
}

func newBinding(t testing.TB) *binding {
	t.Helper()
	dir := t.TempDir()
	a := Address{Bus: 0x3d, Device: 1}
	for _, d := range []string{"bus/pci/devices/" + a.String(), "bus/pci/drivers/vfio-pci", "bus/pci/drivers/c6xxvf"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	f, isVF := familyOf(vendorIntel, 0x37c9)
	x := &binding{t: t, dir: dir, vf: &Function{Address: a, Family: f, IsVF: isVF, Driver: "c6xxvf"}, now: time.Unix(1e9, 0), done: make(chan Address, 16)}
	x.b = newBinder(t.Context(), &host{sysfs: dir, dpdkDriver: driverVFIO}, func(a Address) { x.done <- a })
	x.b.now = func() time.Time { return x.now }
	for _, file := range []string{x.override(), "bus/pci/drivers_probe", "bus/pci/drivers/c6xxvf/unbind", "bus/pci/drivers/c6xxvf/bind"} {
		x.put(file, "")
	}
	t.Cleanup(x.b.wait)
	return x
}

func (x *binding) override() string {
	return "bus/pci/devices/" + x.vf.Address.String() + "/driver_override"
}

func (x *binding) put(file, value string) {
	x.t.Helper()
	must(x.t, os.WriteFile(filepath.Join(x.dir, file), []byte(value), 0o644))
}

func (x *binding) get(file string) string {
	text, _ := os.ReadFile(filepath.Join(x.dir, file))
	return strings.TrimSpace(string(text))
}

// want looks at the unbound VF, waits for the job that this may have started, and returns why it is not bound.
func (x *binding) want() string {
	x.t.Helper()
	x.b.want(x.vf, x.now)
	x.b.wait()
	x.b.mu.Lock()
	defer x.b.mu.Unlock()
	return x.b.attempts[x.vf.Address].reason(driverVFIO)
}

// The kernel refuses a write with an errno; a directory in the attribute's place does so too (EISDIR), a missing one with ENOENT, and /dev/full with
// ENOSPC. What counts is that each step's error is told and undone, whatever its number.
func TestARefusedWriteIsUndoneToldAndTriedAgain(t *testing.T) {
	steps := map[string]string{
		"driver_override": "bus/pci/devices/0000:3d:01.0/driver_override",
		"unbind":          "bus/pci/drivers/c6xxvf/unbind",
		"drivers_probe":   "bus/pci/drivers_probe",
	}
	for name, file := range steps {
		t.Run(name, func(t *testing.T) {
			x := newBinding(t)
			must(t, os.Remove(filepath.Join(x.dir, file)))
			must(t, os.Symlink("/dev/full", filepath.Join(x.dir, file)))
			reason := x.want()
			if !strings.Contains(reason, "no space left on device") || !strings.Contains(reason, file) {
				t.Errorf("why it is not bound: %q, want the file and the error", reason)
			}
			if name != "driver_override" {
				if got := x.get(x.override()); got != "" {
					t.Errorf("driver_override is %q after the failure, want none", got)
				}
			}
			if name == "drivers_probe" {
				if got := x.get("bus/pci/drivers/c6xxvf/bind"); got != "0000:3d:01.0" {
					t.Errorf("given back to its driver: %q, want the VF", got)
				}
			}
			must(t, os.Remove(filepath.Join(x.dir, file)))
			x.put(file, "")
			if again := x.want(); again != reason {
				t.Errorf("before the back-off is over: %q, want still %q", again, reason)
			}
			x.now = x.now.Add(bindBackOff)
			if got := x.want(); got != "waiting for vfio-pci to take it" {
				t.Errorf("after the back-off: %q", got)
			}
			if got := x.get("bus/pci/drivers_probe"); got != "0000:3d:01.0" {
				t.Errorf("drivers_probe got %q", got)
			}
		})
	}
}

func TestBackOffGrowsToItsMaximum(t *testing.T) {
	x := newBinding(t)
	file := filepath.Join(x.dir, "bus/pci/drivers_probe")
	must(t, os.Remove(file))
	must(t, os.Symlink("/dev/full", file))
	x.want()
	var waits []time.Duration
	for range 11 {
		_, next := x.b.due(x.now)
		waits = append(waits, next.Sub(x.now))
		x.now = next
		if list, _ := x.b.due(x.now); !slices.Equal(list, []Address{x.vf.Address}) {
			t.Fatalf("due at its time: %v", list)
		}
		x.want()
	}
	var want []time.Duration
	for _, s := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
		want = append(want, time.Duration(s)*time.Second)
	}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Errorf("back-off (-want +got):\n%s", diff)
	}
}

func TestABindThatCameToNothingIsUndone(t *testing.T) {
	x := newBinding(t)
	x.put(x.override(), "uio_pci_generic\n") // somebody's wish from before
	if got := x.want(); got != "waiting for vfio-pci to take it" {
		t.Fatalf("at first: %q", got)
	}
	if got := x.get(x.override()); got != "vfio-pci" {
		t.Errorf("driver_override is %q", got)
	}
	x.vf.Driver = "" // unbound, and no driver takes it
	var reason string
	for range len(askAgain) + 1 {
		_, x.now = x.b.due(x.now)
		reason = x.want()
	}
	if !strings.Contains(reason, "disable_denylist=1") {
		t.Errorf("why: %q, want what to do for a denylisted device", reason)
	}
	if got := x.get(x.override()); got != "uio_pci_generic" {
		t.Errorf("driver_override is %q after it was undone, want what it was", got)
	}
	if got := x.get("bus/pci/drivers/c6xxvf/bind"); got != "0000:3d:01.0" {
		t.Errorf("given back to its driver: %q, want the VF", got)
	}
	x.put("bus/pci/drivers/c6xxvf/bind", "")
	must(t, os.MkdirAll(filepath.Join(x.dir, "module/vfio_pci/parameters"), 0o755))
	x.put("module/vfio_pci/parameters/disable_denylist", "Y\n")
	if hint := x.b.denylisted(x.vf); hint != "" {
		t.Errorf("hint %q though the denylist is disabled", hint)
	}
}

// A time that passes between two questions must not be lost: nobody would wake up for it.
func TestWhatIsDueIsStillSaidToBe(t *testing.T) {
	x := newBinding(t)
	x.want()
	later := x.now.Add(time.Hour)
	list, next := x.b.due(later)
	if len(list) != 1 || next.IsZero() || next.After(later) {
		t.Errorf("long after its time: due %v, next %v; want the VF and its time", list, next)
	}
}

// A new VF cannot be bound yet at its add event, and the kernel does not say so.
func TestTheKernelIsAskedAgainAFewTimes(t *testing.T) {
	x := newBinding(t)
	x.vf.Driver = ""
	var asked []time.Duration
	first := x.now
	x.b.write.Note = func(file, _ string) {
		if file == "bus/pci/drivers_probe" {
			asked = append(asked, x.now.Sub(first))
		}
	}
	for range 4 {
		x.want()
		x.want() // an event between, which changes nothing
		_, x.now = x.b.due(x.now)
	}
	want := []time.Duration{0, time.Millisecond, 11 * time.Millisecond, 111 * time.Millisecond}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("the kernel was asked (-want +got):\n%s", diff)
	}
	if reason := x.want(); !strings.Contains(reason, "disable_denylist=1") {
		t.Errorf("in the end: %q, want it given up", reason)
	}
}

func TestAnotherIncarnationIsAnotherAttempt(t *testing.T) {
	x := newBinding(t)
	file := filepath.Join(x.dir, "bus/pci/drivers_probe")
	must(t, os.Remove(file))
	must(t, os.Symlink("/dev/full", file))
	x.want()
	must(t, os.Remove(file))
	x.put("bus/pci/drivers_probe", "")
	x.vf.incarnation++
	if got := x.want(); got != "waiting for vfio-pci to take it" {
		t.Errorf("the new VF waits for the old one's back-off: %q", got)
	}
}

// A VF that the driver took, but whose node does not come, must neither keep a place under the limit nor wake the loop for ever.
func TestABoundVFWithoutNodeIsNoAttempt(t *testing.T) {
	x := newBinding(t)
	x.want()
	x.b.settled(x.vf.Address, x.now)
	_, next := x.b.due(x.now)
	if want := x.now.Add(bindPatience); len(x.b.underWay()) != 1 || !next.Equal(want) {
		t.Errorf("%d under way until %v, want it to keep its place until %v", len(x.b.underWay()), next, want)
	}
	x.b.settled(x.vf.Address, next)
	if list, next := x.b.due(next); len(list) > 0 || !next.IsZero() || len(x.b.underWay()) > 0 {
		t.Errorf("after its time: due %v, next %v, under way %v; want nothing", list, next, x.b.underWay())
	}
}
