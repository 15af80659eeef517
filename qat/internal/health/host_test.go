// SPDX-License-Identifier: Apache-2.0

package health

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"qatplugin/events"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/pci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const interval = 5 * time.Second

var (
	pfAddress = pci.Address{Bus: 0x6b}
	vfAddress = pci.Address{Bus: 0x6b, Function: 1}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testPF is a PF made of ordinary files.
type testPF struct {
	PF
	t     testing.TB
	downs int
}

// newTestPF makes a PF of a family with services that is up and healthy.
func newTestPF(t testing.TB, address pci.Address) *testPF {
	t.Helper()
	dir := t.TempDir()
	pf := &testPF{t: t, PF: PF{
		Address:     address,
		Dir:         filepath.Join(dir, "pf"),
		Debugfs:     filepath.Join(dir, "debugfs"),
		Incarnation: 1,
		State:       "up",
		Services:    "sym;asym",
	}}
	must(t, os.MkdirAll(filepath.Join(pf.Dir, "qat"), 0o755))
	must(t, os.MkdirAll(filepath.Join(pf.Dir, "qat_ras"), 0o755))
	must(t, os.MkdirAll(filepath.Join(pf.Debugfs, "heartbeat"), 0o755))
	pf.set("qat/state", "up")
	pf.set("qat/cfg_services", "sym;asym")
	pf.set("qat_ras/errors_fatal", "0")
	pf.heartbeat("0")
	return pf
}

func (pf *testPF) set(attribute, value string) {
	pf.t.Helper()
	must(pf.t, os.WriteFile(filepath.Join(pf.Dir, attribute), []byte(value+"\n"), 0o644))
}

func (pf *testPF) heartbeat(status string) {
	pf.t.Helper()
	must(pf.t, os.WriteFile(filepath.Join(pf.Debugfs, "heartbeat/status"), []byte(status+"\n"), 0o644))
}

// queriesFailed sets the number of checks that failed. Without a call there is no such file.
func (pf *testPF) queriesFailed(n int) {
	pf.t.Helper()
	file := filepath.Join(pf.Debugfs, "heartbeat/queries_failed")
	must(pf.t, os.WriteFile(file, []byte(strconv.Itoa(n)+"\n"), 0o644))
}

// goDown takes the PF down. The old directory heartbeat stays under another name without its files,
// so that its inode number is not used again.
func (pf *testPF) goDown() {
	pf.t.Helper()
	pf.downs++
	pf.set("qat/state", "down")
	heartbeat := filepath.Join(pf.Debugfs, "heartbeat")
	gone := heartbeat + strconv.Itoa(pf.downs)
	must(pf.t, os.Rename(heartbeat, gone))
	must(pf.t, os.Remove(filepath.Join(gone, "status")))
}

func (pf *testPF) comeUp() {
	pf.t.Helper()
	must(pf.t, os.Mkdir(filepath.Join(pf.Debugfs, "heartbeat"), 0o755))
	pf.heartbeat("0")
	pf.set("qat/state", "up")
}

// testMonitor is a Monitor in a testing/synctest bubble.
type testMonitor struct {
	*Monitor
	t testing.TB

	mu    sync.Mutex // guards woken
	woken []pci.Address
}

func newTestMonitor(t testing.TB, pfs ...*testPF) *testMonitor {
	m := &testMonitor{t: t}
	m.Monitor = NewMonitor(Config{Sysfs: t.TempDir(), Interval: interval, Wake: m.wake})
	t.Cleanup(m.Close)
	for _, pf := range pfs {
		m.Track(pf.PF)
	}
	return m
}

func (m *testMonitor) wake(a pci.Address) {
	m.Reason(a) // blocks if the Monitor is locked
	m.mu.Lock()
	defer m.mu.Unlock()
	m.woken = append(m.woken, a)
}

// poll lets time pass until all PFs have been polled, and returns the addresses passed to Wake.
func (m *testMonitor) poll() (woken []pci.Address) {
	m.t.Helper()
	m.Monitor.mu.Lock()
	next := m.next
	m.Monitor.mu.Unlock()
	if next.IsZero() || next.After(time.Now().Add(interval)) {
		m.t.Fatalf("the next poll is scheduled for %v, want %v at the latest", next, time.Now().Add(interval))
	}
	return m.pass(time.Until(next))
}

// pass lets time pass and returns the addresses passed to Wake.
func (m *testMonitor) pass(d time.Duration) (woken []pci.Address) {
	time.Sleep(d)
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	woken, m.woken = m.woken, nil
	return woken
}

// inBubble runs a subtest in a testing/synctest bubble.
func inBubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// wantReason fails the test unless the reason of a function contains this, or is empty with "".
func (m *testMonitor) wantReason(a pci.Address, want string) {
	m.t.Helper()
	got := m.Reason(a)
	if want == "" && got.Text != "" || !strings.Contains(got.Text, want) {
		m.t.Fatalf("reason %q, want %q", got.Text, want)
	}
	if class := classOf(got.Text); got.Class != class {
		m.t.Fatalf("class %q of %q, want %q", got.Class, got.Text, class)
	}
}

// classOf returns the class that a reason with this text must have.
func classOf(text string) string {
	switch {
	case text == "":
		return ""
	case strings.Contains(text, "fatal error"):
		return status.ClassFatalError
	case strings.Contains(text, "PCI error"):
		return status.ClassPCIError
	}
	return status.ClassHeartbeat
}

// uevent returns an event of the kernel: "change@/devices/...", then variables.
func uevent(t testing.TB, header string, variables ...string) *events.Event {
	t.Helper()
	var e events.Event
	message := strings.Join(append([]string{header, "SUBSYSTEM=pci"}, variables...), "\x00") + "\x00"
	must(t, events.ParseUevent(&e, []byte(message)))
	return &e
}
