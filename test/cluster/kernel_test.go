// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
)

// TestKernelOverlay runs mode kernel on a host with two C62x PFs. One section of their
// configuration files spans both devices, the other is pinned to each.
func TestKernelOverlay(t *testing.T) {
	const (
		name     = "qat_plugin/overlays/kernel"
		spanning = prefix + "cy2_dc1" // section SSL, six processes on all devices
		pinned   = prefix + "cy1_dc0" // section DEV, two processes on each device
	)
	n := openNode(t)
	checkRendered(t, name)
	h := startKernelHost(t)
	must(t, h.addPF("0000:3b:00.0"))

	paths := h.hostPaths()
	paths["/etc"] = filepath.Join(h.Dir(), "etc")
	paths["/usr/local/bin/adf_ctl"] = filepath.Join(os.Getenv("CLUSTER_CACHE"), "adf_ctl")
	began := time.Now()
	in := n.install(name, paths)
	in.checkPodSecurity("hostPath volumes", "privileged")
	pod := in.awaitReady()
	listed := n.awaitResources(resources{spanning: 6, pinned: 2})
	t.Logf("in the Node's capacity %.1f s after kubectl apply", listed.Sub(began).Seconds())
	n.checkReadyz(pod)

	first := n.runPod("first", spanning, 2)
	first.checkDevices(devices{
		Env: map[string]string{
			"QAT_SECTION_NAME":           "SSL",
			"QAT_SECTION_NAME_cy2_dc1_0": "SSL",
			"QAT_SECTION_NAME_cy2_dc1_1": "SSL",
		},
		Nodes: []string{"/dev/qat_adf_ctl", "/dev/qat_dev_processes", "/dev/uio0", "/dev/usdm_drv"},
	})
	for _, node := range first.devices.Nodes {
		first.checkOpens(node)
	}

	began = time.Now()
	must(t, h.addPF("0000:d8:00.0"))
	listed = n.awaitResources(resources{spanning: 6, pinned: 4})
	t.Logf("a second PF was in the Node's capacity after %.1f s", listed.Sub(began).Seconds())
	n.runPod("second", pinned, 1).checkDevices(devices{
		Env:   map[string]string{"QAT_SECTION_NAME": "DEV", "QAT_SECTION_NAME_cy1_dc0_0": "DEV"},
		Nodes: []string{"/dev/qat_adf_ctl", "/dev/qat_dev_processes", "/dev/uio0", "/dev/uio1", "/dev/usdm_drv"},
	})
	first.checkUnchanged("a second PF")
}

// A kernelHost is a host with the out-of-tree stack: its device nodes, its configuration
// files, and the file that adf_ctl.c prints.
type kernelHost struct {
	*host
	status string // the output of adf_ctl
	pfs    int
}

func startKernelHost(t *testing.T) *kernelHost {
	t.Helper()
	h := &kernelHost{host: startHost(t, lookalike.WithoutIOMMU())}
	must(t, os.Mkdir(filepath.Join(h.Dir(), "etc"), 0o755))
	// The pod mounts this host's /dev at /dev, so it needs what the runtime and every
	// process need.
	must(t, os.Symlink("/dev/pts/ptmx", filepath.Join(h.Dev(), "ptmx")))
	addNode(t, filepath.Join(h.Dev(), "null"), 1, 3)
	for _, node := range []string{"qat_adf_ctl", "qat_dev_processes", "usdm_drv"} {
		h.addStandIns(node)
	}
	return h
}

// addStandIns creates a stand-in for a device node in the host's /dev and in the node's.
func (h *kernelHost) addStandIns(name string) {
	h.t.Helper()
	addStandIn(h.t, filepath.Join(h.Dev(), name))
	addStandIn(h.t, filepath.Join("/dev", name))
}

// conf is the configuration file of each PF.
const conf = `[GENERAL]
ServicesEnabled = cy;dc

[KERNEL]
NumberCyInstances = 1
NumberDcInstances = 0

[SSL]
NumberCyInstances = 2
NumberDcInstances = 1
NumProcesses = 6
LimitDevAccess = 0

[DEV]
NumberCyInstances = 1
NumberDcInstances = 0
NumProcesses = 2
LimitDevAccess = 1
`

// addPF adds a PF that is up, with its UIO device and its configuration file.
func (h *kernelHost) addPF(address string) error {
	uio := fmt.Sprintf("uio%d", h.pfs)
	h.addStandIns(uio)
	h.status += fmt.Sprintf(" qat_dev%d - type: c6xx,  inst_id: %d,  node_id: 0,  bsf: %s,  "+
		"#accel: 5 #engines: 10 state: up\n", h.pfs, h.pfs, address)
	err := errors.Join(
		h.AddPF(lookalike.PF{Address: address, DeviceID: "37c8"}),
		os.MkdirAll(filepath.Join(h.Path(address), "uio", uio), 0o755),
		h.replaceFile("sys/kernel/debug/adf_ctl", "Checking status of all devices.\n"+h.status),
		h.replaceFile(fmt.Sprintf("etc/c6xx_dev%d.conf", h.pfs), conf),
	)
	h.pfs++
	return err
}

// replaceFile creates or replaces a file of the host atomically.
func (h *kernelHost) replaceFile(name, text string) error {
	tmp := filepath.Join(h.Dir(), "replaceFile.tmp")
	return errors.Join(os.WriteFile(tmp, []byte(text), 0o644), os.Rename(tmp, filepath.Join(h.Dir(), name)))
}
