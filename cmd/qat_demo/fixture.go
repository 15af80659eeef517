// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// The QAT devices of the host.
const (
	cyPF   = "0000:6b:00.0" // 4xxx: asymmetric and symmetric cryptography
	dcPF   = "0000:e8:00.0" // 402xx: compression
	cyVF   = "0000:6b:00.3"
	numVFs = 16 // of each PF
)

const namespace = "qat.intel.com/"

// fixture is what the demo runs on: a look-alike host, a kubelet's end and the plugin.
type fixture struct {
	o        *options
	dir      string
	host     *lookalike.Host
	kubelet  *kubelettest.Kubelet
	recorder *recorder
	plugin   *process // nil before its step

	stopServing context.CancelFunc
	served      chan error // result of Serve
}

// newFixture creates a host whose dc PF has its VFs already, and a kubelet. The plugin is not
// started yet.
func newFixture(o *options) (_ *fixture, err error) {
	dir, err := lookalike.MkdirTemp()
	if err != nil {
		return nil, err
	}
	f := &fixture{o: o, dir: dir, recorder: newRecorder()}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("set up the host in %s: %w", dir, err), f.close())
		}
	}()
	if f.host, err = lookalike.New(dir); err != nil {
		return nil, err
	}
	err = errors.Join(
		f.host.LoadDriver("vfio-pci"),
		f.host.AddPF(lookalike.PF{Address: cyPF, DeviceID: "4940", NUMANode: 0, Services: "sym;asym"}),
		f.host.AddPF(lookalike.PF{Address: dcPF, DeviceID: "4944", NUMANode: 1, Services: "dc"}),
		f.host.SetVFs(dcPF, numVFs),
		os.Mkdir(f.kubeletDir(), 0o755),
	)
	if err != nil {
		return nil, err
	}
	f.host.Observe(f.recorder.operation)
	f.host.Uevents(f.recorder.uevent)

	// The host is served until close: the plugin may still write while it is being stopped.
	ctx, stop := context.WithCancel(context.Background())
	f.stopServing, f.served = stop, make(chan error, 1)
	ready := f.host.Ready()
	go func() { f.served <- f.host.Serve(ctx) }()
	select {
	case <-ready:
	case err := <-f.served:
		f.served <- err
		return nil, err
	}
	f.kubelet, err = kubelettest.Start(f.kubeletDir(),
		kubelettest.OnList(f.recorder.list), kubelettest.OnClean(f.recorder.clean))
	return f, err
}

func (f *fixture) kubeletDir() string { return filepath.Join(f.dir, "kubelet") }

func (f *fixture) statusSocket() string { return filepath.Join(f.dir, "status.sock") }

func (f *fixture) pluginLog() string { return filepath.Join(f.dir, "plugin.log") }

// bound returns the number of VFs that are bound to vfio-pci.
func (f *fixture) bound() int { return len(f.host.Bound("vfio-pci")) }

// write writes to sysfs as a user does with echo, and waits until the host has done what the
// write requests.
func (f *fixture) write(ctx context.Context, file, value, operation string) error {
	n := len(f.recorder.get().ops)
	file = filepath.Join(f.host.Sysfs(), "bus/pci", file)
	if err := os.WriteFile(file, []byte(value+"\n"), 0); err != nil {
		return err
	}
	return f.recorder.wait(ctx, n, func(ops []lookalike.Operation) bool {
		return slices.ContainsFunc(ops, func(o lookalike.Operation) bool {
			return o.Requested && o.Name == operation
		})
	})
}

func (f *fixture) startPlugin() (err error) {
	f.plugin, err = startProcess(f.pluginLog(), f.o.plugin,
		"-sysfs-root="+f.host.Sysfs(),
		"-dev-root="+f.host.Dev(),
		"-kubelet-dir="+f.kubeletDir(),
		"-status-socket="+f.statusSocket(),
		"-pod-resources-socket=", // that of this machine's kubelet by default
		fmt.Sprintf("-v=%d", f.o.verbose))
	return err
}

// endPlugin sends SIGTERM to the plugin and returns how long it took to exit. It is an error if
// the plugin leaves a socket behind.
func (f *fixture) endPlugin() (time.Duration, error) {
	start := time.Now()
	if err := f.plugin.terminate(f.o.timeout); err != nil {
		return 0, fmt.Errorf("terminate the plugin: %w", err)
	}
	took := time.Since(start)
	entries, err := os.ReadDir(f.kubeletDir())
	if err != nil {
		return 0, err
	}
	var left []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".sock") && e.Name() != kubelettest.SocketName {
			left = append(left, e.Name())
		}
	}
	if len(left) > 0 {
		return 0, fmt.Errorf("the plugin left %s in %s", strings.Join(left, ", "), f.kubeletDir())
	}
	return took, nil
}

// close ends everything that still runs and removes the directory.
func (f *fixture) close() error {
	var err error
	if f.plugin != nil {
		f.plugin.kill()
	}
	if f.kubelet != nil {
		f.kubelet.Stop()
	}
	if f.stopServing != nil {
		f.stopServing()
		err = <-f.served
	}
	return errors.Join(err, os.RemoveAll(f.dir))
}
