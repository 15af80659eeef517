// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
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
		for _, pf := range []string{pfA, pfB} {
			must(t, h.SetVFs(pf, 16))
			bindAll(t, h, pf, device.DriverVFIO)
		}
		var others []string
		for _, a := range append(h.VFs(pfA), pfA) {
			others = append(others, realPath(t, h.Path(a)))
		}
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		before := map[string]int{}
		for _, a := range append(h.VFs(pfB), pfB) {
			before[a] = r.readsOf(a)
		}
		o := watchOpens(t, others...)
		must(t, h.SetAttr(pfB, "qat/cfg_services", "dc"))
		r.read(pfB)
		if got := r.tree.Resource("dc").Len(); got != 16 {
			t.Fatalf("%d VFs are in dc, want 16", got)
		}
		for a, n := range before {
			if n = r.readsOf(a) - n; n != 1 {
				t.Errorf("%s was read %d times, want once", a, n)
			}
		}
		if files := o.take(); len(files) > 0 {
			t.Errorf("%q were read, which belong to another PF", files)
		}
	})
}

func TestEachFunctionIsReadOnceForABatch(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(t *testing.T, h *lookalike.Host, r *rig)
		want map[string]int // reads
	}{
		"full read": {
			func(_ *testing.T, _ *lookalike.Host, r *rig) { r.rescan() },
			map[string]int{pfB: 1, vfB1: 1, vfB2: 1},
		},
		"unchanged PF": {
			func(_ *testing.T, _ *lookalike.Host, r *rig) { r.read(pfB) },
			map[string]int{pfB: 1},
		},
		"changed PF and its VFs": {
			func(t *testing.T, h *lookalike.Host, r *rig) {
				must(t, h.SetAttr(pfB, "qat/cfg_services", "dc"))
				for _, a := range []string{vfB1, vfB2, pfB} {
					r.mark(Key{address: r.address(a)})
				}
				r.settle()
			},
			map[string]int{pfB: 1, vfB1: 1, vfB2: 1},
		},
		"IOMMU group": {
			func(t *testing.T, h *lookalike.Host, r *rig) {
				r.event(uevent(t, "add@/devices/virtual/vfio/"+filepath.Base(vfioNode(t, h, vfB1)), "SUBSYSTEM=vfio"))
			},
			map[string]int{vfB1: 1},
		},
		"nodes": {
			func(t *testing.T, h *lookalike.Host, r *rig) { r.event(inotify(filepath.Join(h.Dev(), "vfio"))) },
			map[string]int{},
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost(t)
			must(t, h.LoadDriver(device.DriverVFIO))
			must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
			addVFs(t, h, pfB, vfB1, vfB2)
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			functions := []string{pfB, vfB1, vfB2}
			before := map[string]int{}
			for _, a := range functions {
				before[a] = r.readsOf(a)
			}
			tt.do(t, h, r)
			reads := map[string]int{}
			for _, a := range functions {
				if n := r.readsOf(a) - before[a]; n > 0 {
					reads[a] = n
				}
			}
			if diff := cmp.Diff(tt.want, reads); diff != "" {
				t.Errorf("reads (-want +got):\n%s", diff)
			}
		})
	}
}

// On a new host, too, a PF is read before its VFs, and once.
func TestFirstReadReadsEachFunctionOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1, vfA2)
		r := newRig(t, h, Config{NoBind: true})
		o := watchOpens(t, realPath(t, h.Path(pfA)))
		r.rescan()
		n := 0
		for _, file := range o.take() {
			if filepath.Base(file) == "numa_node" {
				n++
			}
		}
		if n != 1 {
			t.Errorf("the PF was read %d times, want once", n)
		}
	})
}

// The kernel does not change the NUMA node of a function, but user space can write it
// (drivers/pci/pci-sysfs.c, numa_node_store).
func TestNUMANodeIsReadAgain(t *testing.T) {
	for name, again := range map[string]func(r *rig){
		"after a write": func(r *rig) {
			r.event(inotify(filepath.Join(realPath(r.t, r.host.Path(vfA1)), "numa_node")))
		},
		"with all the host": (*rig).rescan,
		"by an audit": func(r *rig) {
			r.audit()
			r.pass(hostwatch.AuditGrace)
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			must(t, h.SetAttr(vfA1, "numa_node", "3"))
			r.read(vfA1)
			again(r)
			if got := r.device(vfA1).NUMANodes; !slices.Equal(got, []int{3}) {
				t.Errorf("the VF is listed with NUMA nodes %v, want 3", got)
			}
		})
	}
}

