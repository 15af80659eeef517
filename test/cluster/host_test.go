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
	// standIns is how many nodes there are in the node's own /dev/vfio; more than VFs.
	standIns = 1100
)

// A host is a look-alike host on the node: its sysfs and /dev are what the plugin's pod gets in place of the node's.
type host struct {
	*lookalike.Host
	t *testing.T
}

// startHost makes a host without devices, with vfio-pci loaded, and the node's stand-ins for what its kernel would have put into /dev.
func startHost(t *testing.T, options ...lookalike.Option) *host {
	t.Helper()
	h := &host{Host: lookalike.Start(t, options...), t: t}
	must(t, h.LoadDriver("vfio-pci"))
	// Mount points, which every host has.
	for _, dir := range []string{"sys/fs", "dev/pts", "dev/shm", "dev/mqueue"} {
		must(t, os.MkdirAll(filepath.Join(h.Dir(), dir), 0o755))
	}
	standIn(t, "/dev/vfio/vfio")
	for i := range standIns {
		standIn(t, fmt.Sprintf("/dev/vfio/%d", i))
	}
	return h
}

// standIn makes a device node: the container runtime demands one for each that a container is given, and the look-alike host's are plain files. It
// is the kernel's log, which a container may open only when the node was given to it, and whose opening does nothing.
func standIn(t *testing.T, path string) {
	t.Helper()
	device(t, path, 1, 11)
}

// device makes a device node, if there is none.
func device(t *testing.T, path string, major, minor uint32) {
	t.Helper()
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatalf("make %s: %v", path, err)
	}
}

// paths says where a pod finds this host in place of the node.
func (h *host) paths() map[string]string {
	return map[string]string{"/sys": h.Sysfs(), "/dev": h.Dev()}
}

// add adds a PF with 16 VFs, which the plugin has to bind.
func (h *host) add(pf, services string) {
	h.t.Helper()
	must(h.t, h.AddPF(lookalike.PF{Address: pf, Services: services}))
	must(h.t, h.SetVFs(pf, 16))
}

// node is the VFIO node of a VF.
func (h *host) node(vf string) string {
	h.t.Helper()
	group, err := os.Readlink(filepath.Join(h.Path(vf), "iommu_group"))
	must(h.t, err)
	return "/dev/vfio/" + filepath.Base(group)
}
