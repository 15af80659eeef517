// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"testing"
	"time"
)

// Earlier kernels, such as Linux 6.6, refuse 0 for sriov_numvfs, but remove VFs when the PF goes down.
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
