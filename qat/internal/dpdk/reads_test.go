// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/device"
)

// opens records which files are opened in directories, by inotify.
type opens struct {
	t    *testing.T
	fd   int
	dirs map[int32]string
}

func watchOpens(t *testing.T, dirs ...string) *opens {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	o := &opens{t: t, fd: fd, dirs: map[int32]string{}}
	for _, dir := range dirs {
		wd, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN)
		must(t, err)
		o.dirs[int32(wd)] = dir
	}
	return o
}

// take lists the files that were opened since the last call.
func (o *opens) take() (files []string) {
	o.t.Helper()
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(o.fd, buf)
		if err == unix.EAGAIN {
			return files
		}
		must(o.t, err)
		for rest := buf[:n]; len(rest) > 0; {
			var (
				wd   = int32(binary.NativeEndian.Uint32(rest))
				mask = binary.NativeEndian.Uint32(rest[4:])
				size = binary.NativeEndian.Uint32(rest[12:])
			)
			name, _, _ := bytes.Cut(rest[16:16+size], []byte{0})
			if mask&unix.IN_Q_OVERFLOW != 0 {
				o.t.Fatal("more files were opened than inotify could report")
			}
			files = append(files, filepath.Join(o.dirs[wd], string(name)))
			rest = rest[16+size:]
		}
	}
}

func realPath(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	must(t, err)
	return path
}

// A change of a PF costs one read of the PF and of each of its VFs, and none of other devices.
func TestServiceChangeReadsThePFAndItsVFsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
		var own, others []string
		for _, pf := range []string{pfA, pfB} {
			must(t, h.SetVFs(pf, 16))
			bindAll(t, h, pf, device.DriverVFIO)
			for _, a := range append(h.VFs(pf), pf) {
				if dir := realPath(t, h.Path(a)); pf == pfA {
					others = append(others, dir)
				} else {
					own = append(own, dir)
				}
			}
		}
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		o := watchOpens(t, slices.Concat(others, own)...)
		must(t, h.SetAttr(pfB, "qat/cfg_services", "dc"))
		o.take() // what the host itself opened
		r.read(pfB)
		if got := r.tree.Resource("dc").Len(); got != 16 {
			t.Fatalf("%d VFs are in dc, want 16", got)
		}
		reads := map[string]int{}
		for _, file := range o.take() {
			dir, name := filepath.Split(file)
			if name == "vendor" {
				reads[strings.TrimSuffix(dir, "/")]++
			}
		}
		for _, dir := range own {
			if reads[dir] != 1 {
				t.Errorf("%s was read %d times, want once", dir, reads[dir])
			}
		}
		for _, dir := range others {
			if reads[dir] != 0 {
				t.Errorf("%s was read, which belongs to another PF", dir)
			}
		}
	})
}

// Reading sriov_numvfs waits for the PF's device lock: for 3.6 s, measured,
// while a VF is removed that a workload holds.
func TestSriovNumVFsIsNeverRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.SetVFs(pfA, 16))
		bindAll(t, h, pfA, device.DriverVFIO)
		o := watchOpens(t, realPath(t, h.Path(pfA)))
		r := newRig(t, h, Config{HealthInterval: healthInterval})
		r.rescan()
		r.read(pfA)
		r.pass(2 * healthInterval)
		files := o.take()
		if len(files) == 0 {
			t.Fatal("no file was opened: this test does not see what is read")
		}
		for _, file := range files {
			if filepath.Base(file) == "sriov_numvfs" {
				t.Errorf("%s was read", file)
			}
		}
	})
}
