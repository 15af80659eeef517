// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
)

const (
	vfA2, vfA3 = "0000:6b:00.2", "0000:6b:00.3"
	vfB1, vfB2 = "0000:70:00.1", "0000:70:00.2"
)

func TestHiddenVFThatWentTakesNoFreedPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1, vfA2, vfA3)
		r := newRig(t, h, Config{Limit: 1})
		r.rescan()
		r.wantList(map[string][]string{"cy": {vfA1}})
		r.wantSkipped(vfA2, vfA3)

		must(t, h.RemoveVF(vfA2))
		r.read(vfA2)
		r.wantSkipped(vfA3)
		must(t, h.RemoveVF(vfA1))
		r.read(vfA1)
		r.wantList(map[string][]string{"cy": {vfA3}})
		r.wantSkipped()
	})
}

func TestAllocateRefusesVFWhoseNodeChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1, vfA2)
		r := newRig(t, h, Config{})
		r.rescan()
		must(t, r.allocate(vfA1, vfA2))

		before := vfioNode(t, h, vfA1)
		must(t, h.RemoveVF(vfA1))
		must(t, h.RemoveVF(vfA2))
		addVFs(t, h, pfA, vfA2, vfA1) // each gets the group of the other
		after := vfioNode(t, h, vfA1)
		if before == after {
			t.Fatalf("the node is still %s: the test has no effect", after)
		}
		err := r.allocate(vfA1)
		if err == nil || !strings.Contains(err.Error(), "/dev/vfio/"+filepath.Base(after)) {
			t.Errorf("allocate with the old node: %v, want an error that names the new one", err)
		}
		r.rescan()
		must(t, r.allocate(vfA1))
	})
}

// The kernel removes the VFs first. Here physfn points to a PF that is not there.
func TestVFWhosePFVanishedIsSkipped(t *testing.T) {
	for name, known := range map[string]bool{"known before": true, "never known": false} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{})
			if known {
				r.rescan()
				r.wantList(map[string][]string{"cy": {vfA1}})
			}
			must(t, os.Remove(h.Path(pfA)))
			if known {
				r.read(pfA)
			} else {
				r.rescan()
			}
			if in, why := r.resource(vfA1), r.reason(vfA1); in != "" || !strings.Contains(why, pfA) {
				t.Errorf("listed in %q (%q), want it skipped and its PF named", in, why)
			}
		})
	}
}

func TestVFHeardOfBeforeItsPFIsListedByThePFsServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		r := newRig(t, h, Config{})
		r.rescan()
		must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
		addVFs(t, h, pfB, vfB1)
		r.read(vfB1)
		r.wantList(map[string][]string{"dc": {vfB1}})
	})
}

// A node event names no function: the plugin reads all VFs that it may be about.
func TestNodeEventBringsVFBack(t *testing.T) {
	for name, test := range map[string]struct {
		driver string
		node   func(t *testing.T, h *lookalike.Host) string // what goes and comes back
		path   string                                       // of the event, below /dev
		listed bool                                         // and unhealthy, while the node is away
	}{
		"VFIO group": {
			driver: "vfio-pci",
			node:   func(t *testing.T, h *lookalike.Host) string { return vfioNode(t, h, vfA1) },
			path:   "vfio",
		},
		"VFIO device": {
			driver: "vfio-pci",
			node:   func(_ *testing.T, h *lookalike.Host) string { return filepath.Join(h.Path(vfA1), "vfio-dev") },
			path:   "vfio/devices/vfio0",
			listed: true,
		},
		"UIO": {
			driver: "igb_uio",
			node:   func(_ *testing.T, h *lookalike.Host) string { return filepath.Join(h.Dev(), "uio0") },
			path:   "uio0",
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			must(t, h.LoadDriver("igb_uio"))
			must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
			must(t, h.Bind(vfA1, test.driver))
			r := newRig(t, h, Config{Driver: test.driver})
			r.rescan()
			r.wantList(map[string][]string{"cy": {vfA1}})

			node, aside := test.node(t, h), filepath.Join(h.Dir(), "aside")
			must(t, os.Rename(node, aside))
			r.read(vfA1)
			if listed := r.resource(vfA1) != ""; listed != test.listed || r.reason(vfA1) == "" {
				t.Fatalf("without its node: listed %v (%q), want %v and a reason", listed, r.reason(vfA1), test.listed)
			}
			must(t, os.Rename(aside, node))
			r.event(inotify(filepath.Join(h.Dev(), test.path)))
			r.wantList(map[string][]string{"cy": {vfA1}})
		})
	}
}

// renewDir gives the directory of a function another inode, as if another device had its address.
func renewDir(t *testing.T, h *lookalike.Host, address string) {
	t.Helper()
	dir := realPath(t, h.Path(address))
	must(t, os.Mkdir(dir+".new", 0o755))
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		must(t, os.Rename(filepath.Join(dir, e.Name()), filepath.Join(dir+".new", e.Name())))
	}
	must(t, os.Remove(dir))
	must(t, os.Rename(dir+".new", dir))
}

