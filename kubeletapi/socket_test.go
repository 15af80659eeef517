package kubeletapi

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSocketDeletedByHandIsMadeAnew(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	run(t, dir, h)
	now := tree(t, nil, "yellow", "1")
	h.set(now)
	before := waitIDs(t, k, yellow, "1")
	path := filepath.Join(dir, SocketName(namespace, "yellow"))
	for range 10 {
		old, _, err := identify(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		eventually(t, "socket made anew", func() bool {
			id, _, err := identify(path)
			return err == nil && id != old
		})
	}
	watch(t, dir, "yellow").until(t, "1") // it serves
	h.set(tree(t, now, "yellow", "1", "2"))
	after := waitIDs(t, k, yellow, "1", "2")
	if got, want := after.Seq, before.Seq+1; got != want {
		t.Errorf("list number %d, want %d: the kubelet's stream should have gone on as if nothing had been", got, want)
	}
}

func TestStaleSocketIsRemoved(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	path := filepath.Join(dir, SocketName(namespace, "yellow"))
	leaveStaleSocket(t, path)
	run(t, dir, h)
	h.set(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
}

func TestFileInOurPlaceIsLeftAlone(t *testing.T) {
	dir, h := kubeletDir(t), newHand()
	k := startKubelet(t, dir)
	path := filepath.Join(dir, SocketName(namespace, "yellow"))
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, h)
	h.set(tree(t, tree(t, nil, "yellow", "1"), "blue", "x"))
	r.log.await(t, "there is a file that is not a socket")
	waitIDs(t, k, blue, "x")
	if text, err := os.ReadFile(path); string(text) != "precious" {
		t.Fatalf("the file holds %q, %v", text, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	waitIDs(t, k, yellow, "1")
}

func TestSecondInstanceWaitsForTheFirst(t *testing.T) {
	dir, first, second := kubeletDir(t), newHand(), newHand()
	k := startKubelet(t, dir)
	r1 := run(t, dir, first)
	now := tree(t, nil, "yellow", "first")
	first.set(now)
	waitIDs(t, k, yellow, "first")
	path := filepath.Join(dir, SocketName(namespace, "yellow"))
	before, _, err := identify(path)
	if err != nil {
		t.Fatal(err)
	}

	// The second one tries all the time, for the cause of the test.
	r2 := run(t, dir, second, WithBackOff(fast, slow))
	second.set(tree(t, nil, "yellow", "second"))
	r2.log.await(t, errInUse.Error())
	for _, id := range []string{"a", "b", "c"} { // the first is not disturbed
		now = tree(t, now, "yellow", id)
		first.set(now)
		waitIDs(t, k, yellow, id)
	}
	if after, _, err := identify(path); err != nil || after != before {
		t.Errorf("the first one's socket is now %v, %v, want %v", after, err, before)
	}
	if n := r2.log.count(errInUse.Error()); n != 1 {
		t.Errorf("%d log lines of the second one's trouble, want 1:\n%s", n, r2.log)
	}
	if err := r1.stop(); err != nil {
		t.Errorf("first Run = %v", err)
	}
	waitIDs(t, k, yellow, "second")
}

// Both lose their sockets at once when the kubelet restarts. One of them gets it, whichever, and it works.
func TestTwoInstancesAndKubeletRestarts(t *testing.T) {
	dir, first, second := kubeletDir(t), newHand(), newHand()
	k := startKubelet(t, dir)
	run(t, dir, first, WithBackOff(fast, slow))
	run(t, dir, second, WithBackOff(fast, slow))
	first.set(tree(t, nil, "yellow", "same"))
	second.set(tree(t, nil, "yellow", "same"))
	for range 30 {
		waitIDs(t, k, yellow, "same")
		restart(t, k)
	}
	waitIDs(t, k, yellow, "same")
}

func TestListen(t *testing.T) {
	dir := kubeletDir(t)
	live := filepath.Join(dir, "live.sock")
	l, err := listen(live)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := listen(live); !errors.Is(err, errInUse) {
		t.Errorf("listen on a socket that is served = %v, want errInUse", err)
	}
	if !l.there() {
		t.Error("the served socket's file is gone")
	}
	if _, err := listen(filepath.Join(dir, "missing", "x.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("listen in a missing directory = %v, want ErrNotExist", err)
	}
	if err := os.Remove(live); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if l.there() {
		t.Error("another's socket is taken for ours")
	}
	l.remove()
	if _, err := os.Stat(live); err != nil {
		t.Errorf("another's socket was removed with ours: %v", err)
	}
}

// A process that is alive but does not accept answers nobody, and its socket is its own all the same.
func TestSocketWithAFullQueueIsInUse(t *testing.T) {
	path := filepath.Join(kubeletDir(t), "busy.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for full := false; !full; {
		conn, err := net.Dial("unix", path)
		if full = err != nil; !full {
			defer conn.Close()
		}
	}
	if _, err := listen(path); !errors.Is(err, errInUse) {
		t.Errorf("listen = %v, want errInUse", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the other's socket: %v, want it left alone", err)
	}
}

func TestSocketPathThatIsTooLong(t *testing.T) {
	dir := filepath.Join(kubeletDir(t), strings.Repeat("d", 100))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	err := NewManager(namespace, newHand(), WithKubeletDir(dir)).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "at most 107") || !strings.Contains(err.Error(), dir) {
		t.Errorf("Run in a directory with a long name = %v, want an error that names it and the limit", err)
	}
}

func TestResourceWhoseSocketPathIsTooLongLeavesTheOthersAlone(t *testing.T) {
	base := kubeletDir(t)
	dir := filepath.Join(base, strings.Repeat("d", maxSocketPath-len(base)-len("//")-len(SocketName(namespace, "yellow"))))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHand()
	k := startKubelet(t, dir)
	r := run(t, dir, h)
	now := tree(t, nil, "yellow", "1") // its path has 107 bytes
	now = tree(t, now, "yellow2", "1") // its path has 108
	h.set(now)
	waitIDs(t, k, yellow, "1")
	r.log.await(t, "at most 107")
	h.set(tree(t, now, "yellow", "1", "2"))
	waitIDs(t, k, yellow, "1", "2")
	if n := r.log.count("at most 107"); n != 1 {
		t.Errorf("%d log lines of it, want 1", n)
	}
}

// leaveStaleSocket leaves the socket file of a process that was killed.
func leaveStaleSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}
