// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qatplugin/internal/testenv"
)

// recordHeaders records the header of each uevent from now on.
func recordHeaders(h *Host) *[]string {
	var headers []string
	h.Uevents(func(m []byte) {
		header, _, _ := strings.Cut(string(m), "\x00")
		headers = append(headers, header)
	})
	return &headers
}

func TestUeventOrder(t *testing.T) {
	const (
		pf  = "/devices/pci0000:6b/" + pf0
		vf  = "/devices/pci0000:6b/" + vf0
		vf2 = "/devices/pci0000:6b/" + vf1
	)
	setVFs := func(n int) func(*Host) error {
		return func(h *Host) error { return h.SetVFs(pf0, n) }
	}
	bind := func(h *Host) error { return h.Bind(vf0, "vfio-pci") }
	for _, c := range []struct {
		name   string
		before []func(*Host) error
		do     []func(*Host) error
		want   []string
		fails  bool
	}{
		{
			name: "two VFs created",
			do:   []func(*Host) error{setVFs(2)},
			want: []string{"add@" + vf, "change@" + vf, "add@" + vf2, "change@" + vf2, "change@" + pf},
		},
		{
			name:   "VFs removed, without an event of the PF",
			before: []func(*Host) error{setVFs(2)},
			do:     []func(*Host) error{setVFs(0)},
			want:   []string{"remove@" + vf2, "remove@" + vf},
		},
		{
			name:   "bound to vfio-pci",
			before: []func(*Host) error{setVFs(1)},
			do:     []func(*Host) error{bind},
			want:   []string{"add@/devices/virtual/vfio/1", "add@" + vf + "/vfio-dev/vfio0", "bind@" + vf},
		},
		{
			name:   "bound VF removed",
			before: []func(*Host) error{setVFs(1), bind},
			do:     []func(*Host) error{setVFs(0)},
			want: []string{
				"remove@" + vf + "/vfio-dev/vfio0", "remove@/devices/virtual/vfio/1",
				"unbind@" + vf, "remove@" + vf,
			},
		},
		{
			name: "failed bind is silent",
			before: []func(*Host) error{setVFs(1), func(h *Host) error {
				h.FailBind(vf0, unix.EINVAL)
				return nil
			}},
			do:    []func(*Host) error{bind},
			fails: true,
		},
		{
			name: "PF removed by surprise and added again",
			do: []func(*Host) error{
				func(h *Host) error { return h.RemovePF(pf0) },
				func(h *Host) error { return h.AddPF(PF{Address: pf0, Services: "dc"}) },
			},
			want: []string{"unbind@" + pf, "remove@" + pf, "add@" + pf, "bind@" + pf},
		},
		{
			name: "changes by the driver are silent",
			do: []func(*Host) error{
				func(h *Host) error { return h.SetState(pf0, "down") },
				func(h *Host) error { return h.SetService(pf0, "dc") },
				func(h *Host) error { return h.SetState(pf0, "up") },
				func(h *Host) error { return h.SetHeartbeat(pf0, "-1") },
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, nil, PF{Address: pf0, Services: "sym;asym"})
			for _, step := range c.before {
				must(t, step(h))
			}
			got := recordHeaders(h)
			for _, step := range c.do {
				if err := step(h); (err != nil) != c.fails {
					t.Fatalf("got error %v, want an error: %t", err, c.fails)
				}
			}
			equal(t, "uevents", c.want, *got)
		})
	}
}

func TestNumberOfUevents(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0, Services: "sym;asym"})
	got := recordHeaders(h)
	must(t, h.SetVFs(pf0, 16))
	equal(t, "16 VFs created", 33, len(*got))
	*got = nil
	for _, vf := range h.VFs(pf0) {
		must(t, h.Bind(vf, "vfio-pci"))
	}
	equal(t, "16 VFs bound", 48, len(*got))
	*got = nil
	must(t, h.SetState(pf0, "down"))
	equal(t, "16 bound VFs removed", 64, len(*got))
}

func TestUeventMessages(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 1))
	var got []string
	h.Uevents(func(m []byte) { got = append(got, string(m)) })
	seq := h.seqnum
	must(t, h.Bind(vf0, "vfio-pci"))
	must(t, h.Change(vf0, "ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0"))
	must(t, h.Unbind(vf0))
	const pci = "PCI_CLASS=B4000\x00PCI_ID=8086:4941\x00PCI_SUBSYS_ID=8086:0000\x00" +
		"PCI_SLOT_NAME=0000:6b:00.1\x00"
	const alias = "MODALIAS=pci:v00008086d00004941sv00008086sd00000000bc0Bsc40i00\x00"
	const vf = "/devices/pci0000:6b/0000:6b:00.1"
	message := func(action, devpath, rest string) string {
		seq++
		return fmt.Sprintf("%s@%s\x00ACTION=%[1]s\x00DEVPATH=%[2]s\x00%sSEQNUM=%d\x00", action, devpath, rest, seq)
	}
	const group = "SUBSYSTEM=vfio\x00MAJOR=511\x00MINOR=1\x00DEVNAME=vfio/1\x00"
	const bound = "DRIVER=vfio-pci\x00" + pci + alias
	equal(t, "messages", []string{
		message("add", "/devices/virtual/vfio/1", group),
		message("add", vf+"/vfio-dev/vfio0", "SUBSYSTEM=vfio-dev\x00"),
		message("bind", vf, "SUBSYSTEM=pci\x00"+bound),
		message("change", vf, "SUBSYSTEM=pci\x00ERROR_EVENT=BEGIN_RECOVERY\x00DEVICE_ONLINE=0\x00"+bound),
		message("remove", vf+"/vfio-dev/vfio0", "SUBSYSTEM=vfio-dev\x00"),
		message("remove", "/devices/virtual/vfio/1", group),
		message("unbind", vf, "SUBSYSTEM=pci\x00"+pci),
	}, got)
}

