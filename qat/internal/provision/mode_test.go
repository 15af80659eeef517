// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"qatplugin/internal/testlog"
	"qatplugin/qat/internal/readpool"
)

const pfName = "0000:6b:00.0"

// inBubble runs a test on a host with a PF that has all of its VFs, which are bound, and sym;asym.
func inBubble(t *testing.T, test func(t *testing.T, r *rig)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dir)
		defer r.stop()
		r.add(newPF(pfName, 0x4940).full())
		test(t, r)
	})
}

// wrote fails unless the plugin has made exactly these writes to PF pfName since the last call.
func (r *rig) wrote(want ...string) {
	r.t.Helper()
	var got []string
	for _, w := range r.written() {
		if w, ok := strings.CutPrefix(w, pfName+" "); ok {
			got = append(got, w)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Fatalf("writes (-want +got):\n%s", diff)
	}
}

const allDC = "- services: [dc]\n  vfs: all\n"

func TestRefusedServicesLeaveThePFAsItWas(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.refuse(pf, write{attrServices, "dc"}, unix.EINVAL)
		r.configure(allDC)
		r.start()
		r.after(time.Second)
		r.wrote("sriov_numvfs=0", "qat/state=down", "qat/cfg_services=dc", "qat/state=up", "sriov_numvfs=4")
		const reason = `the kernel refuses "dc" for qat/cfg_services: invalid argument: ` +
			"configure services that this kernel supports"
		if got := r.reason(pf); got != reason {
			t.Errorf("reason %q, want %q", got, reason)
		}
		if f := r.get(pf); f.state != "up" || f.numVFs != 4 || f.vfs[0].driver != dpdkDriver {
			t.Errorf("the PF is %+v", f)
		}
		r.event(pf)
		r.after(time.Hour)
		r.wrote() // nothing changed

		r.change(pf, func(f *facts) { f.setVFs(0) })
		r.after(time.Hour)
		r.wrote("sriov_numvfs=4") // without another try of the services

		r.change(pf, func(f *facts) { f.driver = "" })
		r.after(time.Second)
		r.change(pf, func(f *facts) { f.driver = "4xxx" }) // perhaps a newer one
		r.after(time.Second)
		r.wrote("sriov_numvfs=0", "qat/state=down", "qat/cfg_services=dc", "qat/state=up", "sriov_numvfs=4")

		r.configure("- services: [sym]\n  vfs: all\n")
		r.after(time.Second)
		r.wrote("sriov_numvfs=0", "qat/state=down", "qat/cfg_services=sym", "qat/state=up", "sriov_numvfs=4")
	})
}

func TestFailureOfStateDownBringsTheVFsBack(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.refuse(pf, write{attrState, "down"}, unix.EBUSY) // in use by the kernel
		r.configure("- services: [dc]\n")
		r.start()
		r.after(500 * time.Millisecond)
		r.wrote("sriov_numvfs=0", "qat/state=down", "sriov_numvfs=4")
		r.after(time.Second)
		r.wrote("sriov_numvfs=0", "qat/state=down", "sriov_numvfs=4")
		r.after(time.Hour)
		if n := len(r.written()); n < 3*15 || n > 3*20 { // after 2, 4, … 256 s, then each 5 minutes
			t.Errorf("%d writes in an hour", n)
		}
		if withdrawn := r.withdrawn[pf]; withdrawn != "" {
			t.Errorf("between attempts, the PF is withdrawn: %s", withdrawn)
		}
		if reason := r.reason(pf); !strings.Contains(reason, "device or resource busy") {
			t.Errorf("reason: %q", reason)
		}
		r.refuse(pf, write{}, nil)
		r.change(pf, func(f *facts) { f.autoReset = "on" }) // something happens to the PF
		r.after(time.Second)
		r.wrote("sriov_numvfs=0", "qat/state=down", "qat/cfg_services=dc", "qat/state=up", "sriov_numvfs=4")
	})
}

