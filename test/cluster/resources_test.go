// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"qatplugin/internal/lookalike"
)

// TestMemoryStaysBelowLimit measures the plugin's container of the base, to show what its
// resources should be, and checks that its memory stays below three quarters of the
// limit.
func TestMemoryStaysBelowLimit(t *testing.T) {
	const idle = 15 * time.Second
	var table strings.Builder
	fmt.Fprintf(&table, "%5s  %-26s %9s %9s %9s %9s %9s %12s\n",
		"VFs", "", "group", "peak", "anon", "file", "VmHWM", "CPU")
	row := func(vfs int, step string, u usage, cpu string) {
		fmt.Fprintf(&table, "%5d  %-26s %v %12s\n", vfs, step, u, cpu)
	}
	for _, size := range []struct {
		vfs, pfs int
		pf       lookalike.PF
		resource string
	}{
		{64, 4, lookalike.PF{DeviceID: "4940", Services: "sym;asym"}, cy},
		{1024, 8, lookalike.PF{DeviceID: "18a0"}, prefix + "generic"},
	} {
		t.Run(strconv.Itoa(size.vfs), func(t *testing.T) {
			n := openNode(t)
			h := startHost(t)
			setVFs := func(vfsPerPF int) {
				for i := range size.pfs {
					must(t, h.SetVFs(pfAddress(i), vfsPerPF))
				}
			}
			for i := range size.pfs {
				size.pf.Address = pfAddress(i)
				must(t, h.AddPF(size.pf))
			}
			setVFs(size.vfs / size.pfs)
			in := n.install("qat_plugin", h.hostPaths())
			pod := in.awaitReady()
			n.awaitResources(resources{size.resource: int64(size.vfs)})
			started := n.usage(pod)
			row(size.vfs, "all bound and listed", started, fmt.Sprintf("%.0f ms", ms(started.cpu)))

			time.Sleep(idle)
			rested := n.usage(pod)
			row(size.vfs, fmt.Sprintf("idle for %.0f s", idle.Seconds()), rested,
				fmt.Sprintf("%.1f ms/s", ms(rested.cpu-started.cpu)/idle.Seconds()))

			for range 3 {
				setVFs(0)
				n.awaitResources(resources{size.resource: 0})
				setVFs(size.vfs / size.pfs)
				n.awaitResources(resources{size.resource: int64(size.vfs)})
			}
			churned := n.usage(pod)
			row(size.vfs, "removed and created, 3×", churned, fmt.Sprintf("%.0f ms", ms(churned.cpu-rested.cpu)))

			limit := pod.Spec.Containers[0].Resources.Limits.Memory().Value()
			if most := max(churned.peak, churned.highest); most > limit*3/4 {
				t.Errorf("with %d VFs the container used up to %d KiB; its limit is %d KiB",
					size.vfs, most>>10, limit>>10)
			}
		})
	}
	t.Logf("memory of the container in KiB (group, peak: control group; anon, file: resident set):\n%s", &table)
}

func pfAddress(i int) string { return fmt.Sprintf("0000:%02x:00.0", 0x10+2*i) }

// usage is what a container has used.
type usage struct {
	group, peak         int64 // bytes in its control group, now and at most
	anon, file, highest int64 // bytes of its process: RssAnon, RssFile+RssShmem (the image is in memory), VmHWM
	cpu                 time.Duration
}

func (u usage) String() string {
	return fmt.Sprintf("%9d %9d %9d %9d %9d", u.group>>10, u.peak>>10, u.anon>>10, u.file>>10, u.highest>>10)
}

func (n *node) usage(pod *corev1.Pod) usage {
	n.t.Helper()
	pid := n.process(pod)
	status := readFields(n.t, procFile(pid, "status"))
	u := usage{
		anon:    status["RssAnon:"] << 10,
		file:    (status["RssFile:"] + status["RssShmem:"]) << 10,
		highest: status["VmHWM:"] << 10,
	}
	if group, ok := controlGroup(n.t, pid, ""); ok {
		u.group, u.peak = readNumber(n.t, group, "memory.current"), readNumber(n.t, group, "memory.peak")
		u.cpu = time.Duration(readFields(n.t, group, "cpu.stat")["usage_usec"]) * time.Microsecond
		return u
	}
	group, _ := controlGroup(n.t, pid, "memory")
	u.group = readNumber(n.t, group, "memory.usage_in_bytes")
	u.peak = readNumber(n.t, group, "memory.max_usage_in_bytes")
	group, _ = controlGroup(n.t, pid, "cpuacct")
	u.cpu = time.Duration(readNumber(n.t, group, "cpuacct.usage"))
	return u
}

// controlGroup returns the directory of a process's control group in the hierarchy of a
// controller of version 1, or of version 2 if controller is empty.
func controlGroup(t *testing.T, pid int, controller string) (dir string, ok bool) {
	t.Helper()
	for line := range strings.SplitSeq(readFile(t, procFile(pid, "cgroup")), "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 || parts[1] != controller {
			continue
		}
		dir := filepath.Join("/sys/fs/cgroup", controller, parts[2])
		// Beside hierarchies of version 1 there may be one of version 2 without
		// controllers.
		_, err := os.Stat(filepath.Join(dir, "memory.current"))
		return dir, controller != "" || !errors.Is(err, fs.ErrNotExist)
	}
	return "", false
}

func readNumber(t *testing.T, elements ...string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(readFile(t, elements...)), 10, 64)
	must(t, err)
	return n
}

// readFields reads a file with a name and a number in each line. It ignores other lines.
func readFields(t *testing.T, elements ...string) map[string]int64 {
	t.Helper()
	values := map[string]int64{}
	for line := range strings.SplitSeq(readFile(t, elements...), "\n") {
		if words := strings.Fields(line); len(words) >= 2 {
			if n, err := strconv.ParseInt(words[1], 10, 64); err == nil {
				values[words[0]] = n
			}
		}
	}
	return values
}