// TestStateAtUevent checks what a reader finds that looks at the moment of an event.
func TestStateAtUevent(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0})
	files := map[string]string{
		"1 link":      h.Path(vf0),
		"2 directory": h.sys("devices/pci0000:6b", vf0),
		"3 group":     filepath.Join(h.Path(vf0), "iommu_group"),
		"4 physfn":    filepath.Join(h.Path(vf0), "physfn"),
		"5 driver":    filepath.Join(h.Path(vf0), "driver"),
		"6 node":      h.dev("vfio/1"),
		"7 vfio-dev":  filepath.Join(h.Path(vf0), "vfio-dev"),
	}
	var got []string
	h.Uevents(func(m []byte) {
		header, _, _ := strings.Cut(string(m), "\x00")
		action, devpath, _ := strings.Cut(header, "@")
		var there []string
		for name, file := range files {
			if exists(file) {
				there = append(there, name)
			}
		}
		slices.Sort(there)
		got = append(got, action+" "+filepath.Base(devpath)+": "+strings.Join(there, ", "))
	})
	must(t, h.SetVFs(pf0, 1))
	must(t, h.Bind(vf0, "vfio-pci"))
	must(t, h.SetVFs(pf0, 0))
	equal(t, "uevents", []string{
		"add 0000:6b:00.1: 1 link, 2 directory, 3 group",
		"change 0000:6b:00.1: 1 link, 2 directory, 3 group, 4 physfn",
		"change 0000:6b:00.0: 1 link, 2 directory, 3 group, 4 physfn",
		"add 1: 1 link, 2 directory, 3 group, 4 physfn, 5 driver, 6 node",
		"add vfio0: 1 link, 2 directory, 3 group, 4 physfn, 5 driver, 6 node, 7 vfio-dev",
		"bind 0000:6b:00.1: 1 link, 2 directory, 3 group, 4 physfn, 5 driver, 6 node, 7 vfio-dev",
		"remove vfio0: 1 link, 2 directory, 3 group, 6 node, 7 vfio-dev",
		"remove 1: 1 link, 2 directory, 3 group",
		"unbind 0000:6b:00.1: 1 link, 2 directory, 3 group",
		"remove 0000:6b:00.1: 2 directory",
	}, got)
}

func TestFormatAddressIsInverseOfParseAddress(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.IntRange(0, 0xffff).Draw(t, "id")
		domain, got, err := parseAddress(formatAddress("0000", id))
		if err != nil || domain != "0000" || got != id {
			t.Fatalf("%s: got %s %x %v, want 0000 %x", formatAddress("0000", id), domain, got, err, id)
		}
	})
	for _, bad := range []string{
		"", "6b:00.0", "0000:6b:00", "0000:6b:20.0", "0000:6b:00.8", "0000:6B:00.0", "0000:6b:00.0 ",
	} {
		if _, _, err := parseAddress(bad); err == nil {
			t.Errorf("parseAddress(%q): no error", bad)
		}
	}
}

// TestVariablesAreThoseOfTheKernel compares a message with one of this machine's kernel. The write
// that requests it changes nothing.
func TestVariablesAreThoseOfTheKernel(t *testing.T) {
	files, _ := filepath.Glob("/sys/bus/pci/devices/*/uevent")
	if os.Getuid() != 0 || len(files) == 0 {
		testenv.Skip(t, "requesting a uevent needs root and a PCI bus")
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}))
	tv := unix.Timeval{Sec: 5}
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	if err := os.WriteFile(files[0], []byte("change"), 0); err != nil {
		testenv.Skip(t, "sysfs is not writable: "+err.Error())
	}
	address := filepath.Base(filepath.Dir(files[0]))
	buf := make([]byte, 16<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			testenv.Skip(t, "no kernel uevents in this network namespace: "+err.Error())
		}
		if real := string(buf[:n]); strings.Contains(real, "PCI_SLOT_NAME="+address+"\x00") {
			var ours string
			h := newHost(t, nil)
			h.Uevents(func(m []byte) { ours = string(m) })
			must(t, h.AddVF(VF{Address: vf0}))
			if diff := cmp.Diff(keys(real), keys(ours)); diff != "" {
				t.Errorf("variables of a message (-kernel +ours):\n%s", diff)
			}
			return
		}
	}
}

// keys returns the names of a message's variables in order, without those that only synthetic
// events or bound functions have.
func keys(message string) []string {
	var names []string
	for _, v := range strings.Split(message, "\x00")[1:] {
		name, _, _ := strings.Cut(v, "=")
		if name != "SYNTH_UUID" && name != "DRIVER" {
			names = append(names, name)
		}
	}
	return names
}
