// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

// PostAllocate completes what a container gets: the variables QAT0, QAT1 and so
// on hold the addresses of its VFs, in the order in which the kubelet named
// them. It looks at each VF once more and returns an error that names a VF that
// is gone or no longer usable as listed. It may be called from any goroutine.
func PostAllocate(
	reader *device.Reader, driver string, devices []*devtree.Device, edits *devtree.ContainerEdits,
) error {
	if edits.Env == nil {
		edits.Env = make(map[string]string, len(devices))
	}
	for i, d := range devices {
		a, ok := pci.Parse(d.ID)
		if !ok {
			return fmt.Errorf("allocate %q: not a PCI address", d.ID)
		}
		edits.Env["QAT"+strconv.Itoa(i)] = d.ID
		if reader.IsUsable(a, nodeOf(d)) {
			continue
		}
		vf, err := reader.Read(a)
		switch {
		case err != nil:
			return fmt.Errorf("allocate %s: %w", d.ID, err)
		case vf == nil:
			return fmt.Errorf("allocate %s: %w", d.ID, devtree.ErrGone)
		case !reader.IsBound(vf.Driver):
			return fmt.Errorf("allocate %s: %w: it is no longer bound to %s", d.ID, devtree.ErrUnfit, driver)
		case vf.Node.Missing != "":
			return fmt.Errorf("allocate %s: %w: %s", d.ID, devtree.ErrUnfit, vf.Node.Missing)
		case len(d.DeviceNodes) > 0 && nodeOf(d) != vf.Node.Name:
			return fmt.Errorf("allocate %s: %w: its device node is now /dev/%s", d.ID, devtree.ErrUnfit, vf.Node.Name)
		}
	}
	klog.V(3).InfoS("Allocated", "devices", len(devices))
	return nil
}

// nodeOf returns the name below /dev of the node through which a listed VF is used, or "" if it has
// none.
func nodeOf(d *devtree.Device) string {
	if len(d.DeviceNodes) == 0 {
		return ""
	}
	return strings.TrimPrefix(d.DeviceNodes[0].HostPath, "/dev/")
}
