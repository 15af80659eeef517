// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/qat"
)

// hostAttributes returns the attributes that a VF of the PF must have, as sysfs shows them.
func hostAttributes(t *testing.T, p *pf, number int, family string, generation int64) map[string]any {
	t.Helper()
	address := p.vfs(t)[number]
	path, err := os.Readlink(pciDevices + "/" + address) // ../../../devices/pci0000:6b/0000:6b:00.1
	if err != nil {
		t.Fatal(err)
	}
	_, path, _ = strings.Cut(path, "/devices/")
	services := read(t, p.path("qat/cfg_services"))
	m := map[string]any{
		"resource.kubernetes.io/pciBusID": address,
		"resource.kubernetes.io/pcieRoot": strings.Split(path, "/")[0],
		"family":                          family,
		"generation":                      generation,
		"pfAddress":                       p.address,
		"pfIndex":                         int64(number),
		"resource":                        strings.TrimPrefix(p.resource(t), "qat.intel.com/"),
		"vfioInterface":                   "group",
		"driverVersion":                   devtree.Version(read(t, "/sys/module/qat_sim/version")),
	}
	for _, name := range []string{"asym", "sym", "dc", "decomp", "dcc"} {
		m[name] = slices.Contains(strings.Split(services, ";"), name)
	}
	m["services"] = strings.Replace(services, "asym;sym", "sym;asym", 1) // as Intel's DRA driver writes it
	if node := read(t, p.path("numa_node")); node != "-1" {
		m["resource.kubernetes.io/numaNode"] = int64(parseInt(t, node))
	}
	return m
}

func TestAttributesAreThoseOfTheHost(t *testing.T) {
	pfs := loadPFs(t, "npf=3 family=4xxx,402xx,6xxx numa=0,1,-1")
	families := []string{"4xxx", "402xx", "6xxx"}
	generations := []int64{4, 4, 6}
	write(t, pfs[1].path("qat/state"), "down")
	write(t, pfs[1].path("qat/cfg_services"), "dc")
	write(t, pfs[1].path("qat/state"), "up")
	want := map[string]map[string]any{}
	for i, p := range pfs {
		p.enableVFs(t)
		for n, vf := range p.vfs(t) {
			want[vf] = hostAttributes(t, p, n, families[i], generations[i])
		}
	}

	plugin, err := qat.New(qat.Config{Attributes: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done, trees := make(chan error, 1), make(chan *devtree.Tree, 1)
	go func() {
		done <- plugin.Watch(ctx, func(tree *devtree.Tree) {
			select {
			case <-trees:
			default:
			}
			trees <- tree
		})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	got := map[string]map[string]any{}
	for deadline := time.After(testTimeout); len(got) < len(want); {
		select {
		case tree := <-trees:
			clear(got)
			for r := range tree.Resources() {
				for d := range r.Devices() {
					got[d.ID] = d.Attributes
				}
			}
		case <-deadline:
			t.Fatalf("%d VFs are listed after %v, want %d", len(got), testTimeout, len(want))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attributes (-sysfs +devices):\n%s", diff)
	}
}
