// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"qatplugin/internal/status"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/sysfs"
)

// memlockMin is the locked memory that a small program with one VF needs: 16 MiB for the VF and
// 200 MB for itself (docs/install.md).
const memlockMin = 216 << 20

// checkMemlock checks how much memory a process like this one may lock. VFIO counts the memory that
// a VF can access as locked (drivers/vfio/vfio_iommu_type1.c, vfio_lock_acct).
func checkMemlock(_ context.Context, f *facts) []status.Finding {
	file := filepath.Join(f.host.proc, "self/limits")
	text, err := sysfs.ReadFile(file)
	if err != nil {
		return skip("%v", err)
	}
	for line := range strings.Lines(text) {
		rest, found := strings.CutPrefix(line, "Max locked memory")
		fields := strings.Fields(rest)
		if !found || len(fields) == 0 {
			continue
		}
		limit, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil { // "unlimited"
			return ok("the memory that this process may lock is %s (%s)", fields[0], file)
		}
		if limit >= memlockMin {
			return ok("this process may lock %d bytes of memory (%s)", limit, file)
		}
		return warn("set LimitMEMLOCK=infinity in a drop-in of containerd's or CRI-O's systemd unit and restart it; "+
			"or run workloads as user 0 with the capability IPC_LOCK, and set QAT_POLICY=1 for qatlib",
			"this process may lock %s bytes of memory (%s). If workloads may not lock more, VFIO_MAP_DMA fails with "+
				"ENOMEM", fields[0], file)
	}
	return skip("%s has no limit of locked memory", file)
}

// checkHugepages reports the hugepages, which DPDK needs and qatlib mostly does not.
func checkHugepages(_ context.Context, f *facts) []status.Finding {
	file := filepath.Join(f.host.proc, "meminfo")
	text, err := sysfs.ReadFile(file)
	if err != nil {
		return skip("%v", err)
	}
	values := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, found := strings.Cut(line, ":"); found {
			values[name] = strings.TrimSpace(value)
		}
	}
	total := values["HugePages_Total"]
	if total == "" || total == "0" {
		return ok("no hugepages (%s): a DPDK program that needs them needs vm.nr_hugepages set, or --no-huge", file)
	}
	return ok("%s hugepages of %s, %s free (%s): qatlib since 25.08 and before 26.08 then needs some in its container",
		total, values["Hugepagesize"], values["HugePages_Free"], file)
}

// checkUevents checks that the kernel's uevents reach this process.
func checkUevents(ctx context.Context, f *facts) []status.Finding {
	if f.host.DryRun {
		return skip("a dry run does not ask the kernel for a uevent")
	}
	certain, err := hostwatch.ProbeUevents(ctx, f.host.Sysfs, sysfs.NewWriter(f.host.Sysfs, false), f.listen)
	switch {
	case !certain && err == nil:
		return ok("no sysfs is mounted at %s, so there are no uevents to receive", f.host.Sysfs)
	case !certain:
		return skip("%v", err)
	case err != nil:
		return problem("for a pod: hostUsers: true, and the host's whole /sys mounted at "+f.host.Sysfs, "%v", err)
	}
	return ok("the kernel answered with the uevent that was requested in %s", f.host.Sysfs)
}

// checkInotify checks that inotify instances and watches are left for this user.
func checkInotify(ctx context.Context, f *facts) (findings []status.Finding) {
	dir := filepath.Join(f.host.proc, "sys/fs/inotify")
	instances, watches := inotifyInUse(ctx, f.host.proc)
	var counts []string
	for _, l := range []struct {
		name   string
		inUse  int
		remedy int // the limit to set
	}{{"max_user_instances", instances, 8192}, {"max_user_watches", watches, 524288}} {
		file := filepath.Join(dir, l.name)
		text, err := sysfs.ReadFile(file)
		if err != nil {
			return skip("%v", err)
		}
		limit, err := strconv.Atoi(text)
		if err != nil {
			return skip("%s: %v", file, err)
		}
		count := fmt.Sprintf("at least %d of %d (%s)", l.inUse, limit, file)
		counts = append(counts, count)
		remedy := fmt.Sprintf("sysctl -w fs.inotify.%s=%[2]d; "+
			"echo fs.inotify.%[1]s=%[2]d > /etc/sysctl.d/90-inotify.conf", l.name, max(l.remedy, 2*limit))
		switch {
		case l.inUse >= limit:
			findings = append(findings, problem(remedy, "this user has %s in use", count)...)
		case l.inUse*10 >= limit*9:
			findings = append(findings, warn(remedy, "this user has %s in use", count)...)
		}
	}
	if findings != nil {
		return findings
	}
	return ok("in use by this user: %s", strings.Join(counts, ", "))
}

