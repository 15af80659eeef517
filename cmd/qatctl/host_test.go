// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
)

const (
	cyPF = "0000:6b:00.0"
	dcPF = "0000:e8:00.0"
)

// newHost returns a host with VFs that are bound to vfio-pci, to no driver and to another one. args
// adds the flags with which qatctl reads it.
func newHost(t *testing.T) (host *lookalike.Host, args func(...string) []string) {
	t.Helper()
	host = lookalike.Start(t)
	for _, driver := range []string{"vfio-pci", "uio_pci_generic"} {
		must(t, host.LoadDriver(driver))
	}
	must(t, host.AddPF(lookalike.PF{Address: cyPF, Services: "sym;asym"}))
	must(t, host.AddPF(lookalike.PF{Address: dcPF, DeviceID: "4944", Services: "dc", NUMANode: 1}))
	for vf, pf := range map[string]string{
		"0000:6b:00.1": cyPF, "0000:6b:00.2": cyPF, "0000:6b:00.3": cyPF, "0000:e8:00.1": dcPF,
	} {
		must(t, host.AddVF(lookalike.VF{Address: vf, PF: pf}))
	}
	must(t, host.Bind("0000:6b:00.1", "vfio-pci"))
	must(t, host.Bind("0000:6b:00.3", "uio_pci_generic"))
	must(t, host.Bind("0000:e8:00.1", "vfio-pci"))
	socket := filepath.Join(t.TempDir(), "status.sock")
	return host, func(more ...string) []string {
		return append(more, "--socket", socket, "--sysfs-root", host.Sysfs(), "--dev-root", host.Dev())
	}
}

func TestListWithoutPlugin(t *testing.T) {
	host, args := newHost(t)
	writes := host.Writes()
	r := qatctl(t, args("list", "-o", "json")...)
	r.wantExit(t, 0, "showing what this host has, as a plugin with -dry-run sees it.")
	var vfs []status.VF
	must(t, json.Unmarshal([]byte(r.stdout), &vfs))
	type row struct{ Address, PF, State, Resource, Driver, Reason string }
	var got []row
	for _, v := range vfs {
		got = append(got, row{v.Address, v.PF, v.State, v.Resource, v.Driver, v.Reason})
	}
	want := []row{
		{"0000:6b:00.1", cyPF, "listed", "cy", "vfio-pci", ""},
		{"0000:6b:00.2", cyPF, "skipped", "", "", "dry run: not bound to vfio-pci"},
		{"0000:6b:00.3", cyPF, "skipped", "", "uio_pci_generic",
			"it is bound to uio_pci_generic, which is left alone without -steal"},
		{"0000:e8:00.1", dcPF, "listed", "dc", "vfio-pci", ""},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("VFs (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(writes, host.Writes()); diff != "" || len(host.Bound("vfio-pci")) != 2 {
		t.Errorf("qatctl has written to the host: (-before +after)\n%s", diff)
	}

	r = qatctl(t, args("list", "resources")...)
	for resource, want := range map[string]string{
		"qat.intel.com/cy": "qat.intel.com/cy 1 1 idle 0 0 0 no plugin runs",
		"qat.intel.com/dc": "qat.intel.com/dc 1 1 idle 0 0 0 no plugin runs",
	} {
		if got := strings.Join(strings.Fields(r.line(t, resource)), " "); got != want {
			t.Errorf("a resource has the row %q, want %q", got, want)
		}
	}
}

func TestDescribeWithoutPlugin(t *testing.T) {
	host, args := newHost(t)
	must(t, host.SetState(dcPF, "down"))
	text := qatctl(t, args("describe", "6b:00.1", "6b:00.2", "6b:00.3", "e8:00.0")...).stdout
	text = strings.Join(strings.Fields(text), " ")
	for _, part := range []string{
		"A plugin would list it in qat.intel.com/cy, but none runs. What to do Start the plugin.",
		"It is not listed: dry run: not bound to vfio-pci. What to do Nothing on the host prevents",
		"Unbind the VF from that driver, or start the plugin with -steal.",
		"Bring the PF up: echo up > /sys/bus/pci/devices/0000:e8:00.0/qat/state.",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("the text lacks %q:\n%s", part, text)
		}
	}
}

// TestEachReasonHasARemedy checks the texts from which the product makes the reasons why a VF is
// unhealthy or not listed.
func TestEachReasonHasARemedy(t *testing.T) {
	literals := reasonLiterals(t)
	for reason, file := range literals {
		if adviceFor(reason) == "" {
			t.Errorf("%s: no remedy matches the reason %q", file, reason)
		}
	}
	for _, r := range remedies {
		used := false
		for reason := range literals {
			used = used || strings.Contains(reason, r.reason)
		}
		if !used && !slices.Contains(fromErrors, r.reason) {
			t.Errorf("no reason of the product contains %q, which has a remedy", r.reason)
		}
	}
}

// fromErrors are parts of reasons that are errors of the kernel, or errors of which other texts are
// only logged.
var fromErrors = []string{"permission denied", "read-only file system", "read ", "open ", "given back to"}

// composed are the reasons that the product composes of two of its texts, each with an example.
var composed = map[string]string{
	"its PF %s %s":    "its PF 0000:6b:00.0 failed its heartbeat",
	"its PF %s is %s": "its PF 0000:6b:00.0 is down",
	"it ":             "it had a PCI error and is being recovered",
}

// reasonLiterals returns the texts in the functions and constants that make reasons, each with the
// file that has it.
func reasonLiterals(t *testing.T) map[string]string {
	t.Helper()
	literals := map[string]string{}
	for file, names := range map[string][]string{
		"dpdk/decide.go": {
			"skipGroup", "releasingReason", "decide", "notBindable", "decideResource", "unhealthyReason",
		},
		"dpdk/assign.go":    {"assign", "assignToGroup", "unlist"},
		"dpdk/functions.go": {"errNotReturned"},
		"bind/binder.go":    {"reason", "lossError"},
		"bind/procedure.go": {"Error"},
		"device/vf.go": {
			"NoIOMMUGroup", "noVFIODevice", "readReleasingNode", "readCdevNode", "readUIONode", "doesNotExist",
		},
		"health/pfhealth.go": {"reason"},
		"health/fault.go":    {"parseFault"},
		"health/monitor.go":  {"Reason"},
	} {
		path := filepath.Join("../../qat/internal", file)
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		must(t, err)
		for _, name := range names {
			var texts []string
			ast.Inspect(parsed, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Name.Name == name {
						texts = append(texts, textsIn(n)...)
					}
				case *ast.ValueSpec:
					if n.Names[0].Name == name {
						texts = append(texts, textsIn(n)...)
					}
				}
				return true
			})
			if len(texts) == 0 {
				t.Errorf("%s: %s has no text: the reasons are made elsewhere", path, name)
			}
			for _, text := range texts {
				literals[cmp.Or(composed[text], text)] = path
			}
		}
	}
	return literals
}

// textsIn returns the string literals with a space below a node, those that + joins as one.
func textsIn(node ast.Node) (texts []string) {
	ast.Inspect(node, func(n ast.Node) bool {
		text := joinedLiteral(n)
		if strings.Contains(text, " ") {
			texts = append(texts, text)
		}
		return text == ""
	})
	return texts
}

// joinedLiteral returns the text of a string literal, or of several that + joins.
func joinedLiteral(n ast.Node) string {
	switch n := n.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
			return text
		}
	case *ast.BinaryExpr:
		if n.Op == token.ADD {
			return joinedLiteral(n.X) + joinedLiteral(n.Y)
		}
	}
	return ""
}
