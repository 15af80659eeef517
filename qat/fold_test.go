package qat

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
)

const (
	pfA, pfB = "0000:6b:00.0", "0000:70:00.0"
	vfA1     = "0000:6b:00.1"
)

func newHost4xxx(t testing.TB, opts ...lookalike.Option) *lookalike.Host {
	t.Helper()
	h, err := lookalike.New(t.TempDir(), opts...)
	must(t, err)
	must(t, h.LoadDriver(driverVFIO))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym", NUMANode: 1}))
	return h
}

func bindAll(t testing.TB, h *lookalike.Host, pf, driver string) {
	t.Helper()
	for _, vf := range h.VFs(pf) {
		must(t, h.Bind(vf, driver))
	}
}

// lists is a Tree as resource → IDs, an unhealthy one with its reason.
func lists(t *devtree.Tree) map[string][]string {
	m := map[string][]string{}
	for r := range t.Resources() {
		m[r.Name()] = []string{}
		for d := range r.Devices() {
			id := d.ID
			if d.Health == devtree.Unhealthy {
				id += ": " + d.Reason
			}
			m[r.Name()] = append(m[r.Name()], id)
		}
	}
	return m
}

func TestWhatIsListed(t *testing.T) {
	tests := map[string]struct {
		opts []lookalike.Option
		do   func(t *testing.T, h *lookalike.Host) // to a host with a 4xxx PF and vfio-pci loaded
		want map[string][]string
		why  map[string]string // address → part of the reason why it is not listed
	}{
		"a PF without VFs is nothing": {want: map[string][]string{}},
		"a VF bound to vfio-pci, by its PF's services": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
				must(t, h.Bind(vfA1, driverVFIO))
			},
			want: map[string][]string{"cy": {vfA1}},
		},
		"bound to the variant driver for live migration": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.LoadDriver(driverQATVFIO))
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
				must(t, h.Bind(vfA1, driverQATVFIO))
			},
			want: map[string][]string{"cy": {vfA1}},
		},
		"not bound": {
			do:   func(t *testing.T, h *lookalike.Host) { must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA})) },
			want: map[string][]string{}, why: map[string]string{vfA1: "driver vfio-pci does not hold it"},
		},
		"bound, but its node is not there": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
				must(t, h.Bind(vfA1, driverVFIO))
				f, err := newFoldOf(h, 0).host.look(Address{Bus: 0x6b, Function: 1})
				must(t, err)
				must(t, syscall.Unlink(h.Dev()+"/"+f.Node.Name))
			},
			want: map[string][]string{}, why: map[string]string{vfA1: "is not there"},
		},
		"a VF in a guest, which sees no PF, is generic": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: "0000:00:05.0", DeviceID: "4945", NUMANode: -1}))
				must(t, h.Bind("0000:00:05.0", driverVFIO))
			},
			want: map[string][]string{"generic": {"0000:00:05.0"}},
		},
		"a Gen2 device is generic": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.UnloadDriver("vfio-pci"))
				must(t, h.LoadDriver("vfio-pci", "disable_denylist=1"))
				must(t, h.AddPF(lookalike.PF{Address: "0000:3d:00.0", DeviceID: "37c8"}))
				must(t, h.AddVF(lookalike.VF{Address: "0000:3d:01.0", PF: "0000:3d:00.0"}))
				must(t, h.Bind("0000:3d:01.0", driverVFIO))
			},
			want: map[string][]string{"generic": {"0000:3d:01.0"}},
		},
		"a PF behind a bridge and in another domain": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddPF(lookalike.PF{Address: "0001:3b:00.0", DeviceID: "4944", Services: "dc", Bridge: true}))
				must(t, h.AddVF(lookalike.VF{Address: "0001:3b:00.1", PF: "0001:3b:00.0"}))
				must(t, h.Bind("0001:3b:00.1", driverVFIO))
			},
			want: map[string][]string{"dc": {"0001:3b:00.1"}},
		},
		"services that only debugfs tells": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc;sym"}))
				must(t, h.RemoveAttr(pfB, "qat/cfg_services"))
				must(t, h.AddVF(lookalike.VF{Address: "0000:70:00.1", PF: pfB}))
				must(t, h.Bind("0000:70:00.1", driverVFIO))
			},
			want: map[string][]string{"sym-dc": {"0000:70:00.1"}},
		},
		"a value of services that is none is generic": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
				must(t, h.SetAttr(pfB, "qat/cfg_services", "d"))
				must(t, h.AddVF(lookalike.VF{Address: "0000:70:00.1", PF: pfB}))
				must(t, h.Bind("0000:70:00.1", driverVFIO))
				must(t, h.RemoveAttr(pfB, "qat/cfg_services"))
			},
			want: map[string][]string{"dc": {"0000:70:00.1"}}, // debugfs still tells
		},
		"a PF that says it is down makes its VFs unhealthy": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
				must(t, h.Bind(vfA1, driverVFIO))
				must(t, h.SetAttr(pfA, "qat/state", "down"))
			},
			want: map[string][]string{"cy": {vfA1 + ": its PF 0000:6b:00.0 is down"}},
		},
		"a half-configured device hides no other": {
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
				must(t, h.AddVF(lookalike.VF{Address: "0000:6b:00.2", PF: pfA}))
				must(t, h.Bind(vfA1, driverVFIO))
				must(t, h.Bind("0000:6b:00.2", driverVFIO))
				must(t, h.SetAttr(vfA1, "vendor", "garbage"))
			},
			want: map[string][]string{"cy": {"0000:6b:00.2"}}, why: map[string]string{vfA1: `"garbage" is not a PCI ID`},
		},
		"without an IOMMU the node is a noiommu one": {
			opts: []lookalike.Option{lookalike.WithoutIOMMU()},
			do: func(t *testing.T, h *lookalike.Host) {
				must(t, h.AddVF(lookalike.VF{Address: "0000:00:05.0"}))
				must(t, h.Bind("0000:00:05.0", driverVFIO))
			},
			want: map[string][]string{"generic": {"0000:00:05.0"}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost4xxx(t, test.opts...)
			if test.do != nil {
				test.do(t, h)
			}
			f := newFoldOf(h, 0)
			must(t, f.lookAtAll(time.Now()))
			if diff := cmp.Diff(test.want, lists(f.tree)); diff != "" {
				t.Errorf("lists (-want +got):\n%s", diff)
			}
			for address, part := range test.why {
				a, _ := ParseAddress(address)
				if got := f.outcome(a); !strings.Contains(got, part) {
					t.Errorf("outcome of %s is %q, want it to say %q", address, got, part)
				}
			}
		})
	}
}

