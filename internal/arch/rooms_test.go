package arch

import (
	"fmt"
	"slices"
	"strings"
)

const module = "qatplugin/"

// A room is a package of the product and what it may know.
type room struct {
	ours   []string // packages of this module that it may import
	theirs []string // modules or packages of others that it may import, with all below them
	never  []string // what it must not even reach through another package
	why    string   // for who reads a failure
}

var rooms = map[string]room{
	"cdi": {
		ours:   []string{"devtree"},
		theirs: []string{"k8s.io/klog/v2", cdiModule + "/pkg/parser", cdiModule + "/specs-go"},
		never:  []string{udev, "google.golang.org/grpc", "k8s.io/kubelet", cdiModule + "/pkg/cdi"}, // for container runtimes, with a YAML parser and a cache
		why:    "cdi writes specs for the devices of a Tree, whoever offers them to containers",
	},
	"devtree": {
		never: []string{"google.golang.org/grpc", "k8s.io", cdiModule},
		why:   "devtree holds snapshots and knows neither where devices come from nor who is told",
	},
	"events": {
		theirs: []string{"github.com/fsnotify/fsnotify", udev, "golang.org/x/sys/unix"},
		never:  []string{"google.golang.org/grpc", "k8s.io"},
		why:    "events knows netlink, inotify and time, and nothing of PCI, QAT or Kubernetes",
	},
	"kubeletapi": {
		ours: []string{"cdi", "devtree"},
		theirs: []string{
			"github.com/fsnotify/fsnotify", "golang.org/x/sys/unix", "google.golang.org/grpc", "google.golang.org/protobuf/proto",
			"k8s.io/klog/v2", "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1",
		},
		never: []string{udev, cdiModule + "/pkg/cdi"},
		why:   "kubeletapi knows the device plugin API and Trees, and nothing of QAT, sysfs or netlink",
	},
	"qat": {
		ours: []string{
			"devtree", "events", "qat/internal/device", "qat/internal/dpdk", "qat/internal/hostwatch",
			"qat/internal/kernelmode", "qat/internal/policy", "qat/internal/sysfs",
		},
		never: []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:   "qat is what programs see of both modes and knows nothing of gRPC, sockets or the kubelet's API",
	},
	"qat/internal/device": {
		ours:   []string{"qat/internal/pci", "qat/internal/sysfs"},
		theirs: []string{"gopkg.in/ini.v1"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/device reads facts about QAT devices and never acts on them",
	},
	"qat/internal/pci": {
		why: "qat/internal/pci parses, formats and orders PCI addresses",
	},
	"qat/internal/sysfs": {
		theirs: []string{"golang.org/x/sys/unix", "k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/sysfs reads and writes files, and knows nothing of PCI or QAT",
	},
	"qat/internal/hostwatch": {
		ours:   []string{"devtree", "events", "qat/internal/sysfs"},
		theirs: []string{"golang.org/x/sys/unix", "k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/hostwatch is the event loop of both modes and knows nothing of PCI or QAT",
	},
	"qat/internal/health": {
		ours:  []string{"events", "qat/internal/pci", "qat/internal/sysfs"},
		never: []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:   "qat/internal/health reports which functions are unhealthy and decides nothing",
	},
	"qat/internal/bind": {
		ours:   []string{"qat/internal/pci", "qat/internal/sysfs"},
		theirs: []string{"k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/bind binds the VFs that it is given and does not decide which",
	},
	"qat/internal/policy": {
		ours:  []string{"devtree", "qat/internal/pci"},
		never: []string{"google.golang.org/grpc", "k8s.io"},
		why:   "qat/internal/policy chooses among VFs and reads nothing of the host",
	},
	"qat/internal/dpdk": {
		ours: []string{
			"devtree", "events", "qat/internal/bind", "qat/internal/device", "qat/internal/health", "qat/internal/hostwatch",
			"qat/internal/pci", "qat/internal/policy", "qat/internal/sysfs",
		},
		theirs: []string{"k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/dpdk reads, decides and acts in mode dpdk and never knows the other mode",
	},
	"qat/internal/kernelmode": {
		ours:   []string{"devtree", "events", "qat/internal/hostwatch", "qat/internal/pci", "qat/internal/sysfs"},
		theirs: []string{"golang.org/x/sys/unix", "gopkg.in/ini.v1", "k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/kernelmode is the mode kernel and knows nothing of mode dpdk or the kubelet's API",
	},
	"examples/colors": {
		ours:   []string{"devtree", "kubeletapi"},
		theirs: []string{"github.com/fsnotify/fsnotify", "k8s.io/klog/v2"},
		never:  []string{udev},
		why:    "an example shows what the author of another plugin needs, and that is nothing of QAT",
	},
	"cmd/qat_plugin": {
		ours:   []string{"devtree", "events", "kubeletapi", "qat"},
		theirs: []string{"k8s.io/klog/v2", "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"},
		why:    "cmd/qat_plugin knows flags, wiring and signals",
	},
}

// udev is the one library under the GPL: a single file of events stands between it and the project (NOTICE).
const udev = "github.com/pilebones/go-udev"

// cdiModule is the library of the Container Device Interface.
const cdiModule = "tags.cncf.io/container-device-interface"

// forTests is what tests and what serves them may import besides what their package may.
var forTests = []string{
	"github.com/fsnotify/fsnotify", "github.com/go-logr/logr", "github.com/google/go-cmp", "github.com/opencontainers/runtime-spec", "go.uber.org/goleak", "go.yaml.in/yaml/v3",
	"golang.org/x/sys/unix", cdiModule, "google.golang.org/grpc", "google.golang.org/protobuf", "k8s.io/klog/v2", "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1", "pgregory.net/rapid",
}

// A listing is what `go list -json` says of one package.
type listing struct {
	ImportPath   string
	Dir          string
	Standard     bool
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

// serves tells whether the package is no part of the product: it serves tests or the demo.
func (l *listing) serves() bool {
	name := strings.TrimPrefix(l.ImportPath, module)
	return name == "cmd/qat_demo" || forTestsOnly(name)
}

// forTestsOnly reports whether a package of this module exists for tests, those of plugin authors included.
func forTestsOnly(name string) bool {
	return under(name, []string{"internal", "test", "kubeletapi/kubelettest"})
}

// broken lists the arrows of the package that must not be, each as a sentence.
func (l *listing) broken(standard map[string]bool) (arrows []string) {
	name := strings.TrimPrefix(l.ImportPath, module)
	r, known := rooms[name]
	if !known && !l.serves() {
		return []string{fmt.Sprintf("package %s has no row in the table rooms: say there what it may know", name)}
	}
	complain := func(to, rule string) {
		arrows = append(arrows, strings.TrimSuffix(fmt.Sprintf("%s ─► %s must not be: %s (%s)", name, to, rule, r.why), " ()"))
	}
	for _, to := range l.Imports {
		ours, isOurs := strings.CutPrefix(to, module)
		switch {
		case standard[to]:
		case l.serves():
			if !isOurs && !under(to, forTests) {
				complain(to, "what serves tests uses "+list(forTests))
			}
		case isOurs && forTestsOnly(ours):
			complain(ours, "internal/ and test/ serve tests and cmd/qat_demo, never the product")
		case isOurs && !slices.Contains(r.ours, ours):
			complain(ours, "of ours it may import "+list(r.ours))
		case !isOurs && !under(to, r.theirs):
			complain(to, "of others it may import "+list(r.theirs))
		}
	}
	for _, to := range slices.Concat(l.TestImports, l.XTestImports) {
		ours, isOurs := strings.CutPrefix(to, module)
		switch {
		case standard[to], l.serves() && isOurs:
		case isOurs && ours != name && !forTestsOnly(ours) && !slices.Contains(r.ours, ours):
			complain(ours, "its tests, too, may import of ours only internal/ and "+list(r.ours))
		case !isOurs && !under(to, forTests) && !under(to, r.theirs):
			complain(to, "its tests may import of others "+list(slices.Concat(r.theirs, forTests)))
		}
	}
	for _, to := range l.Deps {
		if under(to, r.never) {
			complain(to, "it must not be reached, not even through another package")
		}
	}
	return arrows
}

// under tells whether the package is one of these, or below one of them.
func under(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") })
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return "only " + strings.Join(names, ", ")
}