// Most events concern known VFs. Opening a file may block, and takes longer than reading a link.
func TestEventOfAKnownVFOpensNoFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		node := vfioNode(t, h, vfA1)
		must(t, os.Rename(node, node+".away"))
		must(t, h.Unbind(vfA1))
		o := watchOpens(t, realPath(t, h.Path(vfA1)))
		r.read(vfA1)
		r.wantList(map[string][]string{"cy": {}})
		must(t, h.Bind(vfA1, device.DriverVFIO))
		r.read(vfA1)
		r.wantList(map[string][]string{"cy": {vfA1}})
		if files := o.take(); len(files) > 0 {
			t.Errorf("the events opened %q", files)
		}
	})
}

// A PF that is of no use is read once for all its VFs.
func TestPFOfManyVFsIsReadOnce(t *testing.T) {
	for name, vendor := range map[string]string{"no QAT device": "0x1af4", "unreadable": "garbage"} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost16(t)
			must(t, h.SetAttr(pfA, "vendor", vendor))
			r := newRig(t, h, Config{NoBind: true})
			r.rescan()
			if n := r.readsOf(pfA); n != 1 {
				t.Errorf("a full read read the PF %d times, want once", n)
			}
			r.read(h.VFs(pfA)...)
			if n := r.readsOf(pfA); n > 2 {
				t.Errorf("events of all VFs read the PF %d times, want once", n-1)
			}
			for _, vf := range h.VFs(pfA) {
				if n := r.readsOf(vf); n != 2 {
					t.Errorf("%s was read %d times, want twice", vf, n)
				}
			}
		})
	}
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

// The kernel takes the device lock to read driver_override (drivers/pci/pci-sysfs.c,
// driver_override_show). While a workload delays the removal of a VF, the removal has the lock.
func TestReadingAVFDoesNotWaitForItsDeviceLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostWithVF(t)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		dir := realPath(t, h.Path(vfA1))
		o := watchOpens(t, dir)
		r.read(vfA1)
		r.audit()
		opened := o.take()
		if !slices.Contains(opened, filepath.Join(dir, "numa_node")) {
			t.Fatalf("opened: %q: the test has no effect", opened)
		}
		if slices.Contains(opened, filepath.Join(dir, "driver_override")) {
			t.Errorf("opened: %q, want that driver_override is not read", opened)
		}
	})
}

// An event of a VF costs no read of what the kernel never changes of it.
func TestIdentityIsReadOnceForEachIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostWithVF(t)
		r := newRig(t, h, Config{NoBind: true})
		r.rescan()
		dir := realPath(t, h.Path(vfA1))
		o := watchOpens(t, dir)
		r.read(vfA1)
		r.audit()
		if opened := o.take(); slices.Contains(opened, filepath.Join(dir, "vendor")) || len(opened) == 0 {
			t.Errorf("opened: %q, want files, but not vendor", opened)
		}
		renewDir(t, h, vfA1)
		o = watchOpens(t, dir)
		r.read(vfA1)
		if opened := o.take(); !slices.Contains(opened, filepath.Join(dir, "vendor")) {
			t.Errorf("opened: %q of a new incarnation, want vendor among them", opened)
		}
	})
}

// The parameters of the driver's modules do not matter for a VF that a workload still holds.
func TestUnbindingReadsNoParameters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{})
		r.rescan()
		o := watchOpens(t, filepath.Join(h.Sysfs(), "module/vfio/parameters"))
		release := h.Hold(vfA1)
		unbound := make(chan error, 1)
		go func() { unbound <- h.Unbind(vfA1) }()
		synctest.Wait()
		r.read(vfA1)
		if r.reason(vfA1) == "" {
			t.Fatal("the VF is not unhealthy: the test has no effect")
		}
		if opened := o.take(); len(opened) > 0 {
			t.Errorf("opened: %q, want none", opened)
		}
		release()
		must(t, <-unbound)
	})
}