// inotifyInUse counts the inotify instances and watches of this user, as far as proc shows its
// processes: in a container, only those of the container.
func inotifyInUse(ctx context.Context, proc string) (instances, watches int) {
	processes, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, process := range processes {
		info, err := os.Stat(process)
		if err != nil || ctx.Err() != nil {
			continue
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
			continue
		}
		descriptors, _ := os.ReadDir(filepath.Join(process, "fd"))
		for _, d := range descriptors {
			target, err := os.Readlink(filepath.Join(process, "fd", d.Name()))
			if err != nil || target != "anon_inode:inotify" {
				continue
			}
			instances++
			text, _ := sysfs.ReadText(filepath.Join(process, "fdinfo", d.Name()))
			watches += strings.Count(text, "inotify wd:") // proc_pid_fdinfo(5)
		}
	}
	return instances, watches
}

// checkKubelet checks that the kubelet accepts connections of device plugins.
func checkKubelet(ctx context.Context, f *facts) []status.Finding {
	if f.host.KubeletDir == "" {
		return skip("the directory of kubelet.sock is not known")
	}
	socket := filepath.Join(f.host.KubeletDir, "kubelet.sock")
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	switch {
	case err == nil:
		_ = conn.Close()
		return ok("%s accepts connections", socket)
	case errors.Is(err, os.ErrNotExist):
		return problem("systemctl status kubelet; for a pod: mount the host's /var/lib/kubelet/device-plugins",
			"%s does not exist: the kubelet does not run, or uses another directory", socket)
	case errors.Is(err, os.ErrPermission):
		return skip("%v: run as root", err)
	}
	return problem("systemctl restart kubelet; journalctl -u kubelet", "the kubelet does not answer: %v", err)
}

// checkPlugin checks the health of the plugin and its registrations.
func checkPlugin(_ context.Context, f *facts) (findings []status.Finding) {
	p := f.host.Plugin
	if p == nil {
		return skip("no plugin answers on this host")
	}
	for _, c := range p.Checks {
		if c.Err != "" {
			findings = append(findings, problem("see the plugin's log, and docs/troubleshooting.md about "+c.Name,
				"the plugin is not ready: %s: %s", c.Name, c.Err)...)
		}
	}
	if findings != nil { // they include the registrations
		return findings
	}
	if d := p.DRA; d != nil {
		return ok("the DRA driver %s is ready: %s on %s, %d of %d healthy, %d gone, claims: %d", p.Version, d.Driver,
			d.Pool, d.Healthy, d.Devices, d.Gone, len(d.Claims))
	}
	var resources []string
	for _, r := range p.Resources {
		if r.Phase != status.PhaseWatching {
			findings = append(findings, problem("journalctl -u kubelet | grep "+r.Name,
				"%s: the kubelet does not follow its list: %s %s", r.Name, r.Phase, r.Err)...)
			continue
		}
		resources = append(resources, fmt.Sprintf("%s: %d of %d healthy", r.Name, r.Healthy, r.Devices))
	}
	switch {
	case findings != nil:
		return findings
	case len(resources) == 0:
		return ok("the plugin %s is ready and lists no device", p.Version)
	}
	return ok("the plugin %s is ready: %s", p.Version, strings.Join(resources, ", "))
}
