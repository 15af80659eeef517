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
	kubelet    *kubelettest.Kubelet
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
	node.kubelet, err = kubelettest.Start(node.kubeletDir, onList)
	must(b, err)
	b.Cleanup(node.kubelet.Stop)
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
	b.ReportMetric(percentile(took, 0.50), "p50-µs")
	b.ReportMetric(percentile(took, 0.99), "p99-µs")
	b.ReportMetric(0, "ns/op")
}

// percentile returns a percentile in microseconds.
func percentile(took []time.Duration, p float64) float64 {
	sorted := slices.Sorted(slices.Values(took))
	return float64(sorted[int(p*float64(len(sorted)-1))].Nanoseconds()) / 1e3
}

// changer changes a VF of a node and sends the corresponding uevents on a socket.
type changer struct {
	node    *node
	socket  int // the test's end of the socket pair
	vf      string
	devpath string
	link    string // the VF's driver
	count   int    // of changes
}

// startChanger runs the plugin on the node with a socket for uevents.
func startChanger(b *testing.B, node *node) *changer {
	b.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(b, err)
	b.Cleanup(func() { must(b, unix.Close(pair[1])) })
	b.Cleanup(node.start(b, func() (events.Source, error) { return events.ListenSocket(pair[0]) }))
	vf := node.vfs[len(node.vfs)/2]
	dir, err := os.Readlink(node.host.Path(vf))
	must(b, err)
	return &changer{
		node:    node,
		socket:  pair[1],
		vf:      vf,
		devpath: "/devices/" + strings.TrimPrefix(dir, "../../../devices/"),
		link:    filepath.Join(node.host.Path(vf), "driver"),
	}
}

// change unbinds the VF or binds it again. It returns the datagram that it sent, the list that the
// kubelet received, and the time between the two.
func (c *changer) change(b *testing.B) ([]byte, kubelettest.List, time.Duration) {
	b.Helper()
	action, from, to, health := "unbind", c.link, c.link+".away", "Unhealthy" // its node still exists
	if c.count%2 == 1 {
		action, from, to, health = "bind", to, from, "Healthy"
	}
	c.count++
	must(b, os.Rename(from, to))
	datagram := fmt.Appendf(nil, "%s@%s\x00ACTION=%[1]s\x00DEVPATH=%[2]s\x00SUBSYSTEM=pci\x00"+
		"PCI_ID=8086:4941\x00PCI_SLOT_NAME=%s\x00SEQNUM=%d\x00", action, c.devpath, c.vf, c.count)
	start := time.Now()
	must(b, unix.Send(c.socket, datagram, 0))
	l := c.node.waitFull(b)
	if got := l.Health(c.vf); got != health {
		b.Fatalf("%s after %s: health %s, want %s", c.vf, action, got, health)
	}
	return datagram, l, l.Time.Sub(start)
}

// quiet is the pause before each measured change. With shorter pauses, the plugin gathers changes
// (package kubeletapi).
const quiet = 60 * time.Millisecond

// BenchmarkEventToKubelet measures the time from the uevent of a VF that was unbound or bound until
// the kubelet receives the list of n VFs with its new health. It alternates with measurements of
// the [floor] for a datagram and a list of the same size, without and with the system calls that
// read the state of the VF. An iteration measures 100 changes.
func BenchmarkEventToKubelet(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("VFs=%d", n), func(b *testing.B) {
			node := newNode(b, n)
			c := startChanger(b, node)
			node.waitFull(b)
			var lists [2]kubelettest.List
			for i := range lists {
				_, lists[i], _ = c.change(b)
			}
			group, err := os.Readlink(filepath.Join(node.host.Path(c.vf), "iommu_group"))
			must(b, err)
			vfio := filepath.Join(node.host.Dev(), "vfio", filepath.Base(group))
			floor := startFloor(b, lists, func() {})
			look := startFloor(b, lists, lookAt(b, node.host.Path(c.vf), vfio))
			var took, least, looks []time.Duration
			for b.Loop() {
				for range 100 {
					time.Sleep(quiet)
					datagram, _, d := c.change(b)
					took = append(took, d)
					time.Sleep(quiet)
					least = append(least, floor.measure(b, datagram))
					time.Sleep(quiet)
					looks = append(looks, look.measure(b, datagram))
				}
			}
			report(b, took)
			p50 := percentile(least, 0.50)
			b.ReportMetric(p50, "floor-p50-µs")
			b.ReportMetric(percentile(looks, 0.50), "look-p50-µs")
			b.ReportMetric(percentile(took, 0.50)/p50, "p50/floor")
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

// BenchmarkAllocate measures an Allocate call of the kubelet for four of n VFs.
func BenchmarkAllocate(b *testing.B) {
	for _, n := range []int{64, 1024} {
		b.Run(fmt.Sprintf("VFs=%d", n), func(b *testing.B) {
			node := newNode(b, n)
			defer node.start(b)()
			node.waitFull(b)
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				first := i * 4 % n
				start := time.Now()
				response, err := node.kubelet.Allocate(b.Context(), resource, node.vfs[first:first+4])
				took = append(took, time.Since(start))
				must(b, err)
				if got := response.ContainerResponses[0].Envs["QAT3"]; got != node.vfs[first+3] {
					b.Fatalf("QAT3 is %q, want %q", got, node.vfs[first+3])
				}
			}
			report(b, took)
		})
	}
}
