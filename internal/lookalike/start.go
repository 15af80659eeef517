package lookalike

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// memory is where a tmpfs is on nearly every Linux; roomy is enough for more than a thousand VFs.
const (
	memory = "/dev/shm"
	roomy  = 256 << 20 // bytes
)

// MkdirTemp makes a new directory for a host, which the caller removes: in memory if there is room, as sysfs itself is. On a busy disk the
// making of a file can cost a millisecond, and a VF is twenty of them.
func MkdirTemp() (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(memory, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC && fs.Bavail*uint64(fs.Bsize) >= roomy {
		if dir, err := os.MkdirTemp(memory, "qat-host-"); err == nil {
			return dir, nil
		}
	}
	return os.MkdirTemp("", "qat-host-")
}

// T is the part of testing.TB that Start uses; the program behind the demo need not link package testing.
type T interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Start makes a host in a directory of the test's own and serves it until the test ends.
func Start(t T, opts ...Option) *Host {
	t.Helper()
	dir, err := MkdirTemp()
	if err != nil {
		t.Fatalf("%v", err)
		return nil
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h, err := New(dir, opts...)
	if err != nil {
		t.Fatalf("%v", err)
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready := h.Ready()
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%v", err)
		}
	})
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatalf("the look-alike host was not served within 10 s")
	}
	return h
}
