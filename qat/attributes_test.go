// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
)

// attributesBecome waits until a device is listed with these attributes.
func (r *running) attributesBecome(resource, id string, want map[string]any) {
	r.t.Helper()
	for deadline := time.After(timeout); ; {
		d := r.publisher.Tree().Resource(resource).Device(id)
		if d != nil && cmp.Equal(want, d.Attributes) {
			return
		}
		select {
		case <-r.changed:
		case <-deadline:
			r.t.Fatalf("after %v %s in %s is %+v; attributes want %v", timeout, id, resource, d, want)
		}
	}
}

func TestAttributesOfVFs(t *testing.T) {
	const bridged, vf2 = "0000:70:00.0", "0000:70:00.2"
	services := func(m map[string]any, list string, on ...string) map[string]any {
		m["services"] = list
		for _, name := range []string{"asym", "sym", "dc", "decomp", "dcc"} {
			m[name] = false
		}
		for _, name := range on {
			m[name] = true
		}
		return m
	}
	behindBridge := func(resource string) map[string]any {
		return map[string]any{
			"resource.kubernetes.io/pciBusID": vf2,
			"resource.kubernetes.io/pcieRoot": "pci0000:6f",
			"resource.kubernetes.io/numaNode": int64(1),
			"family":                          "402xx",
			"generation":                      int64(4),
			"pfAddress":                       bridged,
			"pfIndex":                         int64(1),
			"resource":                        resource,
			"vfioInterface":                   "group",
			"driverVersion":                   devtree.Version("0.6.0"),
		}
	}
	withEachSource(t, func(t *testing.T, h *lookalike.Host, config Config) {
		config.Attributes = true
		must(t, h.LoadDriver("vfio-pci", "disable_denylist=1"))
		must(t, h.AddPF(lookalike.PF{
			Address:  bridged,
			DeviceID: "4944",
			Services: "sym;asym",
			NUMANode: 1,
			Bridge:   true,
		}))
		must(t, h.SetVFs(bridged, 3))
		must(t, h.AddPF(lookalike.PF{Address: pfGen2, DeviceID: "37c8", NUMANode: -1}))
		must(t, h.SetVFs(pfGen2, 2))
		r := start(t, h, config)

		r.attributesBecome("cy", vf2, services(behindBridge("cy"), "sym;asym", "sym", "asym"))
		r.attributesBecome("generic", "0000:3d:01.1", map[string]any{
			"asym": false, "sym": false, "dc": false, "decomp": false, "dcc": false,
			"resource.kubernetes.io/pciBusID": "0000:3d:01.1",
			"resource.kubernetes.io/pcieRoot": "pci0000:3d",
			"family":                          "C62x",
			"generation":                      int64(2),
			"pfAddress":                       pfGen2,
			"pfIndex":                         int64(1),
			"resource":                        "generic",
			"vfioInterface":                   "group",
			"driverVersion":                   devtree.Version("0.6.0"),
		})

		must(t, h.SetState(bridged, "down"))
		must(t, h.SetService(bridged, "dc"))
		must(t, h.SetState(bridged, "up"))
		must(t, h.SetVFs(bridged, 3))
		r.attributesBecome("dc", vf2, services(behindBridge("dc"), "dc", "dc"))
	})
}

func TestAttributesInAGuest(t *testing.T) {
	const guest = "0000:05:00.0"
	h := lookalike.Start(t, lookalike.WithIOMMUFD())
	must(t, h.LoadDriver("vfio-pci"))
	must(t, os.WriteFile(filepath.Join(h.Dev(), "iommu"), nil, 0o600)) // of the module iommufd
	must(t, h.AddVF(lookalike.VF{Address: guest, DeviceID: "4949", NUMANode: -1}))
	r := start(t, h, Config{Attributes: true, VFIOInterface: "cdev"})
	r.attributesBecome("generic", guest, map[string]any{
		"asym": false, "sym": false, "dc": false, "decomp": false, "dcc": false,
		"resource.kubernetes.io/pciBusID": guest,
		"resource.kubernetes.io/pcieRoot": "pci0000:05",
		"family":                          "6xxx",
		"generation":                      int64(6),
		"resource":                        "generic",
		"vfioInterface":                   "cdev",
	})
}

func TestNoAttributesByDefault(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 1))
	r := start(t, h, Config{})
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
	if d := r.publisher.Tree().Resource("cy").Device(h.VFs(pfA)[0]); d.Attributes != nil || d.Cause != "" {
		t.Errorf("attributes %v, cause %q; want none", d.Attributes, d.Cause)
	}
}

func TestCheckDevices(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 2))
	vfs := h.VFs(pfA)
	r := start(t, h, Config{NoBind: true})
	bindAll(t, h, pfA)
	r.becomes(map[string][]string{"cy": vfs})
	cy := r.publisher.Tree().Resource("cy")
	var devices []*devtree.Device
	for d := range cy.Devices() {
		devices = append(devices, d)
	}
	must(t, r.CheckDevices(t.Context(), devices))

	must(t, h.Unbind(vfs[1]))
	if err := r.CheckDevices(t.Context(), devices); !errors.Is(err, devtree.ErrUnfit) {
		t.Errorf("CheckDevices = %v with an unbound VF, want %v", err, devtree.ErrUnfit)
	}
	must(t, h.RemoveVF(vfs[1]))
	if err := r.CheckDevices(t.Context(), devices); !errors.Is(err, devtree.ErrGone) {
		t.Errorf("CheckDevices = %v with a removed VF, want %v", err, devtree.ErrGone)
	}
	must(t, r.CheckDevices(t.Context(), devices[:1]))
}

// documented returns the first two cells of each row of the table in docs/dra-attributes.md that
// begins with this heading.
func documented(t *testing.T, heading string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/dra-attributes.md")
	must(t, err)
	_, table, found := strings.Cut(string(text), "\n| "+heading+" |")
	if !found {
		t.Fatalf("there is no table with the heading %q", heading)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	rows := map[string]string{}
	for _, line := range strings.Split(table, "\n")[2:] {
		cells := strings.Split(line, "|")
		rows[strings.Trim(cells[1], " `")] = strings.TrimSpace(cells[2])
	}
	return rows
}

func TestDocumentedAttributes(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 1))
	r := start(t, h, Config{Attributes: true})
	r.becomes(map[string][]string{"cy": h.VFs(pfA)})
	got := map[string]string{}
	for name, value := range r.publisher.Tree().Resource("cy").Device(h.VFs(pfA)[0]).Attributes {
		switch value.(type) {
		case int64:
			got[name] = "int"
		case devtree.Version:
			got[name] = "version"
		default:
			got[name] = fmt.Sprintf("%T", value)
		}
	}
	if diff := cmp.Diff(documented(t, "attribute"), got); diff != "" {
		t.Errorf("types of attributes (-docs/dra-attributes.md +device):\n%s", diff)
	}
}

func TestDocumentedCauses(t *testing.T) {
	want := []string{
		status.ClassFatalError, status.ClassHeartbeat, status.ClassPCIError, status.ClassPFDown,
		status.ClassReleasing, status.ClassWithdrawn,
	}
	found := documented(t, "value")
	delete(found, "no-cdi") // of package draapi, whose tests hold it
	got := slices.Sorted(maps.Keys(found))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("causes (-want +docs/dra-attributes.md):\n%s", diff)
	}
}
