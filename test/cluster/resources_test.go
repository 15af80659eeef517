package cluster

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"qatplugin/internal/lookalike"
)

// idle is how long the plugin is watched while nothing happens.
const idle = 15 * time.Second

// What the base's container uses is measured, so that its resources can be set, and must stay well below its limit.
func TestTheLimitIsFarFromWhatIsUsed(t *testing.T) {
	var table strings.Builder
	fmt.Fprintf(&table, "%5s  %-26s %9s %9s %9s %9s %9s %12s\n", "VFs", "", "group", "peak", "anon", "file", "VmHWM", "CPU")
	row := func(vfs int, what string, u usage, cpu string) {
		fmt.Fprintf(&table, "%5d  %-26s %v %12s\n", vfs, what, u, cpu)
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
			var pfs []string
			for i := range size.pfs {
				size.pf.Address = fmt.Sprintf("0000:%02x:00.0", 0x10+2*i)
				must(t, h.AddPF(size.pf))
				pfs = append(pfs, size.pf.Address)
			}
			setAll := func(vfs int) {
				for _, pf := range pfs {
					must(t, h.SetVFs(pf, vfs))
				}
				n.offers(map[string]int64{size.resource: int64(vfs * size.pfs)})
			}
			for _, pf := range pfs {
				must(t, h.SetVFs(pf, size.vfs/size.pfs))
			}
			in := n.install("qat_plugin", h.paths())
			pod := in.ready()
			n.offers(map[string]int64{size.resource: int64(size.vfs)})
			begun := n.usage(pod)
			row(size.vfs, "all bound and listed", begun, fmt.Sprintf("%.0f ms", ms(begun.cpu)))
			quiet := time.NewTimer(idle)
			<-quiet.C
			rested := n.usage(pod)
			row(size.vfs, fmt.Sprintf("%.0f s of nothing", idle.Seconds()), rested, fmt.Sprintf("%.1f ms/s", ms(rested.cpu-begun.cpu)/idle.Seconds()))
			for range 3 {
				setAll(0)
				setAll(size.vfs / size.pfs)
			}
			churned := n.usage(pod)
			row(size.vfs, "all removed and made, 3×", churned, fmt.Sprintf("%.0f ms", ms(churned.cpu-rested.cpu)))

			limit := pod.Spec.Containers[0].Resources.Limits.Memory().Value()
			if most := max(churned.peak, churned.highest); most > limit*3/4 {
				t.Errorf("with %d VFs the container took up to %d KiB; its limit is %d KiB", size.vfs, most>>10, limit>>10)
			}
		})
	}
	t.Logf("the plugin's container, memory in KiB (group, peak: of its control group; anon, file: parts of its resident set):\n%s", table.String())
}

// usage is what a container has used.
type usage struct {
	group, peak         int64 // bytes, of its control group, now and at most
	anon, file, highest int64 // bytes, of its process: RssAnon, RssFile and RssShmem (the image is in memory here), VmHWM
	cpu                 time.Duration
}

func (u usage) String() string {
	return fmt.Sprintf("%9d %9d %9d %9d %9d", u.group>>10, u.peak>>10, u.anon>>10, u.file>>10, u.highest>>10)
}

func (n *node) usage(pod *corev1.Pod) usage {
	n.t.Helper()
	process := n.process(pod)
	status := fields(n.t, "/proc/"+pid(process)+"/status")
	u := usage{
		anon: status["RssAnon:"] << 10, file: (status["RssFile:"] + status["RssShmem:"]) << 10, highest: status["VmHWM:"] << 10,
	}
	if group, v2 := controlGroup(n.t, process, ""); v2 {
		u.group, u.peak = number(n.t, group+"/memory.current"), number(n.t, group+"/memory.peak")
		u.cpu = time.Duration(fields(n.t, group+"/cpu.stat")["usage_usec"]) * time.Microsecond
		return u
	}
	group, _ := controlGroup(n.t, process, "memory")
	u.group, u.peak = number(n.t, group+"/memory.usage_in_bytes"), number(n.t, group+"/memory.max_usage_in_bytes")
	group, _ = controlGroup(n.t, process, "cpuacct")
	u.cpu = time.Duration(number(n.t, group+"/cpuacct.usage"))
	return u
}

// controlGroup is the directory of a process's control group: in the hierarchy of a controller of version 1, or in that of version 2.
func controlGroup(t *testing.T, process int, controller string) (dir string, found bool) {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid(process) + "/cgroup")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || parts[1] != controller {
			continue
		}
		dir := filepath.Join("/sys/fs/cgroup", controller, parts[2])
		if _, err := os.Stat(filepath.Join(dir, "memory.current")); controller == "" && err != nil {
			return "", false // a hierarchy of version 2 without controllers, beside those of version 1
		}
		return dir, true
	}
	return "", false
}

func number(t *testing.T, file string) int64 {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	must(t, err)
	return n
}

// fields reads a file with a name and a number on each line; what is no number is left out.
func fields(t *testing.T, file string) map[string]int64 {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	values := map[string]int64{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) >= 2 {
			if n, err := strconv.ParseInt(words[1], 10, 64); err == nil {
				values[words[0]] = n
			}
		}
	}
	return values
}

func pid(process int) string { return strconv.Itoa(process) }
