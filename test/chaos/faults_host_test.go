// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
)

// pfs returns the PFs of the host.
func pfs() []lookalike.PF {
	return []lookalike.PF{
		{Address: victimPF, DeviceID: "4940", Services: "sym;asym"},
		{Address: canaryPF, DeviceID: "4944", Services: "dc", NUMANode: 1},
		{Address: otherPF, DeviceID: "37c8"},
	}
}

// randomChanges changes the two PFs that are not the canaries' in every way that the host knows,
// and then recreates them. Many of the changes are not possible at that moment, and fail.
func randomChanges(t *testing.T, r *rig, random *rand.Rand) {
	h := r.host
	failing := map[string]bool{}
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); {
		pf := pfs()[2*random.IntN(2)]
		vf := victim
		if vfs := h.VFs(pf.Address); len(vfs) > 0 {
			vf = vfs[random.IntN(len(vfs))]
		}
		switch random.IntN(16) {
		case 0:
			_ = h.SetVFs(pf.Address, 0)
		case 1, 2:
			_ = h.SetVFs(pf.Address, 1+random.IntN(16))
		case 3:
			_ = h.RemoveVF(vf)
		case 4:
			_ = h.AddVF(lookalike.VF{Address: vf, PF: pf.Address})
		case 5:
			_ = h.SetState(pf.Address, []string{"up", "down"}[random.IntN(2)])
		case 6:
			_ = h.SetService(pf.Address, []string{"sym;asym", "dc", "sym;dc", "asym"}[random.IntN(4)])
		case 7:
			_ = h.RemovePF(pf.Address)
		case 8, 9:
			_ = h.AddPF(pf)
		case 10:
			_ = h.Unbind(vf)
		case 11:
			failing[vf] = true
			h.FailBind(vf, []error{nil, unix.EIO}[random.IntN(2)])
		case 12:
			_ = h.SetAttr(pf.Address, "numa_node", []string{"-1", "0", "1", "x"}[random.IntN(4)])
		case 13:
			_ = h.SetAttr(vf, "driver_override", []string{"none", "(null)", "vfio-pci"}[random.IntN(3)])
		case 14:
			_ = h.SetAttr(vf, "numa_node", []string{"-1", "0", "1", "x"}[random.IntN(4)])
		case 15:
			time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
		}
	}
	r.checkWorks(t)
	for vf := range failing {
		h.FailBind(vf, nil)
	}
	for _, pf := range []lookalike.PF{pfs()[0], pfs()[2]} {
		_ = h.RemovePF(pf.Address)
		must(t, h.AddPF(pf))
		must(t, h.SetVFs(pf.Address, 16))
	}
	r.wantVictim(t)
}

// failedHeartbeat fails the heartbeat of a PF for a while. The driver counts each failed check, but
// the host only each call of SetHeartbeat.
func failedHeartbeat(t *testing.T, r *rig) {
	eventually(t, recoverTimeout, "the victim unhealthy", func() string {
		must(t, r.host.SetHeartbeat(victimPF, "-1"))
		if health := r.kubelet.Lists()[namespace+"cy"].Health(victim); health != "Unhealthy" {
			return "it is " + strconv.Quote(health)
		}
		return ""
	})
	r.checkCanary(t)
	must(t, r.host.SetHeartbeat(victimPF, "0"))
	r.wantVictim(t)
}

// driverUnloaded unloads the DPDK driver and loads it again.
func driverUnloaded(t *testing.T, r *rig) {
	must(t, r.host.UnloadDriver("vfio-pci"))
	eventually(t, canaryTimeout, "no VFs without their driver", func() string {
		if got := describe(r.kubelet); got != "" {
			return got
		}
		return ""
	})
	must(t, r.host.LoadDriver("vfio-pci", "disable_denylist=1"))
	r.wantVictim(t)
}

// heldVF removes VFs one of which a workload holds, which delays the removal.
func heldVF(t *testing.T, r *rig) {
	release := r.host.Hold(victim)
	removed := make(chan error, 1)
	go func() { removed <- r.host.SetVFs(victimPF, 0) }()
	eventually(t, canaryTimeout, "the held VF unhealthy or gone", func() string {
		if health := r.kubelet.Lists()[namespace+"cy"].Health(victim); health == "Healthy" {
			return "it is healthy"
		}
		return ""
	})
	release()
	must(t, <-removed)
	must(t, r.host.SetVFs(victimPF, 16))
	r.wantVictim(t)
}