func TestVFsThatCannotBeCreatedAtOnceComeBack(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.refuse(pf, write{attrNumVFs, "4"}, unix.ENOMEM)
		r.configure("- services: [dc]\n") // leaves VFs alone
		r.start()
		r.after(500 * time.Millisecond)
		r.wrote("sriov_numvfs=0", "qat/state=down", "qat/cfg_services=dc", "qat/state=up", "sriov_numvfs=4")
		r.refuse(pf, write{}, nil)
		r.after(time.Second)
		r.wrote("sriov_numvfs=4")
	})
}

// The reason is logged again each time it has been gone. A read can take longer than the loop waits
// for it.
func TestReasonStaysWhileThePFIsRead(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.configure("- vfs: all\n")
		r.start()
		r.after(time.Second)
		vf := pf
		vf.Function = 1
		if !r.allocate(vf, "default/web", 0) {
			t.Fatal("the VF cannot be allocated")
		}
		r.configure("- services: [dc]\n  vfs: all\n")
		r.after(30 * time.Second)
		r.mu.Lock()
		r.readTime = 2 * readpool.Wait
		r.mu.Unlock()
		for range 3000 {
			r.after(10 * time.Millisecond)
			if reason := r.reason(pf); !strings.Contains(reason, "default/web") {
				t.Fatalf("reason %q", reason)
			}
		}
	})
}

func TestAnotherProgramThatConfiguresAPFIsDamped(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.configure("- autoReset: true\n")
		r.start()
		r.after(100 * time.Millisecond)
		for end := time.Now().Add(time.Hour); time.Now().Before(end); r.after(50 * time.Millisecond) {
			r.change(pf, func(f *facts) { f.autoReset = "off" })
		}
		if n := len(r.written()); n < 15 || n > 22 { // at once, after 1, 2, 4, … 256 s, then each 5 minutes
			t.Errorf("%d writes in an hour", n)
		}
		if reason := r.reason(pf); !strings.Contains(reason, "another program may configure it too") {
			t.Errorf("reason: %q", reason)
		}
		r.after(15 * time.Minute) // the other program ends
		r.written()
		r.change(pf, func(f *facts) { f.autoReset = "off" })
		r.after(time.Second)
		r.wrote("qat/auto_reset=on") // at once
	})
}

func TestBlockedWriteConcernsItsPFOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		other := newPF("0000:70:00.0", 0x4940).full()
		r.add(other)
		blocked := make(chan struct{})
		r.block(pf, blocked) // a process holds a VF
		r.configure(allDC)
		r.start()
		r.after(500 * time.Millisecond)
		if services := r.get(other.address).services; services != "dc" {
			t.Errorf("the services of the other PF are %q", services)
		}
		r.after(10 * time.Second)
		const want = "the write of 0000:6b:00.1 to driver/unbind has not returned since 00:00:00: " +
			"a process that the kubelet does not report may hold a VF, such as an init container"
		if reason := r.reason(pf); reason != want {
			t.Errorf("reason %q, want %q", reason, want)
		}
		r.event(pf) // which must not read the PF: the kernel would block that too
		r.configure("- services: [sym]\n  vfs: all\n")
		r.after(10 * time.Second)
		r.block(pf, nil)
		close(blocked)
		r.after(10 * time.Second)
		if f := r.get(pf); f.services != "sym" || f.numVFs != 4 || r.reason(pf) != "" {
			t.Errorf("the PF is %+v, reason %q", f, r.reason(pf))
		}
	})
}

