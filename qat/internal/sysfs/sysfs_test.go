// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o600))
}

// open opens a new directory and returns its path, too.
func open(t *testing.T) (Dir, string) {
	t.Helper()
	path := t.TempDir()
	d, err := OpenDir(path)
	must(t, err)
	t.Cleanup(d.Close)
	return d, path
}

func TestDirReadsOneIncarnation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	must(t, os.Mkdir(path, 0o700))
	d, err := OpenDir(path)
	must(t, err)
	defer d.Close()
	before, err := d.Inode(".")
	must(t, err)
	must(t, os.Rename(path, path+".gone"))
	must(t, os.Mkdir(path, 0o700))
	write(t, filepath.Join(path, "vendor"), "0x8086\n")
	must(t, os.Symlink("/drivers/vfio-pci", filepath.Join(path, "driver")))
	if text, err := d.Read("vendor"); !IsAbsent(err) {
		t.Errorf("Read = %q, %v of a directory that was replaced; want that the file does not exist", text, err)
	}
	if target, err := d.Link("driver"); target != "" || err != nil {
		t.Errorf("Link = %q, %v of a directory that was replaced; want none", target, err)
	}
	if there, err := d.Exists("vendor"); there || err != nil {
		t.Errorf("Exists = %v, %v of a directory that was replaced; want false", there, err)
	}
	if names, err := d.Names("."); len(names) != 0 || err != nil {
		t.Errorf("Names = %q, %v of a directory that was replaced; want none", names, err)
	}
	same, err := d.Inode(".")
	must(t, err)
	after, err := Inode(path)
	must(t, err)
	if before != same || before == after {
		t.Errorf("inode %d, then %d; %d of the new directory; want a new one only there", before, same, after)
	}
}

func TestOpenDirRefusesWhatIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if _, err := OpenDir(file); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("OpenDir of a missing directory: %v, want that it does not exist, and its name", err)
	}
	write(t, file, "")
	if _, err := OpenDir(file); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("OpenDir of a file: %v, want ENOTDIR", err)
	}
}

func TestHandlesAreNotInherited(t *testing.T) {
	d, _ := open(t)
	flags, err := unix.FcntlInt(uintptr(d.fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags of the descriptor: %#x, %v; want FD_CLOEXEC", flags, err)
	}
}

func TestCloseClosesTheDescriptor(t *testing.T) {
	d, err := OpenDir(t.TempDir())
	must(t, err)
	d.Close()
	if _, err := d.Inode("."); !errors.Is(err, unix.EBADF) {
		t.Errorf("Inode of a closed Dir: %v, want EBADF", err)
	}
}

func TestReadingLeavesNoFileOpen(t *testing.T) {
	d, path := open(t)
	write(t, filepath.Join(path, "file"), "text")
	readAll := func() int {
		t.Helper()
		_, err1 := d.Read("file")
		_, err2 := ReadFile(filepath.Join(path, "file"))
		_, err3 := d.Names(".")
		err4 := NewWriter(path, false).Write("file", "text")
		names, err5 := os.ReadDir("/proc/self/fd")
		must(t, errors.Join(err1, err2, err3, err4, err5))
		return len(names)
	}
	before := readAll()
	if after := readAll(); before != after {
		t.Errorf("%d open files, then %d; want the same", before, after)
	}
}

func TestRead(t *testing.T) {
	d, path := open(t)
	whole := strings.Repeat("x", maxAttribute)
	write(t, filepath.Join(path, "vendor"), " 0x8086\n")
	write(t, filepath.Join(path, "page"), whole)
	write(t, filepath.Join(path, "large"), whole+"x")
	must(t, unix.Mkfifo(filepath.Join(path, "fifo"), 0o600))
	must(t, os.Mkdir(filepath.Join(path, "sub"), 0o700))
	write(t, filepath.Join(path, "sub/state"), "up\n")
	tests := map[string]struct {
		name, want string
		err        error
	}{
		"attribute":                   {"vendor", "0x8086", nil},
		"attribute in a subdirectory": {"sub/state", "up", nil},
		"attribute of a page":         {"page", whole, nil},
		"attribute of more":           {"large", "", unix.EFBIG},
		"FIFO without a writer":       {"fifo", "", nil},
		"missing attribute":           {"none", "", unix.ENOENT},
		"directory":                   {"sub", "", unix.EISDIR},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := d.Read(test.name)
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("Read(%q) = %q, %v; want %q, %v", test.name, got, err, test.want, test.err)
			}
			if err != nil && !strings.Contains(err.Error(), filepath.Join(path, test.name)) {
				t.Errorf("the error %q does not name the file", err)
			}
		})
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	whole := strings.Repeat("x", maxFile)
	write(t, filepath.Join(dir, "large"), whole)
	write(t, filepath.Join(dir, "larger"), whole+"x")
	write(t, filepath.Join(dir, "small"), "\n[GENERAL]\n")
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	tests := map[string]struct {
		name, want string
		err        error
	}{
		"small file":            {"small", "[GENERAL]", nil},
		"file of 1 MiB":         {"large", whole, nil},
		"larger file":           {"larger", "", unix.EFBIG},
		"FIFO without a writer": {"fifo", "", nil},
		"missing file":          {"none", "", unix.ENOENT},
		"directory":             {".", "", unix.EISDIR},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, test.name)
			got, err := ReadFile(file)
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("ReadFile = %d bytes, %v; want %d bytes, %v", len(got), err, len(test.want), test.err)
			}
			if err != nil && !strings.Contains(err.Error(), file) {
				t.Errorf("the error %q does not name the file", err)
			}
		})
	}
}

