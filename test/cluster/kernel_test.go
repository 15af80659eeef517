package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
)

// The overlay for the out-of-tree driver, on a host of two C62x PFs. One section spans both, one is pinned to each.
func TestTheKernelOverlayOffersProcessesAndNamesTheirSections(t *testing.T) {
	const (
		name     = "qat_plugin/overlays/kernel"
		spanning = prefix + "cy2_dc1" // of section SSL, six processes over all devices
		pinned   = prefix + "cy1_dc0" // of section DEV, two processes on each device
	)
	n := openNode(t)
	wantGolden(t, name)
	h := startKernelHost(t)
	h.plug("0000:3b:00.0")

	paths := h.paths()
	paths["/etc"] = filepath.Join(h.Dir(), "etc")
	paths["/usr/local/bin/adf_ctl"] = filepath.Join(os.Getenv("CLUSTER_CACHE"), "adf_ctl")
	began := time.Now()
	in := n.install(name, paths)
	in.wantPodSecurity(name, []string{"hostPath volumes", "privileged"})
	pod := in.ready()
	n.offers(map[string]int64{spanning: 6, pinned: 2})
	t.Logf("applied; ready, and in the Node's capacity after %.1f s", time.Since(began).Seconds())
	wantReadyz(t, n.readyz(pod))

	first := n.ask("first", spanning, 2)
	wantDevices(t, first, devices{
		Env:   map[string]string{"QAT_SECTION_NAME": "SSL", "QAT_SECTION_NAME_cy2_dc1_0": "SSL", "QAT_SECTION_NAME_cy2_dc1_1": "SSL"},
		Nodes: []string{"/dev/qat_adf_ctl", "/dev/qat_dev_processes", "/dev/uio0", "/dev/usdm_drv"},
	})
	for _, node := range first.got.Nodes {
		first.open(node)
	}

	began = time.Now()
	h.plug("0000:d8:00.0")
	seen := n.offers(map[string]int64{spanning: 6, pinned: 4})
	t.Logf("a second PF was in the Node's capacity after %.1f s", seen.Sub(began).Seconds())
	wantDevices(t, n.ask("second", pinned, 1), devices{
		Env:   map[string]string{"QAT_SECTION_NAME": "DEV", "QAT_SECTION_NAME_cy1_dc0_0": "DEV"},
		Nodes: []string{"/dev/qat_adf_ctl", "/dev/qat_dev_processes", "/dev/uio0", "/dev/uio1", "/dev/usdm_drv"},
	})
	first.untouched("a second PF")
}

func wantDevices(t *testing.T, w *workload, want devices) {
	t.Helper()
	if diff := cmp.Diff(want, w.got); diff != "" {
		t.Errorf("the container of pod %s has (-want +got):\n%s", w.name, diff)
	}
}

// A kernelHost is a host with the out-of-tree stack: its nodes, configuration files, and what adf_ctl.c reads.
type kernelHost struct {
	*host
	status string // what adf_ctl prints
	pfs    int
}

func startKernelHost(t *testing.T) *kernelHost {
	t.Helper()
	h := &kernelHost{host: startHost(t, lookalike.WithoutIOMMU())}
	must(t, os.Mkdir(filepath.Join(h.Dir(), "etc"), 0o755))
	// The pod has this host's /dev at /dev, and with it what every process needs.
	must(t, os.Symlink("/dev/pts/ptmx", filepath.Join(h.Dev(), "ptmx")))
	for _, node := range []string{"qat_adf_ctl", "qat_dev_processes", "usdm_drv"} {
		standIn(t, filepath.Join(h.Dev(), node))
		standIn(t, filepath.Join("/dev", node))
	}
	device(t, filepath.Join(h.Dev(), "null"), 1, 3)
	return h
}

// plug plugs in a PF that is up, with its UIO device and its configuration.
func (h *kernelHost) plug(address string) {
	h.t.Helper()
	must(h.t, h.AddPF(lookalike.PF{Address: address, DeviceID: "37c8"}))
	uio := fmt.Sprintf("uio%d", h.pfs)
	standIn(h.t, filepath.Join("/dev", uio))
	standIn(h.t, filepath.Join(h.Dev(), uio))
	must(h.t, os.MkdirAll(filepath.Join(h.Path(address), "uio", uio), 0o755))
	h.status += fmt.Sprintf(" qat_dev%d - type: c6xx,  inst_id: %d,  node_id: 0,  bsf: %s,  #accel: 5 #engines: 10 state: up\n", h.pfs, h.pfs, address)
	h.put("sys/kernel/debug/adf_ctl", "Checking status of all devices.\n"+h.status)
	h.put(fmt.Sprintf("etc/c6xx_dev%d.conf", h.pfs), strings.Join([]string{
		"[GENERAL]\nServicesEnabled = cy;dc",
		"[KERNEL]\nNumberCyInstances = 1\nNumberDcInstances = 0",
		"[SSL]\nNumberCyInstances = 2\nNumberDcInstances = 1\nNumProcesses = 6\nLimitDevAccess = 0",
		"[DEV]\nNumberCyInstances = 1\nNumberDcInstances = 0\nNumProcesses = 2\nLimitDevAccess = 1",
	}, "\n\n")+"\n")
	h.pfs++
}

// put gives a file of the host its text at one moment.
func (h *kernelHost) put(name, text string) {
	h.t.Helper()
	tmp := filepath.Join(h.Dir(), "put")
	must(h.t, os.WriteFile(tmp, []byte(text), 0o644))
	must(h.t, os.Rename(tmp, filepath.Join(h.Dir(), name)))
}
