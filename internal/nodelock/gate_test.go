// SPDX-License-Identifier: Apache-2.0

package nodelock

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"qatplugin/internal/testlog"
)

const (
	namespace   = "x.example.com"
	testTimeout = 20 * time.Second // only a failing test waits as long
)

// A running Gate is one whose Run has been called.
type running struct {
	*Gate
	t       *testing.T
	cancel  context.CancelFunc
	began   time.Time     // when serve was called; zero if it was not
	serving chan struct{} // closed when serve was called
	result  chan error
}

func configOf(front Front, dir string) Config {
	return Config{
		Front:     front,
		Dir:       dir,
		Namespace: namespace,
		Ignored:   func(resource string) bool { return resource == "other" },
	}
}

// startGate calls Run of a Gate for dir, in a synctest bubble.
func startGate(t *testing.T, front Front, dir string) *running {
	t.Helper()
	return startGateOf(t, configOf(front, dir))
}

// startGateOf calls Run of a Gate, in a synctest bubble.
func startGateOf(t *testing.T, config Config) *running {
	t.Helper()
	r := runGate(t, config)
	synctest.Wait()
	return r
}

// runGate calls Run of a Gate in a goroutine.
func runGate(t *testing.T, config Config) *running {
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{
		Gate:    New(config),
		t:       t,
		cancel:  cancel,
		serving: make(chan struct{}),
		result:  make(chan error, 1),
	}
	go func() {
		r.result <- r.Run(ctx, func(ctx context.Context) error {
			r.began = time.Now()
			close(r.serving)
			<-ctx.Done()
			return nil
		})
	}()
	return r
}

// stop ends Run, checks its error and releases the lock.
func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	if err := <-r.result; err != nil {
		r.t.Errorf("Run returned %v", err)
	}
	r.Release()
}

// wantServing checks whether serve has been called, and what the checks say.
func (r *running) wantServing(want bool) {
	r.t.Helper()
	synctest.Wait()
	serving, err := !r.began.IsZero(), r.Check(r.t.Context())
	if serving != want || r.Waiting() != !want || (err == nil) != want {
		r.t.Errorf("serving %v, waiting %v, check: %v; want serving %v", serving, r.Waiting(), err, want)
	}
}

// serveSocket listens on a socket in dir until the test ends or the listener is closed.
func serveSocket(t *testing.T, dir, name string) *net.UnixListener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as after SIGKILL
	t.Cleanup(func() { l.Close() })
	return l.(*net.UnixListener)
}

func TestFreeLockDelaysNobody(t *testing.T) {
	for _, front := range []Front{DevicePlugin, DRADriver} {
		synctest.Test(t, func(t *testing.T) {
			log, dir, began := testlog.Capture(t), t.TempDir(), time.Now()
			g := startGate(t, front, dir)
			second := startGate(t, front, dir) // of a rolling update
			g.wantServing(true)
			second.wantServing(true)
			if g.began != began || len(log()) > 0 {
				t.Errorf("served after %v, log %q; want at once, and nothing", g.began.Sub(began), log())
			}
			g.stop()
			second.stop()
		})
	}
}

func TestFrontWaitsForTheOther(t *testing.T) {
	for _, tt := range []struct {
		front Front
		text  string
	}{
		{DevicePlugin, "the DRA driver has locked "},
		{DRADriver, "the device plugin has locked "},
	} {
		synctest.Test(t, func(t *testing.T) {
			log, dir := testlog.Capture(t), t.TempDir()
			other, _ := tt.front.other()
			holder := startGate(t, other, dir)
			g := startGate(t, tt.front, dir)
			g.wantServing(false)
			holder.wantServing(true)
			want := tt.text + filepath.Join(dir, namespace+".lock") + ": it must end first"
			if err := g.Check(t.Context()); err == nil || err.Error() != want {
				t.Errorf("Check: %v, want %s", err, want)
			}
			line := `"Not serving the devices of this node, because another program serves them; ` +
				`remove one of the two from the node" err="` + want + `"`
			time.Sleep(repeatInterval - time.Second)
			if diff := cmp.Diff([]string{line}, log()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			time.Sleep(3 * time.Second)
			if diff := cmp.Diff([]string{line, line}, log()); diff != "" {
				t.Errorf("log after %v (-want +got):\n%s", repeatInterval, diff)
			}

			freed := time.Now()
			holder.stop()
			time.Sleep(settleTime - time.Second)
			g.wantServing(false)
			time.Sleep(2*lookInterval + time.Second)
			g.wantServing(true)
			t.Logf("served %v after the other front ended", g.began.Sub(freed))
			line = `"Serving the devices of this node after waiting for its lock" lock="` +
				filepath.Join(dir, namespace+".lock") + `"`
			if got := log(); len(got) != 3 || got[2] != line {
				t.Errorf("log %q, want %s at the end", got, line)
			}
			g.stop()
		})
	}
}

// A program that restarts, or the next version of it, finds the lock free, and the front that waits
// does not take it meanwhile.
func TestRestartDoesNotSwapTheFronts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		holder := startGate(t, DevicePlugin, dir)
		waiting := startGate(t, DRADriver, dir)
		for range 3 {
			time.Sleep(time.Minute)
			holder.stop()
			time.Sleep(settleTime - time.Second)
			holder = startGate(t, DevicePlugin, dir)
			holder.wantServing(true)
			waiting.wantServing(false)
		}
		holder.stop()
		waiting.stop()
	})
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		holder := startGate(t, DRADriver, dir)
		waiting := startGate(t, DevicePlugin, dir)
		waiting.stop()
		if !waiting.began.IsZero() {
			t.Error("the device plugin served")
		}
		holder.stop()
	})
}

