// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Earlier kernels, such as Linux 6.6, refuse 0 for sriov_numvfs, but remove VFs when the PF goes
// down.
func TestEarlierKernelRemovesVFsByTakingThePFDown(t *testing.T) {
	const dc = "qat/cfg_services=dc"
	for name, test := range map[string]struct {
		rule   string
		writes []string
	}{
		"services": {allDC, []string{"qat/state=down", dc, "qat/state=up", "sriov_numvfs=4"}},
		"no VFs":   {"- vfs: 0\n", []string{"qat/state=down", "qat/state=up"}},
		"driver": {"- driver: kernel\n  vfs: all\n", []string{
			"qat/state=down", "qat/state=up", "sriov_drivers_autoprobe=1", "sriov_numvfs=4",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				pf := address(pfName)
				r.change(pf, func(f *facts) { f.autoprobe = "0" })
				r.earlier = true
				r.configure(test.rule)
				r.start()
				r.after(10 * time.Second)
				r.wrote(append([]string{"sriov_numvfs=0"}, test.writes...)...)
				if reason := r.reason(pf); reason != "" {
					t.Errorf("reason: %q", reason)
				}
				r.crash()
				r.start()
				r.after(time.Hour)
				r.wrote()
			})
		})
	}
}

// Such a kernel forgets pm_idle_enabled when it creates VFs.
func TestSettingThatTheKernelDoesNotKeepIsReported(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.change(pf, func(f *facts) { f.setVFs(0) })
		r.earlier = true
		r.configure("- pmIdle: false\n  vfs: all\n")
		r.start()
		r.after(10 * time.Second)
		r.written()
		r.event(pf)
		r.after(time.Hour)
		r.wrote()
		const want = `the kernel does not keep "0" in qat/pm_idle_enabled when it creates VFs: use a newer kernel, ` +
			"or take pmIdle out of the rule"
		if reason := r.reason(pf); reason != want {
			t.Errorf("reason %q, want %q", reason, want)
		}
	})
}

// Whatever ends the plugin after it has unbound VFs, their kernel driver gets them.
func TestVFsWithoutDriverGetTheirKernelDriver(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.change(pf, func(f *facts) {
			f.autoprobe = "0"
			for i := range f.vfs {
				f.vfs[i].driver = ""
			}
		})
		r.configure("- driver: kernel\n")
		r.start()
		r.after(10 * time.Second)
		r.wrote("sriov_numvfs=0", "sriov_drivers_autoprobe=1", "sriov_numvfs=4")
		if driver := r.get(pf).vfs[0].driver; driver != "4xxxvf" {
			t.Errorf("the driver of the first VF is %q", driver)
		}
	})
}

// The driver accepts services that the firmware lacks, and then the PF does not come up.
func TestPFThatDoesNotComeUpGetsItsOldServicesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.onWrite = func(w write) {
			switch w {
			case write{attrServices, "dc"}:
				r.refuse(pf, write{attrState, "up"}, unix.EFAULT)
			case write{attrServices, "sym;asym"}:
				r.refuse(pf, write{}, nil)
			}
		}
		r.configure(allDC)
		r.start()
		r.after(time.Second)
		r.wrote("sriov_numvfs=0", "qat/state=down", "qat/cfg_services=dc", "qat/state=up",
			"qat/cfg_services=sym;asym", "qat/state=up", "sriov_numvfs=4")
		const want = "the PF does not come up with the services dc, so it has its old ones: bad address: see dmesg"
		if reason := r.reason(pf); reason != want {
			t.Errorf("reason %q, want %q", reason, want)
		}
		if f := r.get(pf); f.state != "up" || f.services != "asym;sym" || f.numVFs != 4 {
			t.Errorf("the PF is %+v", f)
		}
		r.event(pf)
		r.after(time.Hour)
		r.wrote()
	})
}

// The kernel is busy for a moment: that says nothing about the services.
func TestPFThatIsBusyKeepsItsNewServices(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.onWrite = func(w write) {
			if w == (write{attrServices, "dc"}) {
				r.refuse(pf, write{attrState, "up"}, unix.EBUSY)
			}
		}
		r.configure(allDC)
		r.start()
		r.after(500 * time.Millisecond)
		r.wrote("sriov_numvfs=0", "qat/state=down", "qat/cfg_services=dc", "qat/state=up")
		r.refuse(pf, write{}, nil)
		r.after(10 * time.Second)
		r.wrote("qat/state=up", "sriov_numvfs=4")
	})
}

// When nothing is to be done, the event loop sleeps.
func TestIdleLoopDoesNotTurn(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		idle := func(when string) {
			t.Helper()
			r.after(time.Minute)
			before := r.turns
			r.after(time.Hour)
			if n := r.turns - before; n > 0 {
				t.Errorf("%s: %d turns in an hour", when, n)
			}
		}
		r.configure("- services: [sym, asym]\n  vfs: all\n  autoReset: true\n")
		r.start()
		idle("provisioned")
		r.refuse(pf, write{attrServices, "dc"}, unix.EINVAL)
		r.configure(allDC)
		idle("services refused")
		r.change(pf, func(f *facts) { f.driver = "" })
		idle("no driver")
		r.remove(pf)
		idle("no PF")
		r.add(newPF(pfName, 0x4940).full())
		r.refuse(pf, write{}, nil)
		r.configure("- services: [sym]\n")
		blocked := make(chan struct{})
		r.block(pf, blocked)
		idle("a write is blocked")
		r.block(pf, nil)
		close(blocked)
		idle("provisioned again")
	})
}