func TestLink(t *testing.T) {
	d, path := open(t)
	must(t, os.Symlink("../../bus/pci/drivers/vfio-pci", filepath.Join(path, "driver")))
	write(t, filepath.Join(path, "file"), "")
	if got, err := d.Link("driver"); got != "vfio-pci" || err != nil {
		t.Errorf("Link of a link = %q, %v; want the last component of its target", got, err)
	}
	if got, err := d.Link("physfn"); got != "" || err != nil {
		t.Errorf("Link of a missing link = %q, %v; want none and no error", got, err)
	}
	got, err := d.Link("file")
	if got != "" || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), path+"/file") {
		t.Errorf("Link of a file = %q, %v; want EINVAL, and the file's name", got, err)
	}
}

func TestDirExists(t *testing.T) {
	d, path := open(t)
	write(t, filepath.Join(path, "file"), "")
	must(t, os.Symlink("loop", filepath.Join(path, "loop")))
	for name, want := range map[string]bool{"file": true, "none": false, "file/below": false} {
		if got, err := d.Exists(name); got != want || err != nil {
			t.Errorf("Exists(%q) = %v, %v; want %v", name, got, err, want)
		}
	}
	if got, err := d.Exists("loop"); got || !errors.Is(err, unix.ELOOP) {
		t.Errorf("Exists of a link to itself = %v, %v; want ELOOP", got, err)
	}
}

func TestNames(t *testing.T) {
	d, path := open(t)
	must(t, os.Mkdir(filepath.Join(path, "sub"), 0o700))
	write(t, filepath.Join(path, "file"), "")
	write(t, filepath.Join(path, "sub/b"), "")
	write(t, filepath.Join(path, "sub/a"), "")
	for sub, want := range map[string][]string{".": {"file", "sub"}, "sub": {"a", "b"}} {
		got, err := d.Names(sub)
		if slices.Sort(got); !slices.Equal(got, want) || err != nil {
			t.Errorf("Names(%q) = %q, %v; want %q", sub, got, err, want)
		}
	}
	for sub, want := range map[string]error{"none": unix.ENOENT, "file": unix.ENOTDIR} {
		if got, err := d.Names(sub); got != nil || !errors.Is(err, want) {
			t.Errorf("Names(%q) = %q, %v; want %v", sub, got, err, want)
		}
	}
}

func TestInode(t *testing.T) {
	d, path := open(t)
	must(t, os.Mkdir(filepath.Join(path, "sub"), 0o700))
	must(t, os.Symlink("sub", filepath.Join(path, "link")))
	direct, err1 := Inode(filepath.Join(path, "sub"))
	linked, err2 := Inode(filepath.Join(path, "link"))
	through, err3 := d.Inode("sub")
	if must(t, errors.Join(err1, err2, err3)); direct == 0 || direct != linked || direct != through {
		t.Errorf("inodes %d, %d through a link and %d through a Dir; want the same", direct, linked, through)
	}
	_, err1 = Inode(filepath.Join(path, "none"))
	_, err2 = d.Inode("none")
	if !IsAbsent(err1) || !IsAbsent(err2) {
		t.Errorf("Inode of a missing directory: %v, %v; want that it does not exist", err1, err2)
	}
}

