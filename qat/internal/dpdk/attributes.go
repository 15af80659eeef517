// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"slices"
	"strings"

	"qatplugin/devtree"
	"qatplugin/qat/internal/device"
)

// The standard attributes of DRA devices (k8s.io/dynamic-resource-allocation/deviceattribute).
const (
	attributePCIBusID = "resource.kubernetes.io/pciBusID"
	attributePCIeRoot = "resource.kubernetes.io/pcieRoot"
	attributeNUMANode = "resource.kubernetes.io/numaNode"
)

// The attributes of QAT VFs, besides one for each service.
const (
	attributeFamily        = "family"
	attributeGeneration    = "generation"
	attributePFAddress     = "pfAddress"
	attributePFIndex       = "pfIndex"
	attributeServices      = "services"
	attributeResource      = "resource"
	attributeInterface     = "vfioInterface"
	attributeDriverVersion = "driverVersion"
)

// attributes returns the attributes of a VF that is listed in a resource. An attribute whose value
// is not known is left out.
func attributes(f *facts, resource string) map[string]any {
	vf := f.vf
	m := map[string]any{
		attributePCIBusID:   vf.Address.String(),
		attributeFamily:     vf.Family.Name,
		attributeGeneration: int64(vf.Family.Gen),
		attributeResource:   resource,
	}
	if vf.PCIeRoot != "" {
		m[attributePCIeRoot] = vf.PCIeRoot
	}
	if vf.NUMANode >= 0 {
		m[attributeNUMANode] = int64(vf.NUMANode)
	}
	if name := interfaceOf(vf.Node); name != "" {
		m[attributeInterface] = name
	}
	addServices(m, device.ServicesOf(resource))
	if f.pfAddress != nil {
		m[attributePFAddress] = f.pfAddress.String()
	}
	if n, ok := f.number(); ok {
		m[attributePFIndex] = int64(n)
	}
	if f.pf != nil {
		if version := devtree.Version(f.pf.DriverVersion); version.IsValid() {
			m[attributeDriverVersion] = version
		}
	}
	return m
}

// number returns the number of the VF at its PF, if that is known.
func (f *facts) number() (n int, ok bool) {
	if f.pf == nil {
		return 0, false
	}
	if i := slices.Index(f.pf.VFs, f.vf.Address); i >= 0 && i < len(f.pf.VFNumbers) {
		return f.pf.VFNumbers[i], true
	}
	return 0, false
}

// addServices adds one attribute for each service, and the list of the services as Intel's driver
// writes it (intel-resource-drivers-for-kubernetes, pkg/qat/device/device.go, Services.String).
//
// Each VF has the attributes of the services, which are all false if its services are not known. A
// selector that names an attribute which one device lacks is an error, with which the scheduler
// places the pod on no node (pkg/scheduler/framework/plugins/dynamicresources, Allocate, of
// Kubernetes 1.36).
func addServices(m map[string]any, services []string) {
	for _, name := range device.ServiceNames() {
		m[name] = slices.Contains(services, name)
	}
	if len(services) == 0 {
		return // not known
	}
	if len(services) > 1 && services[1] == "sym" { // after asym
		services[0], services[1] = services[1], services[0]
	}
	m[attributeServices] = strings.Join(services, ";")
}

// interfaceOf returns the interface through which a container uses a node, as -vfio-interface names
// it, or "uio". It returns "" if the VF has no node.
func interfaceOf(n device.Node) string {
	switch {
	case n.Name == "":
		return ""
	case n.IsCdev():
		return device.InterfaceCdev
	case strings.HasPrefix(n.Name, "vfio/"):
		return device.InterfaceGroup
	}
	return "uio"
}
