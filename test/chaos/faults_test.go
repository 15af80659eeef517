// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
)

func faults() []fault {
	return append(fileFaults(),
		fault{name: "no free descriptors", run: noDescriptors},
		fault{name: "kubelet restarts", run: kubeletRestarts},
		fault{name: "kubelet's directory removed", run: kubeletDirRemoved},
		fault{name: "kubelet's directory exchanged behind a link", run: kubeletDirExchanged},
		fault{name: "chmod of kubelet.sock", run: chmodKubeletSock},
		fault{name: "full log pipe", run: fullLog},
		fault{name: "closed log pipe", run: closedLog},
		fault{name: "plugin restarts", run: pluginRestarts},
		fault{name: "overflow of the uevent socket", run: func(t *testing.T, r *rig) { r.overflow(t) }},
		fault{name: "forged and malformed uevents", run: forgedUevents},
		fault{name: "storm of changes", run: storm},
		fault{name: "failed heartbeat", run: failedHeartbeat},
		fault{name: "driver unloaded", run: driverUnloaded},
		fault{name: "removal of a VF that a workload holds", run: heldVF},
		fault{name: "random changes", run: func(t *testing.T, r *rig) {
			randomChanges(t, r, rand.New(rand.NewPCG(*seed, 2)))
		}},
		fault{name: "silent connections to -health-address", run: silentConnections},
		fault{name: "CDI specs deleted", run: specsDeleted},
		fault{name: "driver_override of an administrator", run: reservedVF},
		fault{name: "another agent takes VFs back", run: rivalAgent},
		fault{name: "bind that fails", run: failingBind},
	)
}

// noDescriptors takes the plugin's free descriptors while a VF arrives.
func noDescriptors(t *testing.T, r *rig) {
	pid := r.plugin.cmd.Process.Pid
	var old unix.Rlimit
	must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old))
	must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}, nil))
	must(t, r.host.RemoveVF(victim))
	must(t, r.host.AddVF(lookalike.VF{Address: victim, PF: victimPF}))
	for range 20 { // the kubelet must keep what it has
		if n := len(r.kubelet.Lists()[namespace+"cy"].Devices); n < 15 {
			t.Errorf("%d VFs of the PF while there are no descriptors, want 15 or 16", n)
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &old, nil))
}

// kubeletRestarts restarts the kubelet again and again while VFs come and go.
func kubeletRestarts(t *testing.T, r *rig) {
	for i := range 5 {
		must(t, r.host.SetVFs(victimPF, 0))
		if i%2 == 0 {
			r.kubelet.Kill()
		}
		must(t, r.host.SetVFs(victimPF, 16))
		must(t, r.kubelet.Restart())
	}
}

func kubeletDirRemoved(t *testing.T, r *rig) {
	r.kubelet.Stop()
	must(t, os.RemoveAll(r.kubelet.Dir()))
	must(t, r.host.RemoveVF(victim))
	must(t, r.host.AddVF(lookalike.VF{Address: victim, PF: victimPF}))
	must(t, os.Mkdir(r.kubelet.Dir(), 0o755))
	must(t, r.kubelet.Restart())
}

// kubeletDirExchanged exchanges the kubelet's directory, with the kubelet running and without.
func kubeletDirExchanged(t *testing.T, r *rig) {
	r.linkKubelet()
	must(t, r.kubelet.Restart())
	r.checkWorks(t)
	r.kubelet.Stop()
	r.linkKubelet()
	must(t, r.kubelet.Restart())
}

// chmodKubeletSock changes the mode of the kubelet's socket. The plugin must not take that for a
// restart of the kubelet.
func chmodKubeletSock(t *testing.T, r *rig) {
	before := len(r.kubelet.Registrations())
	for _, mode := range []os.FileMode{0o600, 0o666, 0o755} {
		must(t, os.Chmod(r.kubelet.Socket(), mode))
	}
	r.checkCanary(t)
	if after := len(r.kubelet.Registrations()); after != before {
		t.Errorf("%d registrations after a chmod, want %d", after, before)
	}
}

