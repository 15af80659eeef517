// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
)

const (
	cyPF = "0000:6b:00.0"
	dcPF = "0000:70:00.0"
	// vfioGroups is more than the number of VFs in any test.
	vfioGroups = 1100
)

// A host is a look-alike host on the node. The plugin's pod mounts its sysfs and /dev
// instead of those of the node.
type host struct {
	*lookalike.Host
	t *testing.T
}

// startHost starts a host without devices that has loaded vfio-pci, and creates stand-ins
// in the node's /dev for the device nodes that its kernel would create.
func startHost(t *testing.T, options ...lookalike.Option) *host {
	t.Helper()
	h := &host{Host: lookalike.Start(t, options...), t: t}
	must(t, h.LoadDriver("vfio-pci"))
	for _, mountPoint := range []string{"sys/fs", "dev/pts", "dev/shm", "dev/mqueue"} {
		must(t, os.MkdirAll(filepath.Join(h.Dir(), mountPoint), 0o755))
	}
	addStandIn(t, "/dev/vfio/vfio")
	for i := range vfioGroups {
		addStandIn(t, fmt.Sprintf("/dev/vfio/%d", i))
	}
	return h
}

// addStandIn creates a device node. A container runtime requires one for each device of a
// container, but those of the look-alike host are plain files. The node is /dev/kmsg: a
// container can open it only if its device control group allows it, and opening it has no
// effect.
func addStandIn(t *testing.T, path string) {
	t.Helper()
	addNode(t, path, 1, 11)
}

// addNode creates a device node, unless it exists.
func addNode(t *testing.T, path string, major, minor uint32) {
	t.Helper()
	err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor)))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatalf("mknod %s: %v", path, err)
	}
}

// hostPaths maps paths of the node to those of this host.
func (h *host) hostPaths() map[string]string {
	return map[string]string{"/sys": h.Sysfs(), "/dev": h.Dev()}
}

// addPF adds a PF with 16 VFs, which are not bound.
func (h *host) addPF(address, services string) error {
	return errors.Join(h.AddPF(lookalike.PF{Address: address, Services: services}), h.SetVFs(address, 16))
}

// vfioNode returns the path of a VF's VFIO node.
func (h *host) vfioNode(vf string) string {
	h.t.Helper()
	group, err := os.Readlink(filepath.Join(h.Path(vf), "iommu_group"))
	must(h.t, err)
	return "/dev/vfio/" + filepath.Base(group)
}
