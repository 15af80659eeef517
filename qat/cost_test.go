package qat

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
)

// opened follows which files are opened in directories, by inotify.
type opened struct {
	t    *testing.T
	fd   int
	dirs map[int32]string
}

func watchOpens(t *testing.T, dirs ...string) *opened {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	o := &opened{t: t, fd: fd, dirs: map[int32]string{}}
	for _, dir := range dirs {
		wd, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN)
		must(t, err)
		o.dirs[int32(wd)] = dir
	}
	return o
}

// take lists the files that were opened since the last call.
func (o *opened) take() (files []string) {
	o.t.Helper()
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(o.fd, buf)
		if err == unix.EAGAIN {
			return files
		}
		must(o.t, err)
		for rest := buf[:n]; len(rest) > 0; {
			wd, mask, size := int32(binary.NativeEndian.Uint32(rest)), binary.NativeEndian.Uint32(rest[4:]), binary.NativeEndian.Uint32(rest[12:])
			name, _, _ := bytes.Cut(rest[16:16+size], []byte{0})
			if mask&unix.IN_Q_OVERFLOW != 0 {
				o.t.Fatal("more files were opened than inotify could tell")
			}
			files = append(files, filepath.Join(o.dirs[wd], string(name)))
			rest = rest[16+size:]
		}
	}
}

func TestAServiceChangeCostsReadsOfThatPFAndItsVFsOnly(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
	var others, own []string
	for _, pf := range []string{pfA, pfB} {
		must(t, h.SetVFs(pf, 16))
		bindAll(t, h, pf, driverVFIO)
		for _, a := range append(h.VFs(pf), pf) {
			dir, err := filepath.EvalSymlinks(h.Path(a))
			must(t, err)
			if pf == pfA {
				others = append(others, dir)
			} else {
				own = append(own, dir)
			}
		}
	}
	f := newFoldOf(h, 0)
	must(t, f.lookAtAll(time.Now()))
	o := watchOpens(t, slices.Concat(others, own)...)
	must(t, h.SetAttr(pfB, "qat/cfg_services", "dc"))
	o.take() // the host's own
	b, _ := ParseAddress(pfB)
	f.lookAt([]Address{b}, time.Now())
	if got := f.tree.Resource("dc").Len(); got != 16 {
		t.Fatalf("%d VFs moved to dc, want 16", got)
	}
	files := o.take()
	if len(files) == 0 {
		t.Fatal("nothing was opened: this test does not see what is read")
	}
	for _, file := range files {
		if slices.Contains(others, filepath.Dir(file)) {
			t.Errorf("%s was read, which is not of the PF that changed", file)
		}
	}
}

// Reading sriov_numvfs waits for the PF's device lock: 3.6 s were seen while a VF was removed that a workload held.
func TestSriovNumvfsIsNeverRead(t *testing.T) {
	h := lookalike.Start(t)
	must(t, h.LoadDriver(driverVFIO))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	dir, err := filepath.EvalSymlinks(h.Path(pfA))
	must(t, err)
	r := start(t, h, Config{HealthInterval: MinHealthInterval})
	r.becomes(map[string][]string{})
	must(t, h.SetVFs(pfA, 16))
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
	o := watchOpens(t, dir) // the host itself reads it when VFs are made
	must(t, h.RemoveVF(h.VFs(pfA)[0]))
	must(t, h.SetAttr(pfA, "qat/state", "down"))
	must(t, h.SetAttr(pfA, "qat/state", "up"))
	must(t, h.SetAttr(pfA, "qat/cfg_services", "dc"))
	must(t, os.Chtimes(filepath.Join(dir, "numa_node"), time.Time{}, time.Time{}))
	r.becomes(map[string][]string{"cy": {}, "dc": h.VFs(pfA)})
	files := o.take()
	if len(files) == 0 {
		t.Fatal("nothing was opened: this test does not see what is read")
	}
	for _, file := range files {
		if strings.HasSuffix(file, "/sriov_numvfs") {
			t.Errorf("%s was read", file)
		}
	}
}
