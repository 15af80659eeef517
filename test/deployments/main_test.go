// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

const (
	top       = "../.." // the project's directory
	manifests = top + "/deployments"
)

var update = flag.Bool("update", false, "rewrite testdata")

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(programs)
		os.Exit(code)
	}))
}

// An overlay is one way to install the device plugin or the DRA driver.
type overlay struct {
	name   string // of its file in testdata
	dir    string // below deployments
	values string // of the chart, which render the same
}

// feature returns what the overlay adds to the base of its front, such as "debug"; "base" for
// nothing.
func (o overlay) feature() string {
	if o.name == "dra" {
		return "base"
	}
	return strings.TrimPrefix(o.name, "dra-")
}

// isDRA reports whether the overlay installs the DRA driver.
func (o overlay) isDRA() bool { return strings.HasPrefix(o.dir, "qat_dra_driver") }

var overlays = []overlay{
	{"base", "qat_plugin", ``},
	{"debug", "qat_plugin/overlays/debug", `{nameSuffix: -debug, config: {verbosity: 4}}`},
	{"kernel", "qat_plugin/overlays/kernel", `{mode: kernel}`},
	{"cdi", "qat_plugin/overlays/cdi", `{cdi: {enabled: true}}`},
	{"nfd", "qat_plugin/overlays/nfd", `{nfd: {enabled: true}}`},
	{"provisioning", "qat_plugin/overlays/provisioning", `{provisioning: {enabled: true}}`},
	{"telemetry", "qat_plugin/overlays/telemetry", `{telemetry: {enabled: true}}`},
	{"events", "qat_plugin/overlays/events", `{events: {enabled: true}}`},
	{"http", "qat_plugin/overlays/monitoring", `{http: {enabled: true}}`},
	{"dra", "qat_dra_driver", `{front: dra}`},
	{"dra-debug", "qat_dra_driver/overlays/debug", `{front: dra, config: {verbosity: 4}}`},
	{"dra-nfd", "qat_dra_driver/overlays/nfd", `{front: dra, nfd: {enabled: true}}`},
	{"dra-provisioning", "qat_dra_driver/overlays/provisioning", `{front: dra, provisioning: {enabled: true}}`},
	{"dra-telemetry", "qat_dra_driver/overlays/telemetry", `{front: dra, telemetry: {enabled: true}}`},
	{"dra-events", "qat_dra_driver/overlays/events", `{front: dra, events: {enabled: true}}`},
	{"dra-http", "qat_dra_driver/overlays/monitoring", `{front: dra, http: {enabled: true}}`},
}

// others maps the names of files in testdata to the directories of deployments that do
// not install the plugin.
var others = map[string]string{
	"node-feature-rules": "nfd",
	"sample":             "workloads/sample",
	"crypto-perf":        "workloads/crypto-perf",
	"compress-perf":      "workloads/compress-perf",
	"qatlib":             "workloads/qatlib",
	"dra-one-vf":         "workloads/dra/one-vf",
	"dra-same-pf":        "workloads/dra/same-pf",
	"dra-same-numa-node": "workloads/dra/same-numa-node",
	"dra-prioritized":    "workloads/dra/prioritized",
	"dra-admin":          "workloads/dra/admin",
	"openshift":          "openshift",
	"events-rbac":        eventsRBAC,
	"dra-events-rbac":    draEventsRBAC,
	"monitoring":         "monitoring",
}

// The objects that the overlays events need in another namespace.
const (
	eventsRBAC    = "qat_plugin/overlays/events/rbac"
	draEventsRBAC = "qat_dra_driver/overlays/events/rbac"
)

// overlayNamed returns the plugin that an overlay installs.
func overlayNamed(t testing.TB, name string) plugin {
	t.Helper()
	for _, o := range overlays {
		if o.name == name {
			return o.plugin(t)
		}
	}
	t.Fatalf("no overlay %s", name)
	panic("unreachable")
}

// forEachOverlay runs a subtest for each overlay.
func forEachOverlay(t *testing.T, test func(t *testing.T, o overlay, p plugin)) {
	for _, o := range overlays {
		t.Run(o.name, func(t *testing.T) { test(t, o, o.plugin(t)) })
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, elements ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elements...))
	must(t, err)
	return string(text)
}

// findInSource returns the submatches of a pattern in a source file of the product, for
// what the product does not export. There must be at least min matches.
func findInSource(t testing.TB, file, pattern string, min int) [][]string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindAllStringSubmatch(readFile(t, top, file), -1)
	if len(found) < min {
		t.Fatalf("%s has %d matches of %s, want at least %d", file, len(found), pattern, min)
	}
	return found
}

// below returns the part of a path after a directory, and whether the path is in the
// directory or is the directory itself.
func below(path, dir string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, dir)
	return rest, ok && (rest == "" || rest[0] == '/')
}