// The kernel takes physfn away before the VF; the VF must not show up as generic for that moment.
func TestAVFWhosePhysfnIsGoneKeepsItsResource(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
	must(t, h.Bind(vfA1, driverVFIO))
	f := newFoldOf(h, 0)
	must(t, f.lookAtAll(time.Now()))
	must(t, h.RemoveAttr(vfA1, "physfn"))
	must(t, h.RemoveAttr(pfA, "virtfn0"))
	must(t, f.lookAtAll(time.Now()))
	if diff := cmp.Diff(map[string][]string{"cy": {vfA1}}, lists(f.tree)); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
}

// At a VF's add event physfn may be missing while the PF's virtfn is there.
func TestAVFWithoutPhysfnIsFoundThroughItsPF(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
	must(t, h.Bind(vfA1, driverVFIO))
	must(t, h.RemoveAttr(vfA1, "physfn"))
	if diff := cmp.Diff(map[string][]string{"cy": {vfA1}}, lists(freshTree(t, h))); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
}

// The kernel may have taken the VFs and the PF's qat/ away before the first event of all that is heard: the VFs must not be placed by what is
// known of them and what is new of their PF, which would be generic.
func TestVFsThatHaveGoneAreNotPlacedByTheNewStateOfTheirPF(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.SetVFs(pfA, 16))
	bindAll(t, h, pfA, driverVFIO)
	f := newFoldOf(h, 0)
	must(t, f.lookAtAll(time.Now()))
	must(t, h.Unbind(pfA)) // its driver takes the VFs and qat/ along
	a, _ := ParseAddress(pfA)
	f.lookAt([]Address{a}, time.Now())
	if diff := cmp.Diff(map[string][]string{"cy": {}}, lists(f.tree)); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
}

func TestAServiceChangeMovesTheVFsOfThatPFOnly(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "sym;asym"}))
	for _, pf := range []string{pfA, pfB} {
		must(t, h.SetVFs(pf, 16))
		bindAll(t, h, pf, driverVFIO)
	}
	f := newFoldOf(h, 0)
	must(t, f.lookAtAll(time.Now()))
	before := f.tree
	must(t, h.SetAttr(pfB, "qat/cfg_services", "dc"))
	b, _ := ParseAddress(pfB)
	f.lookAt([]Address{b}, time.Now())
	want := map[string][]string{"cy": h.VFs(pfA), "dc": h.VFs(pfB)}
	for _, ids := range want {
		slices.Sort(ids)
	}
	if diff := cmp.Diff(want, lists(f.tree)); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
	for _, id := range h.VFs(pfA) {
		if before.Resource("cy").Device(id) != f.tree.Resource("cy").Device(id) {
			t.Errorf("device %s of the other PF was built anew", id)
		}
	}
}

func TestWhatDidNotChangeIsTheSameTree(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.SetVFs(pfA, 16))
	bindAll(t, h, pfA, driverVFIO)
	f := newFoldOf(h, 0)
	must(t, f.lookAtAll(time.Now()))
	before := f.tree
	must(t, f.lookAtAll(time.Now()))
	if f.tree != before {
		t.Errorf("a second look at the same host made another Tree")
	}
}

// A PF of which something cannot be read says nothing of its VFs' resource: they must not become another one's.
func TestVFsOfAPFThatCannotBeReadAreLeftOutWithTheReason(t *testing.T) {
	h := newHost4xxx(t)
	must(t, h.SetVFs(pfA, 2))
	bindAll(t, h, pfA, driverVFIO)
	f := newFoldOf(h, 0)
	must(t, f.lookAtAll(time.Now()))
	file := filepath.Join(h.Path(pfA), "qat/cfg_services")
	must(t, os.Remove(file))
	must(t, os.Mkdir(file, 0o755)) // reading it is an error now (EISDIR)
	a, _ := ParseAddress(pfA)
	f.lookAt([]Address{a}, time.Now())
	if diff := cmp.Diff(map[string][]string{"cy": {}}, lists(f.tree)); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
	for _, vf := range h.VFs(pfA) {
		v, _ := ParseAddress(vf)
		if got := f.outcome(v); !strings.Contains(got, "its PF 0000:6b:00.0 cannot be read") {
			t.Errorf("outcome of %s is %q", vf, got)
		}
	}
}
