// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// oddFiles is a FUSE file system with files that do not behave as files do.
type oddFiles struct {
	dir   string
	root  *fs.Inode
	names int
}

// mountOddFiles mounts the file system until the test ends. It returns an error if the machine has
// no FUSE.
func mountOddFiles(t testing.TB) (*oddFiles, error) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return nil, err
	}
	root := &fs.Inode{}
	o := &oddFiles{dir: t.TempDir(), root: root}
	server, err := fs.Mount(o.dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "qat-chaos"},
	})
	if err != nil {
		return nil, fmt.Errorf("mount a FUSE file system: %w", err)
	}
	if err := closeOnExec("/dev/fuse"); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount the FUSE file system: %v", err)
		}
	})
	return o, nil
}

// closeOnExec keeps descriptors of a file from the processes that this one starts. A plugin that
// had one of /dev/fuse would keep the file system alive after the end of this process, and could
// then wait for an answer forever.
func closeOnExec(file string) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if target, _ := os.Readlink("/proc/self/fd/" + e.Name()); target == file {
			fd, err := strconv.Atoi(e.Name())
			if err != nil {
				return err
			}
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// add adds a file or directory and returns its path.
func (o *oddFiles) add(node fs.InodeEmbedder, mode uint32) string {
	o.names++
	name := strconv.Itoa(o.names)
	o.root.AddChild(name, o.root.NewPersistentInode(context.Background(), node, fs.StableAttr{Mode: mode}), true)
	return filepath.Join(o.dir, name)
}

// stuckFile is a file whose writes, and unless it is readable its reads, do not return before it is
// released. Reads return its text.
type stuckFile struct {
	fs.Inode
	readable bool
	text     string
	release  func()
	released chan struct{}
	waiting  chan struct{} // has a value when a call waits
	inMain   atomic.Bool   // the main thread of a process has waited
}

// newStuckFile adds a file. The end of the test releases it.
func (o *oddFiles) newStuckFile(t testing.TB, text string, readable bool) (f *stuckFile, path string) {
	f = &stuckFile{
		readable: readable,
		text:     text,
		released: make(chan struct{}),
		waiting:  make(chan struct{}, 1),
	}
	f.release = sync.OnceFunc(func() { close(f.released) })
	t.Cleanup(f.release)
	return f, o.add(f, fuse.S_IFREG)
}

// await waits until a call waits.
func (f *stuckFile) await(t testing.TB) {
	t.Helper()
	select {
	case <-f.waiting:
	case <-time.After(canaryTimeout):
		t.Error("the plugin does not use the file")
	}
}

// wait waits until the file is released. A kernel that waits for a device does not let a process
// go until that is killed; neither does this.
func (f *stuckFile) wait(ctx context.Context) syscall.Errno {
	select {
	case f.waiting <- struct{}{}:
	default:
	}
	caller, _ := fuse.FromContext(ctx)
	if caller != nil && isMainThread(caller.Pid) {
		f.inMain.Store(true)
	}
	for {
		select {
		case <-f.released:
			return 0
		case <-time.After(20 * time.Millisecond):
			if caller == nil || killed(caller.Pid) {
				return syscall.EINTR
			}
		}
	}
}

// isMainThread reports whether a thread is the main thread of its process.
func isMainThread(thread uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	return err == nil && strings.Contains(string(status), fmt.Sprintf("\nTgid:\t%d\n", thread))
}

// checkThreads fails the test if the main thread of a plugin has waited for the file. The kernel
// wakes the main thread first to handle SIGTERM (kernel/signal.c, complete_signal), and no other if
// that one cannot be interrupted.
func (f *stuckFile) checkThreads(t testing.TB) {
	t.Helper()
	if f.inMain.Load() {
		t.Error("the main thread waits for the file, so that SIGTERM has no effect")
	}
}

// killed reports whether a SIGKILL waits for the thread, as after the exit of its process.
func killed(thread uint32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	for line := range strings.Lines(string(status)) {
		if set, ok := strings.CutPrefix(line, "SigPnd:"); ok {
			pending, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			return err == nil && pending&(1<<(syscall.SIGKILL-1)) != 0
		}
	}
	return false
}

// Getattr implements [fs.NodeGetattrer].
func (f *stuckFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o644, 4096
	return 0
}

// Setattr implements [fs.NodeSetattrer], for O_TRUNC.
func (f *stuckFile) Setattr(
	_ context.Context, _ fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut,
) syscall.Errno {
	out.Mode, out.Size = 0o644, 4096
	return 0
}

// Open implements [fs.NodeOpener].
func (f *stuckFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Read implements [fs.NodeReader].
func (f *stuckFile) Read(
	ctx context.Context, _ fs.FileHandle, dest []byte, off int64,
) (fuse.ReadResult, syscall.Errno) {
	if !f.readable {
		if errno := f.wait(ctx); errno != 0 {
			return nil, errno
		}
	}
	return fuse.ReadResultData([]byte(f.text[min(off, int64(len(f.text))):])), 0
}

// Write implements [fs.NodeWriter].
func (f *stuckFile) Write(ctx context.Context, _ fs.FileHandle, data []byte, _ int64) (uint32, syscall.Errno) {
	return uint32(len(data)), f.wait(ctx)
}

// hugeFile is a file of 256 MiB.
type hugeFile struct {
	fs.Inode
	reads atomic.Int64
}

const hugeSize = 256 << 20

// Getattr implements [fs.NodeGetattrer].
func (f *hugeFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o644, hugeSize
	return 0
}

// Open implements [fs.NodeOpener].
func (f *hugeFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Read implements [fs.NodeReader].
func (f *hugeFile) Read(
	_ context.Context, _ fs.FileHandle, dest []byte, off int64,
) (fuse.ReadResult, syscall.Errno) {
	f.reads.Add(1)
	n := min(int64(len(dest)), max(0, hugeSize-off))
	for i := range dest[:n] {
		dest[i] = '0'
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// badDir is a directory that cannot be listed.
type badDir struct {
	fs.Inode
	lists atomic.Int64 // attempts
}

// Readdir implements [fs.NodeReaddirer].
func (d *badDir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	d.lists.Add(1)
	return nil, syscall.EIO
}
