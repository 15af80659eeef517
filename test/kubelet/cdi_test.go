package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"qatplugin/kubeletapi"
	"qatplugin/test/kubelet/devicemanager"
)

// What a container runtime is handed by the kubelet, while the directory of the specs is full or read-only, and afterwards.
func TestCDIDirectoryThatCannotBeWritten(t *testing.T) {
	for _, tt := range []struct {
		name        string
		spoil, heal func(dir string) error
	}{
		{"read-only",
			func(dir string) error { return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") },
			func(dir string) error { return unix.Mount("", dir, "", unix.MS_REMOUNT, "") }},
		{"full", fill, func(dir string) error { return os.Remove(dir + "/full") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, p, dir := startNode(t), &fakePlugin{}, t.TempDir()
			must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"))
			t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
			must(t, tt.spoil(dir))

			tree := p.edit(t, healthyDevices("generic", 4))
			ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), klog.Background()))
			done := make(chan error, 1)
			go func() { done <- kubeletapi.NewManager(namespace, p, kubeletapi.WithCDI(dir, "vf")).Run(ctx) }()
			defer func() {
				cancel()
				must(t, <-done)
			}()
			n.wantTree(tree) // it is served all the same
			if got := n.given(t); len(got) > 0 {
				t.Fatalf("the container is given the CDI devices %q, which have no spec", got)
			}
			if left := slices.DeleteFunc(list(t, dir), func(name string) bool { return name == "full" }); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			must(t, tt.heal(dir))
			eventually(t, func() error {
				if got := n.given(t); len(got) != 1 || !strings.HasPrefix(got[0], namespace+"/vf=0000:6b:00.") {
					return fmt.Errorf("the container is given the CDI devices %q, want one", got)
				}
				return nil
			})
		})
	}
}

func fill(dir string) error {
	if err := os.WriteFile(dir+"/full", make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("filling it up: %w", err)
	}
	return nil
}

// given are the CDI devices of a container with one device. The device and its node are there with or without them.
func (n *node) given(t *testing.T) []string {
	t.Helper()
	pod := devicemanager.Pod("pod", devicemanager.Container("c", generic, 1))
	got := n.mustRun(pod, "c")
	defer n.Remove(pod)
	if len(got.DeviceNodes) != 2 {
		t.Errorf("the container is given the nodes %v", got.DeviceNodes)
	}
	return got.CDINames
}
