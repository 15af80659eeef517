// SPDX-License-Identifier: Apache-2.0

package bind

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The attributes that a Binder writes for testVF.
const (
	override    = "bus/pci/devices/0000:3d:01.0/driver_override"
	unbind      = "bus/pci/drivers/c6xxvf/unbind"
	probe       = "bus/pci/drivers_probe"
	giveBack    = "bus/pci/drivers/c6xxvf/bind"
	vfioPCI     = "vfio-pci"
	testAddress = "0000:3d:01.0"
)

// addVF makes a VF that its kernel driver has.
func (s *testSysfs) addVF(a pci.Address) VF {
	s.t.Helper()
	dir := filepath.Join("bus/pci/devices", a.String())
	s.put(filepath.Join(dir, "driver_override"), "(null)")
	inode, err := sysfs.Inode(filepath.Join(s.root, dir))
	must(s.t, err)
	return VF{Address: a, Incarnation: inode, Driver: "c6xxvf", PF: pci.Address{Bus: 0x3d}}
}

// recreate removes a VF and makes another one at its address.
func (s *testSysfs) recreate(vf *VF) {
	s.t.Helper()
	dir := filepath.Join(s.root, "bus/pci/devices", vf.Address.String())
	s.recreated++ // the old directory stays, so that its inode is not used again
	must(s.t, os.Rename(dir, filepath.Join(s.root, "old"+strconv.Itoa(s.recreated))))
	vf.Incarnation = s.addVF(vf.Address).Incarnation
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testSysfs is a directory in the place of sysfs and the Writer for it, which records writes.
type testSysfs struct {
	t      testing.TB
	root   string
	dryRun bool
	delay  func(name string) // called before each write

	recreated int
	mu        sync.Mutex
	fail      map[string]error // attribute → error of writes
	writes    []testWrite
}

type testWrite struct {
	Name, Value string
	at          time.Time
}

func newTestSysfs(t testing.TB) *testSysfs {
	return &testSysfs{t: t, root: t.TempDir(), delay: func(string) {}, fail: map[string]error{}}
}

// put makes an attribute with a value.
func (s *testSysfs) put(name, value string) {
	s.t.Helper()
	file := filepath.Join(s.root, name)
	must(s.t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(s.t, os.WriteFile(file, []byte(value+"\n"), 0o644))
}

func (s *testSysfs) DryRun() bool { return s.dryRun }

// Write records a write. It stores only values of driver_override, as the kernel does.
func (s *testSysfs) Write(name, value string) error {
	s.delay(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, testWrite{Name: name, Value: value, at: time.Now()})
	if s.dryRun {
		return nil
	}
	if err := s.fail[name]; err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	if filepath.Base(name) == "driver_override" {
		if err := os.WriteFile(filepath.Join(s.root, name), []byte(value+"\n"), 0o644); err != nil {
			s.t.Error(err)
		}
	}
	return nil
}

func (s *testSysfs) setFailure(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[name] = err
}

// take returns the writes since the last call as "value > attribute".
func (s *testSysfs) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for _, w := range s.writes {
		lines = append(lines, w.Value+" > "+w.Name)
	}
	s.writes = nil
	return lines
}

// override returns the VF's driver_override.
func (s *testSysfs) override() string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.root, override))
	must(s.t, err)
	return strings.TrimSpace(string(text))
}

// testBinder is a Binder in a synctest bubble.
type testBinder struct {
	*Binder
	t     *testing.T
	sysfs *testSysfs
	vf    VF

	mu    sync.Mutex
	wakes []pci.Address
}

// inBubble runs a test in a synctest bubble, with a Binder for vfio-pci.
func inBubble(t *testing.T, test func(b *testBinder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newTestBinder(t, false)
		test(b)
		b.Wait()
	})
}

// inStealingBubble is inBubble with a Binder that disregards driver_override.
func inStealingBubble(t *testing.T, test func(b *testBinder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newTestBinder(t, true)
		test(b)
		b.Wait()
	})
}

func newTestBinder(t *testing.T, steal bool) *testBinder {
	b := &testBinder{t: t, sysfs: newTestSysfs(t)}
	b.vf = b.sysfs.addVF(pci.Address{Bus: 0x3d, Device: 1})
	b.Binder = New(t.Context(), Config{
		Sysfs:  b.sysfs.root,
		Driver: vfioPCI,
		Steal:  steal,
		Writer: b.sysfs,
		Wake: func(a pci.Address) {
			b.Pending() // blocks if the Binder is locked
			b.mu.Lock()
			defer b.mu.Unlock()
			b.wakes = append(b.wakes, a)
		},
	})
	return b
}

// Next checks that the Binder has noticed each change of an attempt.
func (b *testBinder) Next() time.Time {
	b.t.Helper()
	b.Binder.mu.Lock()
	next := b.nextAttempt()
	b.changed = true
	want := b.nextAttempt()
	b.Binder.mu.Unlock()
	if !next.Equal(want) {
		b.t.Errorf("the next attempt is due at %v, want %v as after a change", next, want)
	}
	return b.Binder.Next()
}

// bind calls Bind for the VF, waits for the step that this starts, and returns why the VF is
// not bound then.
func (b *testBinder) bind() string {
	b.Bind(b.vf, time.Now())
	synctest.Wait()
	return b.Bind(b.vf, time.Now()).Text
}

// bindWhenDue calls Bind when the next step is due.
func (b *testBinder) bindWhenDue() string {
	b.t.Helper()
	next := b.Next()
	if next.IsZero() {
		b.t.Fatal("nothing is due")
	}
	time.Sleep(time.Until(next))
	if list := b.Due(time.Now()); !slices.Equal(list, []pci.Address{b.vf.Address}) {
		b.t.Fatalf("due at its time: %v, want %s", list, b.vf.Address)
	}
	return b.bind()
}

// bindUntilGivenUp calls Bind until a try ends.
func (b *testBinder) bindUntilGivenUp() (reason string) {
	b.t.Helper()
	for range maxProbes + 1 {
		if reason = b.bindWhenDue(); reason != waiting {
			return reason
		}
	}
	b.t.Fatalf("not given up after %d probes", maxProbes)
	return ""
}

// takeWakes returns the VFs that Wake was called for since the last call.
func (b *testBinder) takeWakes() []pci.Address {
	b.mu.Lock()
	defer b.mu.Unlock()
	wakes := b.wakes
	b.wakes = nil
	return wakes
}
