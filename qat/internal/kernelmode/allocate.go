// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/qat/internal/sysfs"
)

// PostAllocate completes what a container gets. QAT_SECTION_NAME_<resource>_0 and so on name the
// sections of its units, in the order in which the kubelet named the units. QAT_SECTION_NAME
// names the first unit's section. Before that, PostAllocate makes the checks of [Check]. It may be
// called from any goroutine.
func PostAllocate(dev, resource string, devices []*devtree.Device, edits *devtree.ContainerEdits) error {
	if err := Check(dev, devices); err != nil {
		return err
	}
	if edits.Env == nil {
		edits.Env = make(map[string]string, len(devices)+1)
	}
	for i, d := range devices {
		section := d.Env[sectionVariable]
		edits.Env[sectionVariable+"_"+resource+"_"+strconv.Itoa(i)] = section
		if i == 0 {
			edits.Env[sectionVariable] = section
		}
	}
	klog.V(3).InfoS("Checked the devices of a container", "resource", resource, "units", len(devices))
	return nil
}

// Check returns an error that names a node of the units if the node no longer exists below dev, the
// root of the host's /dev. It may be called from any goroutine.
func Check(dev string, devices []*devtree.Device) error {
	for _, d := range devices {
		if d.Env[sectionVariable] == "" {
			return fmt.Errorf("allocate %q: the unit names no section", d.ID)
		}
		for _, n := range d.DeviceNodes {
			exists, err := sysfs.Exists(filepath.Join(dev, strings.TrimPrefix(n.HostPath, "/dev/")))
			if err != nil {
				return fmt.Errorf("allocate %q: %w", d.ID, err)
			}
			if !exists {
				return fmt.Errorf("allocate %q: %w: the node %s is missing", d.ID, devtree.ErrUnfit, n.HostPath)
			}
		}
	}
	return nil
}
