// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// The QAT devices of the host. Faults hit those of the first PF. The VFs of the second show that
// the plugin works on; its VF canary goes and comes.
const (
	victimPF  = "0000:6b:00.0" // 4xxx
	canaryPF  = "0000:70:00.0" // 402xx
	otherPF   = "0000:3d:00.0" // c6xx, whose VFs have a kernel driver first
	victim    = "0000:6b:00.3"
	canary    = "0000:70:00.1"
	namespace = "qat.intel.com/"
	canaries  = namespace + "dc"
)

const (
	healthInterval = time.Second

	// recoverTimeout is how long the plugin may take to work again after a fault has ended. It is
	// shorter than any interval in which the plugin reads the whole host.
	recoverTimeout = 15 * time.Second

	// canaryTimeout is for the canary's change to reach the kubelet, also while a fault lasts.
	canaryTimeout = 5 * time.Second
)

// rig is the plugin and its surroundings.
type rig struct {
	t       testing.TB // of the whole run
	host    *lookalike.Host
	kubelet *kubelettest.Kubelet
	plugin  *process

	kubeletLink string    // parent of the kubelet's directory
	odd         *oddFiles // nil: the machine has no FUSE
	cdiDir      string
	before      usage // of the plugin, before the first fault
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, host: lookalike.Start(t), cdiDir: t.TempDir()}
	r.startKubelet()
	must(t, r.host.LoadDriver("vfio-pci", "disable_denylist=1"))
	must(t, r.host.LoadDriver("c6xxvf"))
	for _, pf := range pfs() {
		must(t, r.host.AddPF(pf))
		must(t, r.host.SetVFs(pf.Address, 16))
	}
	r.startPlugin()
	return r
}

// startKubelet starts the kubelet in a directory whose parent is a link.
func (r *rig) startKubelet() {
	// Not t.TempDir, whose path is too long for a socket.
	dir, err := os.MkdirTemp("", "k")
	must(r.t, err)
	r.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r.kubeletLink = filepath.Join(dir, "kubelet")
	r.linkKubelet()
	r.kubelet, err = kubelettest.Start(filepath.Join(r.kubeletLink, "device-plugins"))
	must(r.t, err)
	r.t.Cleanup(r.kubelet.Stop)
}

// linkKubelet makes the parent of the kubelet's directory a link to a new directory.
func (r *rig) linkKubelet() {
	dir, err := os.MkdirTemp(filepath.Dir(r.kubeletLink), "")
	must(r.t, err)
	must(r.t, os.Mkdir(filepath.Join(dir, "device-plugins"), 0o755))
	must(r.t, os.Symlink(dir, r.kubeletLink+".new"))
	must(r.t, os.Rename(r.kubeletLink+".new", r.kubeletLink))
}

// args returns the arguments of an instance.
func (r *rig) args(kubelet *kubelettest.Kubelet, more ...string) []string {
	return append([]string{
		"-sysfs-root", r.host.Sysfs(), "-dev-root", r.host.Dev(), "-kubelet-dir", kubelet.Dir(),
		"-health-interval", healthInterval.String(), "-v=2",
	}, more...)
}

func (r *rig) startPlugin() {
	r.plugin = startProcess(r.t, r.args(r.kubelet,
		"-use-cdi", "-cdi-dir", r.cdiDir, "-health-address="+healthAddress)...)
}

// startWitness starts an instance that changes nothing, with a kubelet of its own. The end of the
// test kills it.
func (r *rig) startWitness(t testing.TB) (*process, *kubelettest.Kubelet) {
	kubelet := kubelettest.New(t)
	p := startProcess(t, r.args(kubelet, "-bind=false")...)
	t.Cleanup(p.kill)
	return p, kubelet
}

// startAuditor starts an instance that changes nothing and reads the whole host each second to find
// changes that no event has reported.
func (r *rig) startAuditor() *process {
	kubelet := kubelettest.New(r.t)
	p := startProcess(r.t, r.args(kubelet, "-bind=false", "-audit-interval=1s")...)
	r.t.Cleanup(p.kill)
	return p
}

