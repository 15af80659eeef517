// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qatplugin/kubeletapi"
)

// While CDI specs cannot be written, containers get their devices without CDI names. They get CDI
// names as soon as the directory can be written again.
func TestUnwritableCDIDirectory(t *testing.T) {
	remount := func(dir string, flags uintptr) error {
		return unix.Mount("", dir, "", unix.MS_REMOUNT|flags, "")
	}
	for _, test := range []struct {
		name          string
		spoil, repair func(dir string) error
	}{
		{
			"read-only",
			func(dir string) error { return remount(dir, unix.MS_RDONLY) },
			func(dir string) error { return remount(dir, 0) },
		},
		{
			"full",
			fill,
			func(dir string) error { return os.Remove(dir + "/full") },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, p, dir := startNode(t), &fakePlugin{}, t.TempDir()
			must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"))
			t.Cleanup(func() {
				if err := unix.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			})
			must(t, test.spoil(dir))

			tree := p.edit(t, healthyDevices("generic", 4))
			n.startPlugin(p, kubeletapi.WithCDI(dir, "vf"))
			n.wantTree(tree) // the devices are served without a spec
			if names := n.cdiNames(); len(names) > 0 {
				t.Fatalf("the container gets the CDI devices %q, which have no spec", names)
			}
			left := slices.DeleteFunc(list(t, dir), func(name string) bool {
				return name == "full" || strings.HasSuffix(name, ".lock") // of the unwritten spec
			})
			if len(left) > 0 {
				t.Errorf("files left behind: %q", left)
			}
			must(t, test.repair(dir))
			eventually(t, func() error {
				names := n.cdiNames()
				if len(names) != 1 || !strings.HasPrefix(names[0], namespace+"/vf=0000:6b:00.") {
					return fmt.Errorf("the container gets the CDI devices %q, want one", names)
				}
				return nil
			})
		})
	}
}

func fill(dir string) error {
	if err := os.WriteFile(dir+"/full", make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill %s: %w", dir, err)
	}
	return nil
}

// cdiNames returns the CDI names that a container with one device gets. It gets the device nodes in
// any case.
func (n *node) cdiNames() []string {
	n.t.Helper()
	pod := podOf("pod", 1)
	got := n.mustRun(pod, "c")
	defer n.Remove(pod)
	if len(got.DeviceNodes) != 2 {
		n.t.Errorf("the container gets the device nodes %v, want two", got.DeviceNodes)
	}
	return got.CDINames
}
