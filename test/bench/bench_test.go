// SPDX-License-Identifier: Apache-2.0

// Package bench measures the complete path of an event: from a message on a socket, through the
// listener, the plugin, the Manager and gRPC, to the list at the kubelet's end. The host is a
// look-alike in memory and the kubelet's end is kubelettest; everything between is the product.
package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/kubelettest"
	"qatplugin/qat"
)

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard) // keep the log out of the results
	goleak.VerifyTestMain(m)
}

const resource = "qat.intel.com/cy"

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// node is a look-alike host with bound VFs, and a kubelet's end.
type node struct {
	host       *lookalike.Host
	kubeletDir string
	vfs        []string
	lists      chan kubelettest.List // as the kubelet receives them
}

// newNode returns a node with n VFs: 1, or a multiple of 16.
func newNode(b *testing.B, n int) *node {
	b.Helper()
	dir, err := lookalike.MkdirTemp()
	must(b, err)
	b.Cleanup(func() { must(b, os.RemoveAll(dir)) })
	host, err := lookalike.New(dir)
	must(b, err)
	must(b, host.LoadDriver("vfio-pci"))
	node := &node{
		host:       host,
		kubeletDir: filepath.Join(dir, "kubelet"),
		lists:      make(chan kubelettest.List, 64),
	}
	must(b, os.Mkdir(node.kubeletDir, 0o755))
	for bus := 1; len(node.vfs) < n; bus++ {
		pf := fmt.Sprintf("0000:%02x:00.0", bus)
		must(b, host.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}))
		must(b, host.SetVFs(pf, min(n, 16)))
		node.vfs = append(node.vfs, host.VFs(pf)...)
	}
	for _, vf := range node.vfs {
		must(b, host.Bind(vf, "vfio-pci"))
	}
	onList := kubelettest.OnList(func(l kubelettest.List) { node.lists <- l })
	k, err := kubelettest.Start(node.kubeletDir, onList)
	must(b, err)
	b.Cleanup(k.Stop)
	return node
}

// start runs the plugin on the node with these sources of events, or inotify if there are none.
func (n *node) start(b *testing.B, sources ...func() (events.Source, error)) (stop func()) {
	b.Helper()
	cfg := qat.Config{
		SysfsRoot:     n.host.Sysfs(),
		DevRoot:       n.host.Dev(),
		AuditInterval: -1,
		Sources:       sources,
	}
	if len(sources) == 0 {
		cfg.OpenWatcher = func() (qat.Watcher, error) { return events.NewWatcher() }
	}
	p, err := qat.New(cfg)
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	manager := kubeletapi.NewManager("qat.intel.com", p, kubeletapi.WithKubeletDir(n.kubeletDir))
	go func() { ended <- manager.Run(ctx) }()
	return func() {
		cancel()
		must(b, <-ended)
	}
}

// waitFull waits for a list of all VFs.
func (n *node) waitFull(b *testing.B) kubelettest.List {
	b.Helper()
	for timeout := time.After(20 * time.Second); ; {
		select {
		case l := <-n.lists:
			if l.Resource == resource && len(l.Devices) == len(n.vfs) {
				return l
			}
		case <-timeout:
			b.Fatalf("no list of %d VFs", len(n.vfs))
		}
	}
}

// report reports percentiles instead of the time per iteration, which includes other work.
func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	percentile := func(p float64) float64 {
		return float64(took[int(p*float64(len(took)-1))].Nanoseconds()) / 1e3
	}
	b.ReportMetric(percentile(0.50), "p50-µs")
	b.ReportMetric(percentile(0.99), "p99-µs")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkEventToKubelet measures the time from the uevent of a VF that was unbound or bound until
// the kubelet receives the list of n VFs with its new health.
func BenchmarkEventToKubelet(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("VFs=%d", n), func(b *testing.B) {
			node := newNode(b, n)
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			must(b, err)
			defer unix.Close(pair[1])
			defer node.start(b, func() (events.Source, error) {
				return events.ListenSocket(pair[0])
			})()
			node.waitFull(b)

			vf := node.vfs[n/2]
			link := filepath.Join(node.host.Path(vf), "driver")
			dir, err := os.Readlink(node.host.Path(vf))
			must(b, err)
			devpath := "/devices/" + strings.TrimPrefix(dir, "../../../devices/")
			states := []struct{ action, from, to, health string }{
				{"unbind", link, link + ".away", "Unhealthy"}, // being removed: its node still exists
				{"bind", link + ".away", link, "Healthy"},
			}
			var took []time.Duration
			b.ResetTimer()
			for i := range b.N {
				s := states[i%2]
				must(b, os.Rename(s.from, s.to))
				message := fmt.Sprintf("%s@%s\x00ACTION=%[1]s\x00DEVPATH=%[2]s\x00SUBSYSTEM=pci\x00"+
					"PCI_ID=8086:4941\x00PCI_SLOT_NAME=%s\x00SEQNUM=%d\x00", s.action, devpath, vf, i)
				start := time.Now()
				must(b, unix.Send(pair[1], []byte(message), 0))
				l := node.waitFull(b)
				took = append(took, l.Time.Sub(start))
				for _, d := range l.Devices {
					if d.ID == vf && d.Health != s.health {
						b.Fatalf("%s after %s: health %s, want %s", vf, s.action, d.Health, s.health)
					}
				}
			}
			report(b, took)
		})
	}
}

// BenchmarkStartToFullList measures the time from the start of the plugin, including inotify, until
// the kubelet receives the full list. The VFs are bound already.
func BenchmarkStartToFullList(b *testing.B) {
	for _, n := range []int{64, 1024} {
		b.Run(fmt.Sprintf("VFs=%d", n), func(b *testing.B) {
			node := newNode(b, n)
			var took []time.Duration
			b.ResetTimer()
			for range b.N {
				start := time.Now()
				stop := node.start(b)
				took = append(took, node.waitFull(b).Time.Sub(start))
				stop()
			}
			report(b, took)
		})
	}
}