func TestPFThatReturnsWhileAWriteIsBlockedIsProvisioned(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		blocked := make(chan struct{})
		r.block(pf, blocked)
		r.configure(allDC)
		r.start()
		r.after(10 * time.Second)
		r.block(pf, nil)
		r.remove(pf)
		r.after(time.Second)
		r.add(newPF(pfName, 0x4940))
		r.after(time.Second)
		if f := r.get(pf); f.services != "dc" || f.numVFs != 4 {
			t.Errorf("the PF is %+v", f)
		}
		r.written()
		close(blocked)
		r.after(time.Second)
		if f := r.get(pf); f.services != "dc" || f.numVFs != 4 {
			t.Errorf("after the old write the PF is %+v, writes %q", f, r.written())
		}
	})
}

func TestKubeletIsAskedLessAndLessOften(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		vf := r.get(address(pfName)).vfs[0].address
		r.configure("- services: [sym, asym]\n")
		r.start()
		r.after(time.Second)
		if r.asked != 0 {
			t.Errorf("asked %d times although nothing differs", r.asked)
		}
		if !r.allocate(vf, "default/web", 0) {
			t.Fatal("the VF cannot be allocated")
		}
		r.configure(allDC)
		r.after(time.Minute)
		if r.asked < 8 || r.asked > 10 { // twice at once, after 1, 2, 4, 8 s, then each 10 s
			t.Errorf("asked %d times in a minute", r.asked)
		}
		r.wrote()
		r.release(vf)
		r.after(10 * time.Second)
		r.wrote("sriov_numvfs=0", "qat/state=down", "qat/cfg_services=dc", "qat/state=up", "sriov_numvfs=4")
		asked := r.asked
		r.after(time.Hour)
		if r.asked != asked {
			t.Errorf("asked %d times after the change", r.asked-asked)
		}
	})
}

func TestWithoutIOMMUTheReasonSaysSo(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.change(pf, func(f *facts) { f.setVFs(0) })
		r.noIOMMU = true
		r.configure("- vfs: all\n")
		r.start()
		r.after(time.Minute)
		r.wrote("sriov_numvfs=4")
		const want = "the QAT driver refuses VFs without an IOMMU: enable it in the firmware, and boot with " +
			`intel_iommu=on (the kernel refuses "4" for sriov_numvfs: invalid argument)`
		if reason := r.reason(pf); reason != want {
			t.Errorf("reason %q, want %q", reason, want)
		}
	})
}

func TestEndDoesNotWaitForABlockedWrite(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		blocked := make(chan struct{})
		r.block(address(pfName), blocked)
		r.configure(allDC)
		r.start()
		r.after(10 * time.Second)
		began := time.Now()
		r.stop()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the end took %v", took)
		}
		close(blocked)
		r.after(time.Minute) // the write returns, and those after it are made
	})
}

func TestVFsThatAppearBeforeThePFIsTakenDownStay(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.change(pf, func(f *facts) { f.setVFs(0) })
		r.configure("- autoReset: true\n  services: [dc]\n") // auto_reset is the first write
		r.onWrite = func(w write) {
			if w.attribute == attrAutoReset {
				r.change(pf, func(f *facts) { f.full() })
				vf := r.get(pf).vfs[0].address
				if r.allocate(vf, "default/web", 0) {
					t.Error("a VF of a PF that is about to go down was allocated")
				}
				r.allocateElsewhere(vf, "default/web")
			}
		}
		r.start()
		r.after(5 * time.Minute)
		r.wrote("qat/auto_reset=on")
		if reason := r.reason(pf); !strings.HasPrefix(reason, "pod default/web holds ") {
			t.Errorf("reason: %q", reason)
		}
	})
}

