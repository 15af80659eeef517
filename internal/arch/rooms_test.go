// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"fmt"
	"slices"
	"strings"
)

const module = "qatplugin/"

// room says what a package of the product may import.
type room struct {
	ours   []string // packages of this module
	theirs []string // other modules or packages, and everything below them
	never  []string // what it must not depend on, not even through another package
	why    string   // the reason, for complaints
}

var rooms = map[string]room{
	"cdi": {
		ours: []string{"devtree"},
		theirs: []string{
			"github.com/fsnotify/fsnotify", "k8s.io/klog/v2", cdiModule + "/pkg/parser", cdiModule + "/specs-go",
		},
		never: []string{udev, "google.golang.org/grpc", "k8s.io/kubelet", cdiModule + "/pkg/cdi"}, // for runtimes
		why:   "cdi writes specs for the devices of a Tree, whoever offers them to containers",
	},
	"devtree": {
		theirs: []string{cdiModule + "/pkg/parser"}, // for the names of CDI devices
		never:  []string{"google.golang.org/grpc", "k8s.io", cdiModule + "/pkg/cdi", cdiModule + "/specs-go"},
		why:    "devtree holds snapshots and knows neither where devices come from nor who subscribes",
	},
	"draapi": {
		ours: []string{
			"cdi", "devtree", "draapi/internal/apiclient", "draapi/internal/claims", "draapi/internal/inventory",
			"draapi/internal/kubelet", "draapi/internal/publisher", "internal/retry",
		},
		theirs: []string{
			"k8s.io/apimachinery/pkg/api/errors", "k8s.io/client-go/rest", "k8s.io/klog/v2",
			"k8s.io/kubelet/pkg/apis/dra/v1",
		},
		never: []string{
			udev, helper + "/kubeletplugin", helper + "/resourceslice", "k8s.io/client-go/kubernetes",
		},
		why: "draapi knows the DRA API and Trees, and nothing of QAT, sysfs or netlink",
	},
	"draapi/internal/apiclient": {
		theirs: []string{"k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go/rest"},
		never:  []string{"k8s.io/client-go/kubernetes"}, // knows all kinds of objects: 11 MB
		why:    "draapi/internal/apiclient sends requests to the API server and decides nothing",
	},
	"draapi/internal/claims": {
		ours: []string{"cdi", "devtree", "draapi/internal/inventory", "internal/dirwatch", "internal/retry"},
		theirs: []string{
			"github.com/fsnotify/fsnotify", "k8s.io/api", "k8s.io/apimachinery", "k8s.io/klog/v2",
			helper + "/api/metadata", helper + "/api/metadata/v1alpha1",
		},
		never: []string{"google.golang.org/grpc", "k8s.io/client-go"},
		why:   "draapi/internal/claims knows who holds what, and neither who asks nor how claims are read",
	},
	"draapi/internal/inventory": {
		ours:  []string{"devtree"},
		never: []string{"k8s.io"},
		why:   "draapi/internal/inventory combines a Tree with the devices of claims",
	},
	"draapi/internal/kubelet": {
		ours: []string{
			"devtree", "draapi/internal/inventory", "internal/dirwatch", "internal/retry", "internal/unixsocket",
		},
		theirs: []string{
			"github.com/fsnotify/fsnotify", "google.golang.org/grpc", "google.golang.org/protobuf/proto",
			"k8s.io/klog/v2", "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1", "k8s.io/kubelet/pkg/apis/dra/v1",
			"k8s.io/kubelet/pkg/apis/pluginregistration/v1",
		},
		never: []string{"k8s.io/api", "k8s.io/client-go"},
		why:   "draapi/internal/kubelet serves the kubelet and knows nothing of the API server",
	},
	"draapi/internal/publisher": {
		ours:   []string{"devtree", "draapi/internal/apiclient", "draapi/internal/inventory", "internal/retry"},
		theirs: []string{"k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go/tools/cache", "k8s.io/klog/v2"},
		never:  []string{"k8s.io/client-go/kubernetes"},
		why:    "draapi/internal/publisher writes ResourceSlices and does not know where devices come from",
	},
	"events": {
		theirs: []string{"github.com/fsnotify/fsnotify", udev, "golang.org/x/sys/unix"},
		never:  []string{"google.golang.org/grpc", "k8s.io"},
		why:    "events knows netlink, inotify and time, and nothing of PCI, QAT or Kubernetes",
	},
	"internal/dirwatch": {
		theirs: []string{"github.com/fsnotify/fsnotify", "golang.org/x/sys/unix"},
		why:    "internal/dirwatch watches a directory, whatever is in it",
	},
	"internal/flagvalue": {
		why: "internal/flagvalue parses flags, whatever they set",
	},
	"internal/logpipe": {
		theirs: []string{"golang.org/x/sys/unix", "k8s.io/klog/v2"},
		why:    "internal/logpipe passes lines on and does not know what is logged",
	},
	"internal/metrics": {
		ours: []string{"devtree", "internal/status", "kubeletapi"},
		theirs: []string{
			"github.com/prometheus/client_golang/prometheus", "google.golang.org/grpc/codes",
			"google.golang.org/grpc/status", "k8s.io/klog/v2",
		},
		why: "internal/metrics renders what the plugin knows as metrics and reads nothing of the host",
	},
	"internal/nodeevents": {
		ours:   []string{"internal/status"},
		theirs: []string{"golang.org/x/time/rate", "k8s.io/klog/v2"},
		never:  []string{"k8s.io/client-go", "k8s.io/api"},
		why:    "internal/nodeevents compares snapshots and talks to the API server, and reads nothing of the host",
	},
	"internal/nodelock": {
		ours:   []string{"internal/dirwatch"},
		theirs: []string{"golang.org/x/sys/unix", "k8s.io/klog/v2"},
		why:    "internal/nodelock lets one of two programs serve and knows nothing of the APIs that they serve",
	},
	"internal/retry": {
		theirs: []string{"k8s.io/klog/v2"},
		why:    "internal/retry computes pauses, whatever is tried again",
	},
	"internal/program": {
		ours: []string{
			"devtree", "events", "internal/flagvalue", "internal/logpipe", "internal/nodeevents", "internal/nodelock",
			"internal/status", "internal/statuspage", "internal/statusserver", "internal/unixsocket",
			"kubeletapi/probe", "qat",
		},
		theirs: []string{"github.com/go-logr/logr", "google.golang.org/grpc/grpclog", "k8s.io/klog/v2"},
		never:  kubernetesLibraries,
		why:    "internal/program is what programs have in common that offer QAT devices, and knows no front",
	},
	"internal/status": {
		why: "internal/status describes what the plugin knows and knows nothing of where that comes from",
	},
	"internal/statusclient": {
		ours: []string{"internal/status"},
		why:  "internal/statusclient asks a running plugin and prints nothing",
	},
	"internal/statuspage": {
		why: "internal/statuspage serves files, and its script reads JSON",
	},
	"internal/statusserver": {
		ours:   []string{"internal/status", "kubeletapi/probe"},
		theirs: []string{"k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "internal/statusserver serves a status.Source, wherever its state comes from",
	},
	"internal/unixsocket": {
		theirs: []string{"golang.org/x/sys/unix"},
		why:    "internal/unixsocket creates sockets, whoever serves them",
	},
	"kubeletapi": {
		ours: []string{
			"cdi", "devtree", "internal/dirwatch", "internal/logpipe", "internal/retry", "internal/unixsocket",
			"kubeletapi/probe",
		},
		theirs: []string{
			"github.com/fsnotify/fsnotify", "golang.org/x/sys/unix", "google.golang.org/grpc",
			"google.golang.org/protobuf/encoding/protowire", "google.golang.org/protobuf/proto",
			"k8s.io/klog/v2", "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1",
		},
		never: []string{udev, cdiModule + "/pkg/cdi"},
		why:   "kubeletapi knows the device plugin API and Trees, and nothing of QAT, sysfs or netlink",
	},
	"kubeletapi/podresources": {
		theirs: []string{"google.golang.org/grpc", "k8s.io/kubelet/pkg/apis/podresources/v1"},
		never:  []string{udev},
		why:    "kubeletapi/podresources asks the kubelet which pod holds which device and decides nothing",
	},
	"kubeletapi/probe": {
		theirs: []string{"k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "kubeletapi/probe serves checks, whatever they check",
	},
	"qat": {
		ours: []string{
			"devtree", "events", "internal/status", "qat/internal/device", "qat/internal/doctor",
			"qat/internal/dpdk", "qat/internal/hostwatch", "qat/internal/kernelmode", "qat/internal/pci",
			"qat/internal/policy", "qat/internal/provision", "qat/internal/sysfs", "qat/internal/telemetry",
		},
		theirs: []string{"k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat is the API of both modes for programs, and knows nothing of gRPC, sockets or the kubelet's API",
	},
	"qat/internal/device": {
		ours:   []string{"qat/internal/pci", "qat/internal/sysfs"},
		theirs: []string{"gopkg.in/ini.v1"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/device reads facts about QAT devices and never acts on them",
	},
	"qat/internal/doctor": {
		ours: []string{
			"events", "internal/status", "qat/internal/device", "qat/internal/hostwatch", "qat/internal/pci",
			"qat/internal/readpool", "qat/internal/sysfs",
		},
		never: []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:   "qat/internal/doctor reads what prevents a host from offering devices, and changes nothing",
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
		ours:   []string{"devtree", "events", "internal/status", "qat/internal/sysfs"},
		theirs: []string{"golang.org/x/sys/unix", "k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/hostwatch is the event loop of both modes and knows nothing of PCI or QAT",
	},
	"qat/internal/health": {
		ours:   []string{"events", "internal/status", "qat/internal/pci", "qat/internal/sysfs"},
		theirs: []string{"k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/health reports which functions are unhealthy and decides nothing",
	},
	"qat/internal/bind": {
		ours:   []string{"internal/status", "qat/internal/pci", "qat/internal/sysfs"},
		theirs: []string{"k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/bind binds the VFs that it is given and does not choose them",
	},
	"qat/internal/policy": {
		ours:  []string{"devtree", "qat/internal/pci"},
		never: []string{"google.golang.org/grpc", "k8s.io"},
		why:   "qat/internal/policy chooses among VFs and reads nothing of the host",
	},
	"qat/internal/provision/config": {
		ours:   []string{"qat/internal/device", "qat/internal/pci"},
		theirs: []string{"go.yaml.in/yaml/v4", "gopkg.in/ini.v1"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/provision/config reads configuration files and nothing else of the host",
	},
	"qat/internal/readpool": {
		why: "qat/internal/readpool reads in goroutines of its own, whatever is read, and knows nothing of PCI or QAT",
	},
	"qat/internal/telemetry": {
		ours:   []string{"internal/status", "qat/internal/device", "qat/internal/pci", "qat/internal/sysfs"},
		theirs: []string{"golang.org/x/sys/unix", "k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/telemetry reads what drivers show of the work of PFs, and shows it to nobody itself",
	},
	"qat/internal/dpdk": {
		ours: []string{
			"devtree", "events", "internal/status", "qat/internal/bind", "qat/internal/device",
			"qat/internal/health", "qat/internal/hostwatch", "qat/internal/pci", "qat/internal/policy",
			"qat/internal/readpool", "qat/internal/sysfs",
		},
		theirs: []string{"k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/dpdk is mode dpdk and knows nothing of mode kernel or the kubelet's API",
	},
	"qat/internal/provision": {
		ours: []string{
			"devtree", "events", "internal/status", "qat/internal/device", "qat/internal/hostwatch",
			"qat/internal/pci", "qat/internal/provision/config", "qat/internal/readpool", "qat/internal/sysfs",
		},
		theirs: []string{"golang.org/x/sys/unix", "k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/provision configures PFs and knows nothing of mode dpdk or the kubelet's API",
	},
	"qat/internal/kernelmode": {
		ours: []string{
			"devtree", "events", "internal/status", "qat/internal/hostwatch", "qat/internal/pci",
			"qat/internal/sysfs",
		},
		theirs: []string{"golang.org/x/sys/unix", "gopkg.in/ini.v1", "k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"},
		why:    "qat/internal/kernelmode is mode kernel and knows nothing of mode dpdk or the kubelet's API",
	},
	"examples/colors": {
		ours:   []string{"devtree", "kubeletapi"},
		theirs: []string{"github.com/fsnotify/fsnotify", "k8s.io/klog/v2"},
		never:  []string{udev},
		why:    "the example shows what a plugin for other hardware needs, which is nothing of QAT",
	},
	"cmd/qat_plugin": {
		ours: []string{
			"devtree", "internal/flagvalue", "internal/metrics", "internal/nodelock", "internal/program",
			"internal/status", "kubeletapi", "kubeletapi/podresources", "kubeletapi/probe", "qat",
		},
		theirs: []string{"k8s.io/klog/v2", "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"},
		never:  append([]string{module + "draapi"}, kubernetesLibraries...), // which would double its size
		why:    "cmd/qat_plugin is the device plugin's flags and wiring, and knows nothing of the DRA API",
	},
	"cmd/qat_dra_driver": {
		ours: []string{
			"devtree", "draapi", "internal/flagvalue", "internal/metrics", "internal/nodelock", "internal/program",
			"internal/status", "kubeletapi/probe", "qat",
		},
		theirs: []string{
			"k8s.io/apimachinery/pkg/api/errors", "k8s.io/client-go/rest", "k8s.io/client-go/tools/clientcmd",
			"k8s.io/klog/v2",
		},
		never: []string{"k8s.io/client-go/kubernetes", "k8s.io/kubelet/pkg/apis/deviceplugin"}, // for its size
		why:   "cmd/qat_dra_driver is the DRA driver's flags and wiring, and knows nothing of the device plugin API",
	},
	"cmd/qatctl": {
		ours:   []string{"devtree", "internal/status", "internal/statusclient", "qat"},
		theirs: []string{"github.com/spf13/cobra", "go.yaml.in/yaml/v4", "golang.org/x/sys/unix", "k8s.io/klog/v2"},
		never:  []string{"google.golang.org/grpc", "k8s.io/kubelet"}, // which would double its size
		why:    "cmd/qatctl shows what the plugin knows",
	},
}

// udev is the only library under the GPL. A single file of events imports it (NOTICE).
const udev = "github.com/pilebones/go-udev"

// kubernetesLibraries are the API types and clients of Kubernetes. Only the DRA driver links them.
var kubernetesLibraries = []string{"k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go"}

// cdiModule is the library of the Container Device Interface.
const cdiModule = "tags.cncf.io/container-device-interface"

// helper is Kubernetes' library for DRA drivers.
const helper = "k8s.io/dynamic-resource-allocation"

// forTests lists what tests and support packages may import in addition.
var forTests = []string{
	"github.com/fsnotify/fsnotify", "github.com/go-logr/logr", "github.com/google/go-cmp",
	"github.com/opencontainers/runtime-spec", "github.com/prometheus/common",
	"github.com/santhosh-tekuri/jsonschema/v6", "go.uber.org/goleak", "go.yaml.in/yaml/v4",
	"golang.org/x/sys/unix", cdiModule, "google.golang.org/grpc", "google.golang.org/protobuf", "k8s.io/klog/v2",
	"k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go/rest", "k8s.io/kubelet/pkg/apis",
	helper + "/devicemetadata", "pgregory.net/rapid",
}

// listing is the output of `go list -json` for one package.
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

// isSupport reports whether the package supports tests or the demo and is not part of the product.
func (l *listing) isSupport() bool {
	name := strings.TrimPrefix(l.ImportPath, module)
	return name == "cmd/qat_demo" || forTestsOnly(name)
}

// forTestsOnly reports whether a package of this module is for tests, including those of plugin
// authors. A package in the table rooms belongs to the product, also below internal.
func forTestsOnly(name string) bool {
	_, product := rooms[name]
	return !product && under(name, []string{"internal", "test", "kubeletapi/kubelettest", "draapi/kubelettest"})
}

// violations returns a complaint for each import that the rules do not allow.
func (l *listing) violations(standard map[string]bool) (complaints []string) {
	name := strings.TrimPrefix(l.ImportPath, module)
	r, known := rooms[name]
	if !known && !l.isSupport() {
		return []string{fmt.Sprintf("package %s is not in the table rooms: add what it may import", name)}
	}
	complain := func(to, rule string) {
		complaint := fmt.Sprintf("%s must not import %s: %s (%s)", name, to, rule, r.why)
		complaints = append(complaints, strings.TrimSuffix(complaint, " ()"))
	}
	for _, to := range l.Imports {
		ours, isOurs := strings.CutPrefix(to, module)
		switch {
		case standard[to]:
		case l.isSupport():
			if !isOurs && !under(to, forTests) {
				complain(to, "of other modules, test support may import "+list(forTests))
			}
		case isOurs && forTestsOnly(ours):
			complain(ours, "it is for tests and cmd/qat_demo, not for the product")
		case isOurs && !slices.Contains(r.ours, ours):
			complain(ours, "of this module, it may import "+list(r.ours))
		case !isOurs && !under(to, r.theirs):
			complain(to, "of other modules, it may import "+list(r.theirs))
		}
	}
	for _, to := range slices.Concat(l.TestImports, l.XTestImports) {
		ours, isOurs := strings.CutPrefix(to, module)
		switch {
		case standard[to], l.isSupport() && isOurs:
		case isOurs && ours != name && !forTestsOnly(ours) && !slices.Contains(r.ours, ours):
			complain(ours, "besides test support, of this module its tests may import "+list(r.ours))
		case !isOurs && !under(to, forTests) && !under(to, r.theirs):
			complain(to, "of other modules, its tests may import "+list(slices.Concat(r.theirs, forTests)))
		}
	}
	for _, to := range l.Deps {
		if under(to, r.never) {
			complain(to, "not even through another package")
		}
	}
	return complaints
}

// under reports whether path is one of the roots, or below one.
func under(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+"/")
	})
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return "only " + strings.Join(names, ", ")
}
