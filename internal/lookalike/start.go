// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tmpfsDir  = "/dev/shm" // a tmpfs on nearly every Linux system
	tmpfsFree = 256 << 20  // bytes; enough for more than 1,000 VFs
)

// MkdirTemp creates a directory for a host. The caller removes it. It is in memory if there is
// room, as sysfs itself is: on a busy disk, creating a file can take a millisecond, and a VF
// needs twenty of them.
func MkdirTemp() (string, error) {
	const pattern = "qat-host-"
	var fs unix.Statfs_t
	if err := unix.Statfs(tmpfsDir, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC &&
		fs.Bavail*uint64(fs.Bsize) >= tmpfsFree {
		if dir, err := os.MkdirTemp(tmpfsDir, pattern); err == nil {
			return dir, nil
		}
	}
	return os.MkdirTemp("", pattern)
}

// T is the part of testing.TB that Start needs. With it, the demo does not link package testing.
type T interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Start creates a host in a temporary directory and serves it until the test ends.
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
		t.Fatalf("the look-alike host is not ready after 10 s")
	}
	return h
}
