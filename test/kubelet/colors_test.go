package kubelet

import (
	"os"
	"path/filepath"
	"testing"

	"qatplugin/devtree"
	"qatplugin/test/kubelet/devicemanager"
)

// The example of docs/writing-a-plugin.md, as a program, on the real device manager: the framework serves more than QAT.
func TestColors(t *testing.T) {
	const yellow = "color.example.com/yellow"
	n, dir := startNode(t), t.TempDir()
	touch := func(id string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Join(dir, "yellow"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "yellow", id), nil, 0o644))
	}
	stop := startProgram(t, build(t, "../..", "./examples/colors"), "-dir", dir)
	touch("1")
	n.wantCount(yellow, 1, 1)
	touch("2")
	n.wantCount(yellow, 2, 2)

	pod := devicemanager.Pod("pod", devicemanager.Container("c", yellow, 1))
	got := n.mustRun(pod, "c")
	file := filepath.Join(dir, "yellow", n.Assigned(pod, "c", yellow)[0])
	if want := (devtree.Mount{HostPath: file, ContainerPath: file, ReadOnly: true}); len(got.Mounts) != 1 || got.Mounts[0] != want {
		t.Errorf("the container's mounts are %v, want %v", got.Mounts, want)
	}

	n.restart()
	n.wantCount(yellow, 2, 2)
	touch("3") // the change after a restart is the one that other frameworks lose
	n.wantCount(yellow, 3, 3)
	must(t, os.RemoveAll(filepath.Join(dir, "yellow")))
	n.wantCount(yellow, 0, 0)
	touch("1")
	n.wantCount(yellow, 1, 1)
	stop()
	n.wantCount(yellow, 1, 0)
}
