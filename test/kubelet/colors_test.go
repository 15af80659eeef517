// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"os"
	"path/filepath"
	"testing"

	"qatplugin/devtree"
	"qatplugin/test/kubelet/devicemanager"
)

// TestColors runs the example of docs/writing-a-plugin.md, which shows that kubeletapi serves
// plugins other than that for QAT.
func TestColors(t *testing.T) {
	const yellow = "color.example.com/yellow"
	n, dir := startNode(t), t.TempDir()
	addDevice := func(id string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Join(dir, "yellow"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "yellow", id), nil, 0o644))
	}
	stop := startProgram(t, build(t, "../..", "./examples/colors"), "-dir", dir)
	addDevice("1")
	n.wantCount(yellow, 1, 1)
	addDevice("2")
	n.wantCount(yellow, 2, 2)

	pod := devicemanager.Pod("pod", devicemanager.Container("c", yellow, 1))
	got := n.mustRun(pod, "c")
	file := filepath.Join(dir, "yellow", n.Assigned(pod, "c", yellow)[0])
	want := devtree.Mount{HostPath: file, ContainerPath: file, ReadOnly: true}
	if len(got.Mounts) != 1 || got.Mounts[0] != want {
		t.Errorf("the container's mounts are %v, want %v", got.Mounts, want)
	}

	n.restart()
	n.wantCount(yellow, 2, 2)
	addDevice("3") // a plugin can lose the first change after a restart of the kubelet
	n.wantCount(yellow, 3, 3)
	must(t, os.RemoveAll(filepath.Join(dir, "yellow")))
	n.wantCount(yellow, 0, 0)
	addDevice("1")
	n.wantCount(yellow, 1, 1)
	stop()
	n.wantCount(yellow, 1, 0)
}