func TestUnreadableFunctionThatWentIsNotSkipped(t *testing.T) {
	for name, known := range map[string]bool{"known before": true, "never known": false} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1, vfA2)
			r := newRig(t, h, Config{})
			if known {
				r.rescan()
			}
			for _, vf := range []string{vfA1, vfA2} {
				renewDir(t, h, vf)
				must(t, h.SetAttr(vf, "vendor", "garbage"))
			}
			r.rescan()
			r.wantSkipped(vfA1, vfA2)
			must(t, h.RemoveVF(vfA1))
			r.read(vfA1)
			r.wantSkipped(vfA2)
			must(t, h.RemoveVF(vfA2))
			r.rescan()
			r.wantSkipped()
			if n := len(r.controller.functions.unreadable); n > 0 {
				t.Errorf("%d functions are kept as unreadable, want none", n)
			}
		})
	}
}

func TestPFThatCanBeReadAgainIsNotSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		must(t, h.SetAttr(pfA, "vendor", "garbage"))
		r := newRig(t, h, Config{})
		r.rescan()
		r.wantSkipped(pfA)
		must(t, h.SetAttr(pfA, "vendor", "0x8086"))
		r.read(pfA)
		r.wantSkipped()
	})
}

func TestVFWithoutPhysfnBelongsToThePFWithItsVirtfn(t *testing.T) {
	for name, order := range map[string][]string{"PF read first": {pfB, vfB1}, "VF read first": {vfB1, pfB}} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			r := newRig(t, h, Config{})
			r.rescan()
			must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
			addVFs(t, h, pfB, vfB1)
			must(t, h.RemoveAttr(vfB1, "physfn"))
			for _, a := range order {
				r.read(a)
			}
			for _, step := range []struct {
				name      string
				do        func() error
				resource  string
				unhealthy bool
			}{
				{"before any change", func() error { return nil }, "dc", false},
				{"another PF", func() error { return h.SetAttr(pfA, "qat/cfg_services", "sym") }, "dc", false},
				{"services", func() error { return h.SetAttr(pfB, "qat/cfg_services", "sym") }, "sym", false},
				{"down", func() error { return h.SetAttr(pfB, "qat/state", "down") }, "sym", true},
				{"no virtfn", func() error { return h.RemoveAttr(pfB, "virtfn0") }, "generic", false},
			} {
				must(t, step.do())
				r.read(pfA, pfB)
				r.read(vfB1)
				in, why := r.resource(vfB1), r.reason(vfB1)
				if in != step.resource || (why != "") != step.unhealthy {
					t.Errorf("%s: listed in %q (%q), want in %q, unhealthy: %v",
						step.name, in, why, step.resource, step.unhealthy)
				}
			}
		})
	}
}

// A PCI function can be QAT or not, PF or VF; its address says nothing about that.
func TestAddressThatChangesItsKind(t *testing.T) {
	for name, tt := range map[string]struct {
		change   func(t *testing.T, h *lookalike.Host)
		read     string
		resource string
	}{
		"VF becomes a PF": {
			func(t *testing.T, h *lookalike.Host) {
				must(t, h.RemoveVF(vfA1))
				must(t, h.AddPF(lookalike.PF{Address: vfA1, Services: "dc"}))
			},
			vfA1, "",
		},
		"PF becomes another device": {
			func(t *testing.T, h *lookalike.Host) {
				renewDir(t, h, pfA)
				must(t, h.SetAttr(pfA, "device", "0x1572"))
			},
			pfA, "generic",
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			h := newHost4xxx(t)
			addVFs(t, h, pfA, vfA1)
			r := newRig(t, h, Config{Steal: true})
			r.rescan()
			tt.change(t, h)
			r.read(tt.read)
			if in := r.resource(vfA1); in != tt.resource {
				t.Errorf("listed in %q, want %q", in, tt.resource)
			}
			r.wantSkipped()
			if w := r.writes(); len(w) > 0 {
				t.Errorf("written: %q, want nothing", w)
			}
		})
	}
}

func TestWatchOfANewIncarnationIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		addVFs(t, h, pfA, vfA1)
		r := newRig(t, h, Config{})
		r.rescan()
		dir := realPath(t, h.Path(vfA1))
		for i, want := range []int{0, 1} {
			r.read(vfA1)
			if n, watched := r.watches[dir]; !watched || n != want {
				t.Errorf("read %d: watched %v, renewed %d times, want %d", i, watched, n, want)
			}
			keepInode(t, dir)
			must(t, h.RemoveVF(vfA1))
			addVFs(t, h, pfA, vfA1)
		}
	})
}

func TestDirectoriesOfGoneFunctionsAreNotWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost4xxx(t)
		r := newRig(t, h, Config{})
		r.rescan()
		others := r.watched()
		const pf, vf = "sys/devices/pci0000:70/" + pfB, "sys/devices/pci0000:70/" + vfB1
		const attributes, debugfs = pf + "/qat", "sys/kernel/debug/qat_4xxx_" + pfB
		wantWatched := func(when string, want ...string) {
			t.Helper()
			want = slices.Sorted(slices.Values(append(want, others...)))
			if diff := cmp.Diff(want, r.watched()); diff != "" {
				t.Errorf("watched when %s (-want +got):\n%s", when, diff)
			}
		}
		must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
		r.read(pfB)
		wantWatched("the PF came", pf, attributes, debugfs)
		must(t, h.AddVF(lookalike.VF{Address: vfB1, PF: pfB}))
		r.read(vfB1)
		wantWatched("the VF came", pf, attributes, debugfs, vf)
		must(t, h.RemoveVF(vfB1))
		r.read(vfB1)
		wantWatched("the VF went", pf, attributes, debugfs)
		must(t, h.RemovePF(pfB))
		r.read(pfB)
		wantWatched("the PF went")
	})
}