// describe returns a line for each device that the kubelet has, in order.
func describe(kubelet *kubelettest.Kubelet) string {
	var lines []string
	for resource, list := range kubelet.Lists() {
		for _, d := range list.Devices {
			nodes := []string{}
			for _, n := range d.GetTopology().GetNodes() {
				nodes = append(nodes, fmt.Sprint(n.ID))
			}
			lines = append(lines, fmt.Sprintf("%s %s %s nodes %s live %t",
				resource, d.ID, d.Health, strings.Join(nodes, ","), list.Live))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// eventually waits until cond returns "". What it returns last is the error.
func eventually(t testing.TB, timeout time.Duration, what string, cond func() string) bool {
	t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(5 * time.Millisecond) {
		problem := cond()
		if problem == "" {
			return true
		}
		if time.Now().After(deadline) {
			t.Errorf("%s not within %s: %s", what, timeout, problem)
			return false
		}
	}
}

// checkCanary checks that the plugin follows a change and answers an allocation.
func (r *rig) checkCanary(t testing.TB) {
	t.Helper()
	want := r.host.VFs(canaryPF)
	must(t, r.host.RemoveVF(canary))
	r.wantCanaries(t, slices.DeleteFunc(slices.Clone(want), func(vf string) bool { return vf == canary }))
	must(t, r.host.AddVF(lookalike.VF{Address: canary, PF: canaryPF}))
	if !r.wantCanaries(t, want) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), canaryTimeout)
	defer cancel()
	response, err := r.kubelet.Allocate(ctx, canaries, []string{canary})
	if err != nil || response.ContainerResponses[0].Envs["QAT0"] != canary {
		t.Errorf("allocate %s: %v, %v", canary, response, err)
	}
}

func (r *rig) wantCanaries(t testing.TB, want []string) bool {
	t.Helper()
	return eventually(t, canaryTimeout, "the canaries' list", func() string {
		list := r.kubelet.Lists()[canaries]
		if got := list.IDs(); !list.Live || !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			return fmt.Sprintf("live %t, %q, want %q", list.Live, got, want)
		}
		return ""
	})
}

// checkEnd starts an instance while a fault lasts, and ends it.
func (r *rig) checkEnd(t testing.TB) {
	t.Helper()
	p, kubelet := r.startWitness(t)
	eventually(t, canaryTimeout, "the lists of an instance that starts while the fault lasts", func() string {
		if n := len(kubelet.Lists()[canaries].Devices); n != len(r.host.VFs(canaryPF)) {
			return fmt.Sprintf("%d canaries; log:\n%s", n, p.tail())
		}
		return ""
	})
	p.terminate()
}

// checkWorks checks that the lists are right and follow the host.
func (r *rig) checkWorks(t testing.TB) {
	t.Helper()
	must(t, r.plugin.exited())
	_, witness := r.startWitness(t)
	eventually(t, recoverTimeout, "the lists of an instance that starts now", func() string {
		want, got := describe(witness), describe(r.kubelet)
		if len(witness.Lists()[canaries].Devices) == 0 || got != want {
			return fmt.Sprintf("got\n%s\nwant\n%s", got, want)
		}
		return ""
	})
	r.checkCanary(t)
}

// checkRecovered checks what must hold after each fault.
func (r *rig) checkRecovered(t testing.TB) {
	t.Helper()
	r.checkWorks(t)
	eventually(t, recoverTimeout, "no more descriptors and threads than before", func() string {
		if now := r.plugin.usage(); now.descriptors > r.before.descriptors+4 || now.threads > r.before.threads+16 {
			return fmt.Sprintf("%s, at the start %s", now, r.before)
		}
		return ""
	})
	if t.Failed() {
		t.Logf("log of the plugin:\n%s", r.plugin.tail())
	}
}

// file returns the path of an attribute.
func (r *rig) file(address string, name ...string) string {
	return filepath.Join(append([]string{r.host.Path(address)}, name...)...)
}

// debugfs returns the path of a file of the victim PF in debugfs.
func (r *rig) debugfs(name string) string {
	return filepath.Join(r.host.Sysfs(), "kernel/debug/qat_4xxx_"+victimPF, name)
}

// exchange replaces a file by a link to another one, in one step. restore undoes that.
func exchange(t testing.TB, file, target string) (restore func()) {
	t.Helper()
	kept, link := file+".kept", file+".link"
	must(t, os.Symlink(target, link))
	must(t, os.Link(file, kept))
	must(t, os.Rename(link, file))
	return func() {
		t.Helper()
		must(t, os.Rename(kept, file))
	}
}

// sockets returns the names in the kubelet's directory.
func (r *rig) sockets(t testing.TB) []string {
	entries, err := os.ReadDir(r.kubelet.Dir())
	must(t, err)
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	return slices.Sorted(maps.Keys(names))
}
