// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/testenv"
	"qatplugin/kubeletapi/kubelettest"
)

const kernelResource = namespace + "cy1_dc0" // of the processes in mode kernel

// kernelRig is the plugin in mode kernel.
type kernelRig struct {
	t       testing.TB
	kubelet *kubelettest.Kubelet
	plugin  *process
	adfCtl  string // path of the program
	config  string // path of the device's configuration file
}

// newKernelRig starts the plugin on a host without an IOMMU, where a PF is up and has two
// processes. The plugin asks adf_ctl each second.
func newKernelRig(t testing.TB) *kernelRig {
	host := lookalike.Start(t, lookalike.WithoutIOMMU())
	dir := t.TempDir()
	r := &kernelRig{
		t:       t,
		kubelet: kubelettest.New(t),
		adfCtl:  filepath.Join(dir, "adf_ctl"),
		config:  filepath.Join(dir, "c6xx_dev0.conf"),
	}
	must(t, host.AddPF(lookalike.PF{Address: otherPF, DeviceID: "37c8"}))
	must(t, os.MkdirAll(filepath.Join(host.Path(otherPF), "uio/uio0"), 0o755))
	for _, node := range []string{"uio0", "qat_adf_ctl", "qat_dev_processes", "usdm_drv"} {
		must(t, os.WriteFile(filepath.Join(host.Dev(), node), nil, 0o600))
	}
	r.answers()
	r.configure(2)
	r.plugin = startProcess(t, "-mode=kernel", "-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(),
		"-kubelet-dir", r.kubelet.Dir(), "-etc-root", dir, "-adf-ctl", r.adfCtl, "-audit-interval=1s", "-v=2")
	t.Cleanup(func() { r.plugin.kill() })
	r.wantProcesses(t, 2)
	return r
}

// script makes adf_ctl a shell script.
func (r *kernelRig) script(text string) {
	r.t.Helper()
	must(r.t, os.WriteFile(r.adfCtl+".new", []byte("#!/bin/sh\n"+text), 0o755))
	must(r.t, os.Rename(r.adfCtl+".new", r.adfCtl))
}

// answers makes adf_ctl answer as it does.
func (r *kernelRig) answers() {
	r.script("echo 'There is 1 QAT acceleration device(s) in the system:'\n" +
		"echo ' qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: " + otherPF +
		",  #accel: 5 #engines: 10 state: up'\n")
}

func (r *kernelRig) configText(processes int) string {
	return fmt.Sprintf("[GENERAL]\nServicesEnabled = cy\n\n[SSL]\nNumberCyInstances = 1\n"+
		"NumberDcInstances = 0\nNumProcesses = %d\nLimitDevAccess = 0\n", processes)
}

func (r *kernelRig) configure(processes int) {
	r.t.Helper()
	must(r.t, os.WriteFile(r.config, []byte(r.configText(processes)), 0o644))
}

func (r *kernelRig) wantProcesses(t testing.TB, n int) {
	t.Helper()
	eventually(t, recoverTimeout, "the list of processes", func() string {
		if list := r.kubelet.Lists()[kernelResource]; !list.Live || len(list.Devices) != n {
			return fmt.Sprintf("live %t, %q, want %d processes; log:\n%s", list.Live, list.IDs(), n, r.plugin.tail())
		}
		return ""
	})
}

func TestFaultsInModeKernel(t *testing.T) {
	if errNoNamespace != nil {
		testenv.Skip(t, errNoNamespace.Error())
	}
	r := newKernelRig(t)
	before := r.plugin.usage()
	adfCtl := func(script string) func(*testing.T) {
		return func(*testing.T) { r.script(script) }
	}
	list := []struct {
		name string
		run  func(t *testing.T)
	}{
		{"adf_ctl writes endlessly", adfCtl("exec yes qat_dev0\n")},
		{"adf_ctl writes endlessly without a line", adfCtl("exec cat /dev/zero\n")},
		{"adf_ctl writes nonsense", adfCtl("echo 'Segmentation fault'\n")},
		{"adf_ctl never answers", adfCtl("sleep 1000 & wait\n")},
		{"adf_ctl fails", adfCtl("exit 3\n")},
		{"adf_ctl is gone", func(t *testing.T) { must(t, os.Remove(r.adfCtl)) }},
		{"configuration written in two steps", r.writeInSteps},
		{"configuration that is none", func(t *testing.T) {
			must(t, os.WriteFile(r.config, []byte("[[[\x00\n=\n"), 0o644))
		}},
	}
	rand.New(rand.NewPCG(*seed, 1)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, f := range list {
		if !strings.Contains(f.name, *only) {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			seq := r.kubelet.Lists()[kernelResource].Seq
			f.run(t)
			for deadline := time.Now().Add(1500 * time.Millisecond); time.Now().Before(deadline); {
				if list := r.kubelet.Lists()[kernelResource]; list.Seq != seq {
					t.Fatalf("the list is %q; the last good one had to stay\n%s", list.IDs(), r.plugin.tail())
				}
				if now := r.plugin.usage(); now.resident > before.resident+(48<<10) {
					t.Fatalf("resident memory grew from %d to %d KiB", before.resident, now.resident)
				}
				time.Sleep(10 * time.Millisecond)
			}
			r.answers()
			r.configure(3)
			r.wantProcesses(t, 3)
			r.configure(2)
			r.wantProcesses(t, 2)
		})
	}
	r.script("sleep 1000 & wait\n")
	time.Sleep(time.Second)
	r.plugin.terminate()
}

// writeInSteps writes the configuration file as an editor without care does.
func (r *kernelRig) writeInSteps(t *testing.T) {
	text := r.configText(2)
	for i := range 20 {
		must(t, os.WriteFile(r.config, nil, 0o644))
		time.Sleep(3 * time.Millisecond)
		must(t, os.WriteFile(r.config, []byte(text[:len(text)*i/20]), 0o644))
		time.Sleep(3 * time.Millisecond)
		must(t, os.WriteFile(r.config, []byte(text), 0o644))
	}
}
