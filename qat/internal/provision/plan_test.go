// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/provision/config"
)

// with returns the PF after a change.
func (f *facts) with(change func(f *facts)) *facts {
	change(f)
	return f
}

// full returns the PF with all of its VFs, which are bound to the DPDK driver.
func (f *facts) full() *facts {
	f.autoprobe = "0"
	f.setVFs(f.totalVFs)
	for i := range f.vfs {
		f.vfs[i].driver = dpdkDriver
	}
	return f
}

func TestPlan(t *testing.T) {
	on, off := true, false
	gen4 := func() *facts { return newPF("0000:6b:00.0", 0x4940) } // up, sym;asym, without VFs
	gen2 := func() *facts { return newPF("0000:3d:00.0", 0x37c8) }
	dc := []string{"dc"}
	cy := []string{"asym", "sym"}
	for _, tt := range []struct {
		name    string
		facts   *facts
		desired config.Desired
		refused map[write]string
		noBind  bool
		restore bool
		writes  string
		keeps   bool // the VFs, although there are writes
		wait    string
		unmet   string
	}{
		{name: "nothing is wanted", facts: gen4()},
		{name: "all is right", facts: gen4().full(), desired: config.Desired{Services: cy, VFs: config.All}},
		{
			name:    "VFs are missing",
			facts:   gen4(),
			desired: config.Desired{Services: cy, VFs: config.All},
			writes:  "sriov_drivers_autoprobe=0 sriov_numvfs=4",
			keeps:   true,
		},
		{
			name:    "VFs are missing, and the kernel has no autoprobe",
			facts:   gen4().with(func(f *facts) { f.autoprobe = "" }),
			desired: config.Desired{VFs: config.All},
			writes:  "sriov_numvfs=4",
			keeps:   true,
		},
		{
			name:    "without binding, autoprobe stays",
			facts:   gen4(),
			desired: config.Desired{VFs: config.All},
			noBind:  true,
			writes:  "sriov_numvfs=4",
			keeps:   true,
		},
		{
			name:    "services differ without VFs",
			facts:   gen4(),
			desired: config.Desired{Services: dc},
			writes:  "qat/state=down qat/cfg_services=dc qat/state=up",
			keeps:   true,
		},
		{
			name:    "services differ with VFs, which come back",
			facts:   gen4().full(),
			desired: config.Desired{Services: dc},
			writes:  "sriov_numvfs=0 qat/state=down qat/cfg_services=dc qat/state=up sriov_numvfs=4",
		},
		{
			name:    "everything differs",
			facts:   gen4().with(func(f *facts) { f.setVFs(2) }),
			desired: config.Desired{Services: dc, VFs: config.All, AutoReset: &on, PMIdle: &off},
			writes: "qat/auto_reset=on sriov_numvfs=0 qat/state=down qat/cfg_services=dc qat/pm_idle_enabled=0 " +
				"qat/state=up sriov_drivers_autoprobe=0 sriov_numvfs=4",
		},
		{
			name:    "only auto_reset differs, which is live",
			facts:   gen4().full(),
			desired: config.Desired{VFs: config.All, AutoReset: &on},
			writes:  "qat/auto_reset=on",
			keeps:   true,
		},
		{
			name:    "down after the plugin ended between the services and up",
			facts:   gen4().with(func(f *facts) { f.state, f.services = "down", "dc" }),
			desired: config.Desired{Services: dc, VFs: config.All},
			writes:  "qat/state=up sriov_drivers_autoprobe=0 sriov_numvfs=4",
			keeps:   true,
		},
		{
			name:    "down by an administrator",
			facts:   gen4().with(func(f *facts) { f.state = "down" }),
			desired: config.Desired{VFs: config.None, AutoReset: &off},
		},
		{
			name:    "down, and the services differ",
			facts:   gen4().with(func(f *facts) { f.state = "down" }),
			desired: config.Desired{Services: dc, VFs: config.None},
			writes:  "qat/cfg_services=dc qat/state=up",
			keeps:   true,
		},
		{
			name:    "no VFs are wanted",
			facts:   gen4().full(),
			desired: config.Desired{VFs: config.None},
			writes:  "sriov_numvfs=0",
		},
		{
			name:    "a wrong number of VFs",
			facts:   gen2().with(func(f *facts) { f.setVFs(2); f.autoprobe = "0" }),
			desired: config.Desired{VFs: config.All},
			writes:  "sriov_numvfs=0 sriov_numvfs=4",
		},
		{
			name:    "one VF was removed",
			facts:   gen4().full().with(func(f *facts) { f.vfs = f.vfs[1:] }),
			desired: config.Desired{VFs: config.All},
			writes:  "sriov_numvfs=0 sriov_numvfs=4",
		},
		{
			name:    "VFs of the kernel driver are bound to the DPDK driver",
			facts:   gen4().full(),
			desired: config.Desired{VFs: config.All, Driver: config.DriverKernel},
			writes:  "sriov_numvfs=0 sriov_drivers_autoprobe=1 sriov_numvfs=4",
		},
		{
			name:    "VFs of the kernel driver are right",
			facts:   gen4().with(func(f *facts) { f.setVFs(4) }),
			desired: config.Desired{VFs: config.All, Driver: config.DriverKernel},
		},
		{
			name:    "VFs that could not be created come back",
			facts:   gen4().with(func(f *facts) { f.autoprobe = "0" }),
			desired: config.Desired{Services: cy},
			restore: true,
			writes:  "sriov_numvfs=4",
			keeps:   true,
		},
		{
			name:    "no driver",
			facts:   gen4().with(func(f *facts) { f.driver = "" }),
			desired: config.Desired{VFs: config.All},
			wait:    "it has no driver: modprobe qat_4xxx",
		},
		{
			name:    "another driver",
			facts:   gen4().with(func(f *facts) { f.driver = dpdkDriver }),
			desired: config.Desired{VFs: config.All},
			wait:    "it is bound to vfio-pci, and only its own driver 4xxx can configure it",
		},
		{
			name:    "the family does not take the services",
			facts:   gen4(),
			desired: config.Desired{Services: []string{"sym", "asym", "dc"}, VFs: config.All},
			writes:  "sriov_drivers_autoprobe=0 sriov_numvfs=4",
			keeps:   true,
			unmet:   "4xxx does not accept sym;asym;dc: must be one or two of asym, sym and dc, or dcc alone",
		},
		{
			name:    "the driver lacks an attribute",
			facts:   gen4().full().with(func(f *facts) { f.autoReset = "" }),
			desired: config.Desired{VFs: config.All, AutoReset: &on},
			unmet:   "its driver has no qat/auto_reset: use a newer kernel, or take it out of the rule",
		},
		{
			name:    "refused services do not take the PF down again",
			facts:   gen4(),
			desired: config.Desired{Services: dc, VFs: config.All},
			refused: map[write]string{{attrServices, "dc"}: "refused"},
			writes:  "sriov_drivers_autoprobe=0 sriov_numvfs=4",
			keeps:   true,
			unmet:   "refused",
		},
		{
			name:    "VFs that could not come back are not removed",
			facts:   gen4().full(),
			desired: config.Desired{Services: dc, VFs: config.All},
			refused: map[write]string{{attrNumVFs, "4"}: "refused"},
			unmet:   "refused",
		},
		{
			name:    "no SR-IOV",
			facts:   gen4().with(func(f *facts) { f.totalVFs = 0 }),
			desired: config.Desired{VFs: config.All},
			unmet:   "it cannot have VFs: sriov_totalvfs is missing or 0",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			isBound := func(driver string) bool { return driver == dpdkDriver }
			p := newPlan(
				&input{facts: tt.facts, desired: tt.desired, refused: tt.refused, restore: tt.restore},
				&rules{isBound: isBound, noBind: tt.noBind})
			want := plan{
				wait:     tt.wait,
				unmet:    tt.unmet,
				takedown: tt.writes != "" && !tt.keeps,
				restarts: strings.Contains(tt.writes, attrServices) || strings.Contains(tt.writes, attrPMIdle),
			}
			for text := range strings.FieldsSeq(tt.writes) {
				attribute, value, _ := strings.Cut(text, "=")
				want.writes = append(want.writes, write{attribute, value})
			}
			if (len(p.differs) > 0) != (tt.writes != "") {
				t.Errorf("what differs is %q, and the writes are %q", p.differs, tt.writes)
			}
			p.differs = nil
			if diff := cmp.Diff(want, p, cmp.AllowUnexported(plan{}, write{})); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHoldersBlock(t *testing.T) {
	isBound := func(driver string) bool { return driver == dpdkDriver }
	bound := newPF("0000:6b:00.0", 0x4940).full().vfs
	unbound := newPF("0000:6b:00.0", 0x4940).with(func(f *facts) { f.setVFs(4) }).vfs
	first, second := bound[0].address, bound[1].address
	for _, tt := range []struct {
		name    string
		vfs     []vf
		holders holders
		want    string
	}{
		{"free", bound, holders{}, ""},
		{"held", bound, holders{pods: map[pci.Address]string{second: "a/b"}}, "pod a/b holds 0000:6b:00.2"},
		{"another PF's VF is held", bound, holders{pods: map[pci.Address]string{address("0000:70:00.1"): "a/b"}}, ""},
		{"nobody knows", bound, holders{err: errors.New("down")}, "its VFs count as held by pods: down"},
		{"nobody can hold", unbound, holders{err: errors.New("down")}, ""},
		{"just allocated", bound, holders{allocated: &first}, "0000:6b:00.1 was allocated less than 10s ago"},
	} {
		if got := tt.holders.block(tt.vfs, &rules{isBound: isBound}); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestServicesAreWrittenAsOldKernelsKnowThem(t *testing.T) {
	for services, want := range map[string]string{
		"sym asym": "sym;asym", "asym sym": "sym;asym", "dc": "dc", "asym dc sym": "sym;dc;asym",
	} {
		f := newPF("0000:6b:00.0", 0x4948)
		f.services = "decomp"
		in := &input{facts: f, desired: config.Desired{Services: strings.Fields(services)}}
		p := newPlan(in, &rules{isBound: func(string) bool { return false }})
		if w := (write{attrServices, want}); !slices.Contains(p.writes, w) {
			t.Errorf("writes for the services %s: %s, want %s among them", services, p.String(), w)
		}
	}
}
