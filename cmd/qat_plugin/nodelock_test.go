// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/nodelock"
	"qatplugin/internal/program"
	"qatplugin/kubeletapi/kubelettest"
)

// A draDriver takes the lock of the node as a DRA driver does.
type draDriver struct {
	t      *testing.T
	gate   *nodelock.Gate
	cancel context.CancelFunc
	ended  chan error
}

func startDRADriver(t *testing.T, dir string) *draDriver {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	d := &draDriver{
		t:      t,
		gate:   program.NewGate(nodelock.DRADriver, dir, ""),
		cancel: cancel,
		ended:  make(chan error, 1),
	}
	decided := make(chan struct{})
	go func() {
		d.ended <- d.gate.Run(ctx, func(ctx context.Context) error {
			close(decided)
			<-ctx.Done()
			return nil
		})
	}()
	for !d.gate.Waiting() {
		select {
		case <-decided:
			return d
		case <-time.After(time.Millisecond):
		}
	}
	return d
}

func (d *draDriver) stop() {
	d.t.Helper()
	d.cancel()
	if err := <-d.ended; err != nil {
		d.t.Error(err)
	}
	d.gate.Release()
}

func TestPluginServesNothingBesideADRADriver(t *testing.T) {
	host, dir := lookalike.Start(t), t.TempDir()
	addVF(t, host)
	kubelet, err := kubelettest.Start(dir)
	must(t, err)
	defer kubelet.Stop()
	defer startDRADriver(t, dir).stop()
	p := start(t, "-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir,
		"-health-address", "127.0.0.1:0")
	address := p.healthAddress()
	want := "the DRA driver has locked " + filepath.Join(dir, "qat.intel.com.lock") + ": it must end first"
	p.log.Await(t, `"Not serving the devices of this node, because another program serves them; `+
		`remove one of the two from the node" err="`+want+`"`)
	if status, body := get(t, "http://"+address+"/livez"); status != 200 {
		t.Errorf("/livez: %d %s", status, body)
	}
	status, body := get(t, "http://"+address+"/readyz")
	if status != 500 || !strings.Contains(body, "[+]event-loop ok\n[-]first-look failed: "+want+"\n") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if sockets, err := filepath.Glob(filepath.Join(dir, "qat*.sock")); err != nil || len(sockets) > 0 {
		t.Errorf("the plugin serves %q, %v", sockets, err)
	}
	if driver, err := os.Readlink(filepath.Join(host.Sysfs(), "bus/pci/devices", vf, "driver")); err == nil {
		t.Errorf("the plugin bound the VF to %s", filepath.Base(driver))
	}
	p.stop()
}

func TestPluginThatServesKeepsTheNode(t *testing.T) {
	host, dir := lookalike.Start(t), t.TempDir()
	addVF(t, host)
	kubelet, err := kubelettest.Start(dir)
	must(t, err)
	defer kubelet.Stop()
	args := []string{"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir}
	p := start(t, args...)
	awaitVF(t, kubelet)
	driver := startDRADriver(t, dir)
	defer driver.stop()
	want := "the device plugin has locked " + filepath.Join(dir, "qat.intel.com.lock") + ": it must end first"
	if err := driver.gate.Check(t.Context()); err == nil || err.Error() != want {
		t.Errorf("the DRA driver waits because of %v, want %s", err, want)
	}
	p.stop()
}

// Mode kernel serves other devices, so it takes no lock, and a DRA driver ignores its sockets.
func TestModeKernelRunsBesideADRADriver(t *testing.T) {
	dir := t.TempDir()
	socket, err := net.Listen("unix", filepath.Join(dir, "qat.intel.com-cy1_dc0.sock"))
	must(t, err)
	defer socket.Close()
	driver := startDRADriver(t, dir)
	defer driver.stop()
	if err := driver.gate.Check(t.Context()); err != nil {
		t.Errorf("the DRA driver waits: %v", err)
	}
	p := start(t, "-mode", "kernel", "-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(), "-kubelet-dir", dir,
		"-adf-ctl", "/none/adf_ctl", "-health-address", "127.0.0.1:0")
	defer p.stop()
	p.log.Await(t, `adf_ctl`) // reading the host, where nothing is installed
	if _, body := get(t, "http://"+p.healthAddress()+"/readyz?verbose"); strings.Contains(body, "locked") {
		t.Errorf("/readyz: %s", body)
	}
}

func TestLockFileIsAllThatTheLockLeaves(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(), "-kubelet-dir", dir)
	p.log.Await(t, `"Waiting for the kubelet's socket"`)
	p.stop()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"qat.intel.com.lock"}, names); diff != "" {
		t.Errorf("files in the kubelet's directory (-want +got):\n%s", diff)
	}
}