func TestDryRunLogsEachPlanOnceAndDoesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		lines := testlog.Capture(t)
		pf := address(pfName)
		r.dryRun = true
		r.configure(allDC)
		r.start()
		r.after(time.Second)
		r.event(pf)
		r.after(time.Hour)
		r.configure("- services: [sym]\n  vfs: all\n")
		r.after(time.Hour)
		var got []string
		for _, line := range lines() {
			if strings.HasPrefix(line, `"Would provision a PF"`) {
				got = append(got, line)
			}
		}
		const format = `"Would provision a PF" pf="0000:6b:00.0" rule="qat.yaml:2" ` +
			`differs=["services sym;asym → %s"] ` +
			`writes="sriov_numvfs=0 qat/state=down qat/cfg_services=%[1]s qat/state=up sriov_numvfs=4" removesVFs=true`
		want := []string{fmt.Sprintf(format, "dc"), fmt.Sprintf(format, "sym")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		r.wrote()
		if len(r.withdrawn) > 0 {
			t.Errorf("withdrawn: %v", r.withdrawn)
		}
	})
}

func TestLogOfAPFThatFailsAgainAndAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		lines := testlog.Capture(t)
		pf := address(pfName)
		r.refuse(pf, write{attrState, "down"}, unix.EBUSY)
		r.configure("- services: [dc]\n")
		r.start()
		r.after(time.Hour)
		r.refuse(pf, write{}, nil)
		r.after(10 * time.Minute)
		var got []string
		for _, line := range lines() {
			line, _, _ = strings.Cut(line, " after=")
			if strings.Contains(line, "0000:6b:00.0") && !strings.Contains(line, "Writing") {
				got = append(got, line)
			}
		}
		const plan = `"Provisioning a PF" pf="0000:6b:00.0" rule="qat.yaml:2" differs=["services sym;asym → dc"] ` +
			`writes="sriov_numvfs=0 qat/state=down qat/cfg_services=dc qat/state=up sriov_numvfs=4"`
		want := []string{
			plan,
			`"Cannot provision a PF" err="device or resource busy" pf="0000:6b:00.0" rule="qat.yaml:2"`,
			`"Not provisioned" reason="device or resource busy" devices=["0000:6b:00.0"]`,
			`"Provisioned a PF" pf="0000:6b:00.0"`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

func TestRuleWithoutSettingsExemptsAPF(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.change(pf, func(f *facts) { f.setVFs(0); f.state = "down" })
		r.configure("- match: {pfs: [\"" + pfName + "\"]}\n- services: [dc]\n  vfs: all\n")
		r.start()
		r.after(time.Minute)
		r.change(pf, func(f *facts) { f.driver = "" })
		r.after(time.Minute)
		r.wrote()
		if reason := r.reason(pf); reason != "" {
			t.Errorf("reason: %q", reason)
		}
	})
}

func TestNoPFIsTakenDownWhenThePluginEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.change(address(pfName), func(f *facts) {
			for i := range f.vfs {
				f.vfs[i].driver = "" // so they do not count as held if the kubelet cannot be asked
			}
		})
		r.silent = true
		r.configure(allDC)
		r.start()
		r.after(time.Second)
		r.stop()
		r.after(time.Second)
		r.wrote()
	})
}

// A file that is not replaced at once, but written in place, is read when it is complete.
func TestHalfWrittenConfigurationDoesNotTakeEffect(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.configure("- services: [sym, asym]\n")
		r.start()
		r.after(time.Second)
		r.configure("- services:\n  - sym\n")
		r.after(5 * time.Millisecond)
		r.configure("- services:\n  - sym\n  - asym\n  vfs: 0\n")
		r.after(time.Second)
		r.wrote("sriov_numvfs=0")
	})
}

func TestPFThatCannotBeReadIsReported(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		pf := address(pfName)
		r.configure("- vfs: all\n")
		r.readErr = errors.New("read sriov_numvfs: input/output error")
		r.start()
		r.after(time.Minute)
		if reason, want := r.reason(pf), "it cannot be read: read sriov_numvfs: input/output error"; reason != want {
			t.Errorf("reason %q, want %q", reason, want)
		}
		r.mu.Lock()
		r.readErr = nil
		r.mu.Unlock()
		r.after(10 * time.Minute) // it is read again
		if reason := r.reason(pf); reason != "" {
			t.Errorf("reason %q", reason)
		}
	})
}
