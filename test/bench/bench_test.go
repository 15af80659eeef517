// Package bench measures the whole way of an event: from the message on a socket, through the listener, the plugin, the Manager and
// gRPC, to the list at the kubelet's end. The host is a look-alike in memory, the kubelet's end is small; all between is the product.
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
	klog.SetOutput(io.Discard) // the log would stand between the figures
	goleak.VerifyTestMain(m)
}

const resource = "qat.intel.com/cy"

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// node is a look-alike host with n VFs that are bound, and a kubelet's end. Its lists come through a channel.
type node struct {
	host  *lookalike.Host
	dir   string
	vfs   []string
	lists chan kubelettest.List
}

func newNode(b *testing.B, n int) *node {
	b.Helper()
	dir, err := lookalike.MkdirTemp()
	must(b, err)
	b.Cleanup(func() { must(b, os.RemoveAll(dir)) })
	h, err := lookalike.New(dir)
	must(b, err)
	must(b, h.LoadDriver("vfio-pci"))
	node := &node{host: h, dir: filepath.Join(dir, "kubelet"), lists: make(chan kubelettest.List, 64)}
	must(b, os.Mkdir(node.dir, 0o755))
	for bus := 1; len(node.vfs) < n; bus++ {
		pf := fmt.Sprintf("0000:%02x:00.0", bus)
		must(b, h.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}))
		if n < 16 {
			must(b, h.AddVF(lookalike.VF{Address: fmt.Sprintf("0000:%02x:00.1", bus), PF: pf}))
		} else {
			must(b, h.SetVFs(pf, 16))
		}
		node.vfs = append(node.vfs, h.VFs(pf)...)
	}
	for _, vf := range node.vfs {
		must(b, h.Bind(vf, "vfio-pci"))
	}
	k, err := kubelettest.Start(node.dir, kubelettest.OnList(func(l kubelettest.List) { node.lists <- l }))
	must(b, err)
	b.Cleanup(k.Stop)
	return node
}

// start runs the plugin on the node; stop ends it. open are its sources of events.
func (n *node) start(b *testing.B, open ...func() (events.Source, error)) (stop func()) {
	b.Helper()
	cfg := qat.Config{SysfsRoot: n.host.Sysfs(), DevRoot: n.host.Dev(), AuditInterval: -1, Sources: open}
	if len(open) == 0 {
		cfg.OpenWatcher = func() (qat.Watcher, error) { return events.NewWatcher() }
	}
	p, err := qat.New(cfg)
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- kubeletapi.NewManager("qat.intel.com", p, kubeletapi.WithKubeletDir(n.dir)).Run(ctx) }()
	return func() {
		cancel()
		must(b, <-ended)
	}
}

// full waits for a list of all VFs.
func (n *node) full(b *testing.B) kubelettest.List {
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

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	at := func(p float64) float64 { return float64(took[int(p*float64(len(took)-1))].Nanoseconds()) / 1e3 }
	b.ReportMetric(at(0.50), "p50-µs")
	b.ReportMetric(at(0.99), "p99-µs")
	b.ReportMetric(0, "ns/op") // the benchmark's own turns say nothing
}

// BenchmarkEventToKubelet measures from the uevent that says that a VF was unbound or bound, to the list of n VFs that says so at the
// kubelet's end.
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
			node.full(b)

			vf := node.vfs[n/2]
			link := filepath.Join(node.host.Path(vf), "driver")
			dir, err := os.Readlink(node.host.Path(vf))
			must(b, err)
			devpath := "/devices/" + strings.TrimPrefix(dir, "../../../devices/")
			states := []struct{ action, from, to, health string }{
				{"unbind", link, link + ".away", "Unhealthy"}, // its node is still there: it is being taken away
				{"bind", link + ".away", link, "Healthy"},
			}
			var took []time.Duration
			b.ResetTimer()
			for i := range b.N {
				s := states[i%2]
				must(b, os.Rename(s.from, s.to))
				message := fmt.Sprintf("%s@%s\x00ACTION=%[1]s\x00DEVPATH=%[2]s\x00SUBSYSTEM=pci\x00PCI_ID=8086:4941\x00PCI_SLOT_NAME=%s\x00SEQNUM=%d\x00", s.action, devpath, vf, i)
				start := time.Now()
				must(b, unix.Send(pair[1], []byte(message), 0))
				l := node.full(b)
				took = append(took, l.Time.Sub(start))
				for _, d := range l.Devices {
					if d.ID == vf && d.Health != s.health {
						b.Fatalf("after %s %s is %s, want %s", s.action, vf, d.Health, s.health)
					}
				}
			}
			report(b, took)
		})
	}
}

// BenchmarkStartToFullList measures from the start of the plugin, inotify included, to the full list at the kubelet's end. The VFs are bound.
func BenchmarkStartToFullList(b *testing.B) {
	for _, n := range []int{64, 1024} {
		b.Run(fmt.Sprintf("VFs=%d", n), func(b *testing.B) {
			node := newNode(b, n)
			var took []time.Duration
			b.ResetTimer()
			for range b.N {
				start := time.Now()
				stop := node.start(b)
				took = append(took, node.full(b).Time.Sub(start))
				stop()
			}
			report(b, took)
		})
	}
}
