// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fileFaults are about files that never answer, that are huge, and directories that cannot be
// listed.
func fileFaults() []fault {
	list := []fault{
		{name: "huge heartbeat/status", run: hugeHeartbeat, fuse: true},
		{name: "PCI devices cannot be listed", run: unlistedDevices, fuse: true},
		{name: "bind that never ends", run: stuckBind, fuse: true},
	}
	for _, f := range []struct{ name, address, file, text string }{
		{"numa_node", victimPF, "numa_node", "0\n"},
		{"qat/state", victimPF, "qat/state", "up\n"},
		{"qat/cfg_services", victimPF, "qat/cfg_services", "sym;asym\n"},
		{"a VF's numa_node", victim, "numa_node", "0\n"},
	} {
		list = append(list, fault{name: f.name + " never answers", fuse: true, run: func(t *testing.T, r *rig) {
			r.stuck(t, r.file(f.address, f.file), f.text)
		}})
	}
	return append(list,
		fault{name: "dev_cfg never answers", fuse: true, run: stuckDevCfg},
		fault{name: "heartbeat/status never answers", fuse: true, run: func(t *testing.T, r *rig) {
			r.stuck(t, r.debugfs("heartbeat/status"), "0\n")
		}},
	)
}

// stuck replaces a file by one that never answers, checks that everything else goes on meanwhile,
// and restores it.
func (r *rig) stuck(t *testing.T, path, text string) {
	file, target := r.odd.newStuckFile(t, text, false)
	restore := exchange(t, path, target)
	file.await(t)
	r.checkCanary(t)
	r.checkEnd(t)
	file.checkThreads(t)
	restore()
	file.release()
}

// stuckDevCfg is for a driver without cfg_services, which makes the plugin read dev_cfg.
func stuckDevCfg(t *testing.T, r *rig) {
	must(t, r.host.RemoveAttr(victimPF, "qat/cfg_services"))
	r.stuck(t, r.debugfs("dev_cfg"), "[GENERAL]\nServicesEnabled = sym;asym\n")
	must(t, r.host.SetAttr(victimPF, "qat/cfg_services", "sym;asym"))
}

// hugeHeartbeat makes heartbeat/status 256 MiB large.
func hugeHeartbeat(t *testing.T, r *rig) {
	before, huge := r.plugin.usage(), &hugeFile{}
	restore := exchange(t, r.debugfs("heartbeat/status"), r.odd.add(huge, fuse.S_IFREG))
	eventually(t, canaryTimeout, "two heartbeats", func() string {
		if now := r.plugin.usage(); now.resident > before.resident+(48<<10) {
			t.Fatalf("resident memory grew from %d to %d KiB", before.resident, now.resident)
		}
		if huge.reads.Load() < 2 {
			return "the file is not read"
		}
		return ""
	})
	r.checkCanary(t)
	restore()
}

// unlistedDevices makes the directory of PCI devices one that cannot be listed, and makes the
// plugin read the whole host meanwhile.
func unlistedDevices(t *testing.T, r *rig) {
	dir, bad := filepath.Join(r.host.Sysfs(), "bus/pci/devices"), &badDir{}
	before := describe(r.kubelet)
	must(t, unix.Mount(r.odd.add(bad, fuse.S_IFDIR), dir, "", unix.MS_BIND, ""))
	unmount := sync.OnceFunc(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	defer unmount()
	r.overflow(t)
	eventually(t, canaryTimeout, "a look at the directory of PCI devices", func() string {
		if bad.lists.Load() == 0 {
			return "it was not read"
		}
		return ""
	})
	if now := describe(r.kubelet); now != before {
		t.Errorf("lists while PCI devices cannot be listed:\n%s\nbefore:\n%s", now, before)
	}
	unmount()
}

// stuckBind makes the first write of a binding block.
func stuckBind(t *testing.T, r *rig) {
	file, target := r.odd.newStuckFile(t, "(null)\n", true)
	// none keeps the plugin away until the file is there.
	must(t, r.host.SetAttr(victim, "driver_override", "none"))
	must(t, r.host.Unbind(victim))
	restore := exchange(t, r.file(victim, "driver_override"), target)
	file.await(t)
	r.checkCanary(t)
	r.checkEnd(t)
	r.plugin.terminate()
	r.startPlugin()
	file.await(t)
	file.checkThreads(t)
	restore()
	file.release()
	r.renewVictim(t)
}