func TestIsAbsent(t *testing.T) {
	for err, want := range map[error]bool{
		unix.ENOENT: true, unix.ENODEV: true, unix.ENXIO: true, os.ErrNotExist: true,
		nil: false, unix.EIO: false, unix.EACCES: false, unix.ENOTDIR: false, unix.EISDIR: false, io.EOF: false,
	} {
		if got := IsAbsent(err); got != want {
			t.Errorf("IsAbsent(%v) = %v, want %v", err, got, want)
		}
	}
	if err := fmt.Errorf("x: %w", &os.PathError{Op: "read", Err: unix.ENODEV}); !IsAbsent(err) {
		t.Errorf("IsAbsent(%v) = false, want true", err)
	}
}

func TestIsTransient(t *testing.T) {
	for err, want := range map[error]bool{
		unix.EMFILE: true, unix.ENFILE: true, unix.ENOMEM: true, unix.EIO: true, unix.EAGAIN: true, unix.EINTR: true,
		unix.EBUSY: true, unix.ETIMEDOUT: true,
		nil: false, unix.ENOENT: false, unix.EACCES: false, unix.EISDIR: false, unix.EFBIG: false, io.EOF: false,
	} {
		if got := IsTransient(err); got != want {
			t.Errorf("IsTransient(%v) = %v, want %v", err, got, want)
		}
		if err == nil {
			continue
		}
		if got := IsTransient(fmt.Errorf("x: %w", &os.PathError{Op: "read", Err: err})); got != want {
			t.Errorf("IsTransient(%v) = %v as the cause of another error, want %v", err, got, want)
		}
	}
}

func TestExists(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("none", filepath.Join(dir, "dangling")))
	for name, want := range map[string]bool{".": true, "none": false, "dangling": false} {
		if got, err := Exists(filepath.Join(dir, name)); got != want || err != nil {
			t.Errorf("Exists(%q) = %v, %v; want %v", name, got, err, want)
		}
	}
}

func TestRealDir(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "plain"), 0o700))
	must(t, os.Symlink("../devices/a", filepath.Join(dir, "relative")))
	must(t, os.Symlink("/devices/a", filepath.Join(dir, "absolute")))
	for name, want := range map[string]string{
		"plain":    filepath.Join(dir, "plain"),
		"relative": filepath.Join(filepath.Dir(dir), "devices/a"),
		"absolute": "/devices/a",
	} {
		if got, err := RealDir(filepath.Join(dir, name)); got != want || err != nil {
			t.Errorf("RealDir of the %s entry = %q, %v; want %q", name, got, err, want)
		}
	}
	if got, err := RealDir(filepath.Join(dir, "none")); !IsAbsent(err) {
		t.Errorf("RealDir of a missing entry = %q, %v; want that it does not exist", got, err)
	}
}

func TestResolveRoot(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(dir, "real/sys"), 0o700))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	t.Chdir(dir)
	for root, want := range map[string]string{
		filepath.Join(dir, "link/sys"): filepath.Join(dir, "real/sys"),
		"link/sys/":                    filepath.Join(dir, "real/sys"),
		"later":                        filepath.Join(dir, "later"),
		"/":                            "/",
	} {
		if got, err := ResolveRoot(root); got != want || err != nil {
			t.Errorf("ResolveRoot(%q) = %q, %v; want %q", root, got, err, want)
		}
	}
}

func TestBelow(t *testing.T) {
	tests := map[string]struct {
		path, root, rest string
		ok               bool
	}{
		"below the root":       {"/sys/bus/pci", "/sys", "bus/pci", true},
		"the root itself":      {"/sys", "/sys", "", true},
		"a sibling":            {"/sys2/bus", "/sys", "", false},
		"above the root":       {"/", "/sys", "", false},
		"elsewhere":            {"/dev/vfio", "/sys", "", false},
		"of the root of roots": {"/sys/bus", "/", "sys/bus", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := []byte(test.path)
			rest, ok := Below(path, test.root)
			if ok != test.ok || ok && string(rest) != test.rest {
				t.Errorf("Below(%q, %q) = %q, %v; want %q, %v", test.path, test.root, rest, ok, test.rest, test.ok)
			}
			if n := testing.AllocsPerRun(100, func() { Below(path, test.root); Base(path) }); n != 0 {
				t.Errorf("Below and Base allocate %v times, want 0", n)
			}
		})
	}
}

func TestBase(t *testing.T) {
	for path, want := range map[string]string{"/a/b": "b", "b": "b", "/a/": "", "": ""} {
		if got := Base([]byte(path)); string(got) != want {
			t.Errorf("Base(%q) = %q, want %q", path, got, want)
		}
	}
}