// Intel's plugin and older versions of this plugin take no lock.
func TestDRADriverWaitsForSocketsOfDevicePlugins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		socket := serveSocket(t, dir, namespace+"-cy.sock")
		g := startGate(t, DRADriver, dir)
		g.wantServing(false)
		want := "a device plugin serves " + filepath.Join(dir, namespace+"-cy.sock") + ": it must end first"
		if err := g.Check(t.Context()); err == nil || err.Error() != want {
			t.Errorf("Check: %v, want %s", err, want)
		}
		newer := startGate(t, DevicePlugin, dir) // an update to a version that takes the lock
		newer.wantServing(true)
		newer.stop()
		socket.Close() // its file stays
		time.Sleep(settleTime + 2*lookInterval)
		g.wantServing(true)
		g.stop()
	})
}

// Intel's DRA driver has the same name, and takes no lock.
func TestDRADriverWaitsForAnotherOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, dir, registry := testlog.Capture(t), t.TempDir(), t.TempDir()
		path := filepath.Join(registry, namespace+"-reg.sock")
		socket := serveSocket(t, registry, namespace+"-reg.sock")
		config := Config{Front: DRADriver, Dir: dir, Namespace: namespace, OtherDriver: path}
		g := startGateOf(t, config)
		g.wantServing(false)
		want := "another DRA driver serves " + path + ": it must end first"
		if err := g.Check(t.Context()); err == nil || err.Error() != want {
			t.Errorf("Check: %v, want %s", err, want)
		}
		socket.Close() // its file stays
		time.Sleep(settleTime + 2*lookInterval)
		g.wantServing(true)

		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		g.wantServing(true)
		socket = serveSocket(t, registry, namespace+"-reg.sock") // it is started later
		if err := g.Check(t.Context()); err == nil || err.Error() != want {
			t.Errorf("Check: %v, want %s", err, want)
		}
		if got := log(); !strings.HasPrefix(got[len(got)-1], `"Pods can get the same device from two programs`) {
			t.Errorf("log %q", got)
		}
		socket.Close()
		g.stop()
	})
}

func TestSocketsOfOthersDoNotMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{
			"kubelet.sock", "y.example.com-cy.sock", namespace + ".sock", namespace + "-other.sock",
		} {
			serveSocket(t, dir, name)
		}
		serveSocket(t, dir, namespace+"-dead.sock").Close()
		if err := os.WriteFile(filepath.Join(dir, namespace+"-file.sock"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		g := startGate(t, DRADriver, dir)
		g.wantServing(true)
		g.stop()
	})
}

// A full backlog means that a process listens, however busy it is.
func TestBusySocketIsServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the first one fills the backlog
		if !isServed(path) {
			t.Error("the socket counts as dead")
		}
		conn, err := net.Dial("unix", path)
		if err == nil {
			defer conn.Close()
		}
	}
}

func TestDevicePluginThatStartsLaterIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, dir := testlog.Capture(t), t.TempDir()
		g := startGate(t, DRADriver, dir)
		g.wantServing(true)
		socket := serveSocket(t, dir, namespace+"-cy.sock")
		want := "a device plugin serves " + filepath.Join(dir, namespace+"-cy.sock") + ": it must end first"
		for range 2 {
			if err := g.Check(t.Context()); err == nil || err.Error() != want {
				t.Errorf("Check: %v, want %s", err, want)
			}
		}
		line := `"Pods can get the same device from two programs; ` +
			`remove one of the two from the node" err="` + want + `"`
		if diff := cmp.Diff([]string{line}, log()); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		if g.Waiting() {
			t.Error("the driver has stopped serving claims of running pods")
		}
		socket.Close()
		g.wantServing(true)
		g.stop()
	})
}

