// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/measure"
	"qatplugin/kubeletapi/kubelettest"
)

const (
	resource = "qat.intel.com/cy"
	maxVFs   = 255 * 2 * vfsPerPF
	vfsPerPF = 16
	sparePF  = "0002:01:00.0" // has no VFs but those of a measurement
	timeout  = 30 * time.Second
)

// host is a look-alike host with n bound VFs, a PF without VFs, and a kubelet's end.
type host struct {
	*lookalike.Host
	kubelet *kubelettest.Kubelet
	vfs     []string
	close   func() error
}

func newHost(n int) (*host, error) {
	dir, err := lookalike.MkdirTemp()
	if err != nil {
		return nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	h, err := fillHost(dir, n)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	kubeletDir := filepath.Join(dir, "kubelet")
	if err := os.Mkdir(kubeletDir, 0o755); err != nil {
		return nil, errors.Join(err, remove())
	}
	if h.kubelet, err = kubelettest.Start(kubeletDir); err != nil {
		return nil, errors.Join(err, remove())
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, served := h.Ready(), make(chan error, 1)
	go func() { served <- h.Serve(ctx) }()
	h.close = func() error {
		h.kubelet.Stop()
		cancel()
		return errors.Join(<-served, remove())
	}
	select {
	case <-ready:
		return h, nil
	case <-time.After(timeout):
		return nil, errors.Join(errors.New("the look-alike host is not ready"), h.close())
	}
}

// fillHost creates a host with its devices in dir.
func fillHost(dir string, n int) (*host, error) {
	l, err := lookalike.New(dir)
	if err != nil {
		return nil, err
	}
	h := &host{Host: l}
	if err := l.LoadDriver("vfio-pci"); err != nil {
		return nil, err
	}
	for i := range n / vfsPerPF {
		pf := fmt.Sprintf("%04x:%02x:00.0", i/255, i%255+1)
		if err := l.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}); err != nil {
			return nil, err
		}
		if err := l.SetVFs(pf, vfsPerPF); err != nil {
			return nil, err
		}
		h.vfs = append(h.vfs, l.VFs(pf)...)
	}
	for _, vf := range h.vfs {
		if err := l.Bind(vf, "vfio-pci"); err != nil {
			return nil, err
		}
	}
	return h, l.AddPF(lookalike.PF{Address: sparePF, Services: "sym;asym"})
}

// awaitList waits for a live list of so many healthy devices, and returns it.
func (h *host) awaitList(p *measure.Process, devices int) (kubelettest.List, error) {
	return h.await(p, fmt.Sprintf("list of %d devices", devices), func(l kubelettest.List) bool {
		return l.Live && len(l.Devices) == devices
	})
}

// awaitHealth waits for a list in which a device has this health, and returns it.
func (h *host) awaitHealth(p *measure.Process, device, health string) (kubelettest.List, error) {
	return h.await(p, fmt.Sprintf("list with %s %s", device, health), func(l kubelettest.List) bool {
		return l.Live && l.Health(device) == health
	})
}

// await waits for a list that is as wanted, and returns it.
func (h *host) await(p *measure.Process, what string, wanted func(kubelettest.List) bool) (kubelettest.List, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	go func() {
		select {
		case <-p.Ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	l, err := h.kubelet.WaitList(ctx, resource, wanted)
	switch {
	case !p.Alive():
		err = fmt.Errorf("the plugin has ended:\n%s", p.LastLines(3))
	case err != nil:
		err = fmt.Errorf("no %s within %v", what, timeout)
	}
	return l, err
}

// awaitBound waits until n VFs are bound, or until timeout: a plugin that scans periodically does
// not bind at once.
func (h *host) awaitBound(n int, timeout time.Duration) {
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if len(h.Bound("vfio-pci")) == n {
			return
		}
	}
}