// fullLog does not read the log while more is logged than the pipe and the plugin hold.
func fullLog(t *testing.T, r *rig) {
	r.plugin.closeLog()
	reader, err := os.OpenFile(r.plugin.fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	must(t, err)
	_, err = unix.FcntlInt(reader.Fd(), unix.F_SETPIPE_SZ, 4096)
	must(t, err)
	for range 5 {
		must(t, r.host.SetVFs(victimPF, 0))
		must(t, r.host.SetVFs(victimPF, 16))
	}
	r.checkCanary(t)
	r.plugin.openLog()
	must(t, reader.Close())
}

// closedLog ends the reader of the log.
func closedLog(t *testing.T, r *rig) {
	r.plugin.closeLog()
	must(t, r.host.SetVFs(victimPF, 0))
	must(t, r.host.SetVFs(victimPF, 16))
	r.checkCanary(t)
	r.plugin.openLog()
}

func pluginRestarts(t *testing.T, r *rig) {
	r.plugin.terminate()
	for _, name := range r.sockets(t) {
		if name != "kubelet.sock" {
			t.Errorf("the plugin left %s behind", name)
		}
	}
	r.startPlugin()
}

// send sends messages to all listeners of uevents in this network namespace. They do not come from
// the kernel, which the plugin must notice.
func send(t *testing.T, messages ...string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	must(t, err)
	defer unix.Close(fd)
	for _, m := range messages {
		err := unix.Sendto(fd, []byte(m), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1})
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
}

// overflow makes the buffer of the plugin's uevent socket overflow.
func (r *rig) overflow(t *testing.T) {
	t.Helper()
	message := "change@/devices/virtual/chaos\x00" + strings.Repeat("A=1\x00", 400)
	must(t, r.plugin.cmd.Process.Signal(syscall.SIGSTOP))
	send(t, slices.Repeat([]string{message}, 20_000)...)
	must(t, r.plugin.cmd.Process.Signal(syscall.SIGCONT))
	eventually(t, canaryTimeout, "a full read after the overflow", func() string {
		if !strings.Contains(r.plugin.text(), "uevent socket overflow") {
			return "nothing in the log"
		}
		return ""
	})
}

func forgedUevents(t *testing.T, r *rig) {
	before := describe(r.kubelet)
	devpath := "/devices/pci0000:6b/" + victim
	valid := "remove@" + devpath + "\x00ACTION=remove\x00DEVPATH=" + devpath +
		"\x00SUBSYSTEM=pci\x00PCI_ID=8086:4941\x00PCI_SLOT_NAME=" + victim + "\x00SEQNUM=1\x00"
	messages := []string{
		"\x00", "@", "remove@\x00", "remove@" + devpath, valid, valid[:40], strings.Repeat("\x00", 5000),
		strings.Replace(valid, "SEQNUM=1", "ERROR_EVENT=BEGIN_RECOVERY", 1),
		valid + strings.Repeat("X=1\x00", 10_000), "libudev\x00\xfe\xed\xca\xfe" + strings.Repeat("\x00", 40),
	}
	for range 100 {
		send(t, messages...)
	}
	if after := describe(r.kubelet); after != before {
		t.Errorf("lists after forged uevents:\n%s\nbefore:\n%s", after, before)
	}
}

// storm makes all VFs of the victim PF come and go.
func storm(t *testing.T, r *rig) {
	for range 10 {
		must(t, r.host.SetVFs(victimPF, 0))
		must(t, r.host.SetVFs(victimPF, 16))
	}
}

func specsDeleted(t *testing.T, r *rig) {
	specs := func() map[string]string {
		texts := map[string]string{}
		names, _ := filepath.Glob(filepath.Join(r.cdiDir, "*"))
		for _, name := range names {
			text, _ := os.ReadFile(name)
			texts[name] = string(text)
		}
		return texts
	}
	before := specs()
	if len(before) == 0 {
		t.Error("there are no CDI specs")
	}
	for name := range before {
		must(t, os.Remove(name))
	}
	eventually(t, recoverTimeout, "the CDI specs as before", func() string {
		if now := specs(); !maps.Equal(now, before) {
			return fmt.Sprintf("%d files, want %d", len(now), len(before))
		}
		return ""
	})
}

// reservedVF reserves a VF through driver_override, as an administrator does, and later ends the
// reservation.
func reservedVF(t *testing.T, r *rig) {
	must(t, r.host.Unbind(victim))
	must(t, r.host.SetAttr(victim, "driver_override", "none"))
	time.Sleep(100 * time.Millisecond)
	r.checkCanary(t)
	text, err := os.ReadFile(r.file(victim, "driver_override"))
	if err != nil || strings.TrimSpace(string(text)) != "none" {
		t.Errorf("driver_override is %q (%v), want the administrator's none", text, err)
	}
	must(t, r.host.SetAttr(victim, "driver_override", "(null)"))
	r.wantVictim(t)
}

// rivalAgent unbinds a VF whenever the plugin has bound it.
func rivalAgent(t *testing.T, r *rig) {
	lists := r.kubelet.Lists()[namespace+"cy"].Seq
	taken := 0
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if slices.Contains(r.host.Bound("vfio-pci"), victim) {
			must(t, r.host.Unbind(victim))
			taken++
		}
	}
	lists = r.kubelet.Lists()[namespace+"cy"].Seq - lists
	t.Logf("the VF was bound %d times, %d lists", taken, lists)
	if taken > 8 || lists > 24 {
		t.Errorf("in 2 s, the VF was bound %d times and the kubelet had %d lists", taken, lists)
	}
	r.checkCanary(t)
	r.renewVictim(t)
}

// failingBind makes the kernel refuse to bind a VF for a moment.
func failingBind(t *testing.T, r *rig) {
	r.host.FailBind(victim, unix.EIO)
	must(t, r.host.RemoveVF(victim))
	must(t, r.host.AddVF(lookalike.VF{Address: victim, PF: victimPF}))
	time.Sleep(200 * time.Millisecond)
	r.checkCanary(t)
	r.host.FailBind(victim, nil)
	r.renewVictim(t)
}

// renewVictim recreates the victim, which ends every back-off.
func (r *rig) renewVictim(t *testing.T) {
	t.Helper()
	must(t, r.host.RemoveVF(victim))
	must(t, r.host.AddVF(lookalike.VF{Address: victim, PF: victimPF}))
	r.wantVictim(t)
}

// wantVictim waits until the victim is listed as healthy.
func (r *rig) wantVictim(t *testing.T) {
	t.Helper()
	eventually(t, recoverTimeout, "the victim healthy", func() string {
		list := r.kubelet.Lists()[namespace+"cy"]
		if health := list.Health(victim); health != "Healthy" {
			return "it is " + strconv.Quote(health)
		}
		return ""
	})
}