// A device plugin serves without the lock rather than not at all; a DRA driver does not.
func TestLockThatCannotBeTaken(t *testing.T) {
	for _, front := range []Front{DevicePlugin, DRADriver} {
		synctest.Test(t, func(t *testing.T) {
			log, dir := testlog.Capture(t), t.TempDir()
			path := filepath.Join(dir, namespace+".lock")
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			g := startGate(t, front, dir)
			g.wantServing(front == DevicePlugin)
			want := `"Cannot take the lock of this node, serving its devices without it" err="open ` + path +
				`: is a directory"`
			if front == DRADriver {
				want = `"Cannot take the lock of this node, not serving its devices" err="open ` + path +
					`: is a directory" lock="` + path + `"`
			}
			if diff := cmp.Diff([]string{want}, log()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			if front == DRADriver {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				time.Sleep(settleTime + 2*lookInterval)
				g.wantServing(true)
			}
			g.stop()
		})
	}
}

// await waits in real time, because inotify does not work in a bubble.
func await(t *testing.T, isTrue func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !isTrue(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing happens")
		}
	}
}

func (r *running) isServing() bool {
	select {
	case <-r.serving:
		return true
	default:
		return false
	}
}

// startWithoutDirectory starts a device plugin without the kubelet's directory.
func startWithoutDirectory(t *testing.T) (plugin *running, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "kubelet", "device-plugins")
	plugin = runGate(t, configOf(DevicePlugin, dir))
	await(t, plugin.Waiting)
	want := "wait for " + dir + ": file does not exist"
	if err := plugin.Check(t.Context()); err == nil || err.Error() != want {
		t.Errorf("Check: %v, want %s", err, want)
	}
	return plugin, dir
}

func TestDevicePluginStartsWhenTheDirectoryAppears(t *testing.T) {
	log := testlog.Capture(t)
	plugin, dir := startWithoutDirectory(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	await(t, plugin.isServing)
	if len(log()) > 0 {
		t.Errorf("log %q", log())
	}
	if _, err := acquire(filepath.Join(dir, namespace+".lock"), DRADriver); !errors.Is(err, errHeld) {
		t.Errorf("lock of the DRA driver: %v", err)
	}
	if err := plugin.Check(t.Context()); err != nil || plugin.Waiting() {
		t.Errorf("Check of a plugin that serves: %v", err)
	}
	plugin.stop()
}

// The process stays, and serves when the other front has ended.
func TestDevicePluginWaitsIfTheDirectoryAppearsLocked(t *testing.T) {
	log := testlog.Capture(t)
	plugin, dir := startWithoutDirectory(t)
	built := filepath.Join(t.TempDir(), "kubelet")
	path := filepath.Join(built, "device-plugins", namespace+".lock")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	driver, err := acquire(path, DRADriver)
	if err != nil {
		t.Fatal(err)
	}
	defer driver.Close()
	if err := os.Rename(built, filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return len(log()) == 1 })
	want := "the DRA driver has locked " + filepath.Join(dir, namespace+".lock") + ": it must end first"
	if err := plugin.Check(t.Context()); err == nil || err.Error() != want {
		t.Errorf("Check: %v, want %s", err, want)
	}
	if got := log(); len(got) != 1 || !strings.Contains(got[0], want) {
		t.Errorf("log %q", got)
	}
	plugin.stop()
	if !plugin.began.IsZero() {
		t.Error("the device plugin served")
	}
}

func TestDevicePluginEndsWithoutTheDirectory(t *testing.T) {
	plugin, _ := startWithoutDirectory(t)
	plugin.stop()
	if !plugin.began.IsZero() {
		t.Error("the device plugin served")
	}
}

// A link in the path causes no event.
func TestDevicePluginLooksForTheDirectory(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "link", "device-plugins")
	if err := os.Symlink(filepath.Join(root, "elsewhere"), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	plugin := runGate(t, configOf(DevicePlugin, dir))
	await(t, plugin.Waiting)
	if err := os.MkdirAll(filepath.Join(root, "elsewhere", "device-plugins"), 0o700); err != nil {
		t.Fatal(err)
	}
	await(t, plugin.isServing)
	plugin.stop()
}
