package lookalike

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qatplugin/internal/testenv"
)

// record keeps the headers of all events from now on.
func record(h *Host) *[]string {
	var headers []string
	h.Uevents(func(m []byte) {
		header, _, _ := strings.Cut(string(m), "\x00")
		headers = append(headers, header)
	})
	return &headers
}

func TestUeventsComeInTheKernelsOrder(t *testing.T) {
	const vf, pf = "/devices/pci0000:6b/0000:6b:00.1", "/devices/pci0000:6b/0000:6b:00.0"
	second := "/devices/pci0000:6b/0000:6b:00.2"
	for _, c := range []struct {
		name      string
		before    func(h *Host) error
		do        func(h *Host) error
		want      []string
		wantFails bool
	}{
		{"two VFs made", nil, func(h *Host) error { return h.SetVFs(pf0, 2) },
			[]string{"add@" + vf, "change@" + vf, "add@" + second, "change@" + second, "change@" + pf}, false},
		{"VFs removed, and no event of the PF", func(h *Host) error { return h.SetVFs(pf0, 2) }, func(h *Host) error { return h.SetVFs(pf0, 0) },
			[]string{"remove@" + second, "remove@" + vf}, false},
		{"bound to vfio-pci", func(h *Host) error { return h.SetVFs(pf0, 1) }, func(h *Host) error { return h.Bind(vf0, "vfio-pci") },
			[]string{"add@/devices/virtual/vfio/1", "add@" + vf + "/vfio-dev/vfio0", "bind@" + vf}, false},
		{"a bound VF removed", bound, func(h *Host) error { return h.SetVFs(pf0, 0) },
			[]string{"remove@" + vf + "/vfio-dev/vfio0", "remove@/devices/virtual/vfio/1", "unbind@" + vf, "remove@" + vf}, false},
		{"a bind that fails is silent", func(h *Host) error { h.FailBind(vf0, unix.EINVAL); return h.SetVFs(pf0, 1) },
			func(h *Host) error { return h.Bind(vf0, "vfio-pci") }, nil, true},
		{"a PF removed by surprise, and back", nil, func(h *Host) error {
			if err := h.RemovePF(pf0); err != nil {
				return err
			}
			return h.AddPF(PF{Address: pf0, Services: "dc"})
		}, []string{"unbind@" + pf, "remove@" + pf, "add@" + pf, "bind@" + pf}, false},
		{"the driver's own changes are silent", nil, func(h *Host) error {
			return firstError(h.SetState(pf0, "down"), h.SetService(pf0, "dc"), h.SetState(pf0, "up"), h.SetHeartbeat(pf0, "-1"))
		}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, nil, PF{Address: pf0, Services: "sym;asym"})
			if c.before != nil {
				must(t, c.before(h))
			}
			got := record(h)
			if err := c.do(h); (err != nil) != c.wantFails {
				t.Fatalf("got error %v, want one: %v", err, c.wantFails)
			}
			want(t, "events", c.want, *got)
		})
	}
}

func bound(h *Host) error { return firstError(h.SetVFs(pf0, 1), h.Bind(vf0, "vfio-pci")) }

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestThirtyThreeEventsForSixteenVFsAndSixtyFourWhenBoundOnesGo(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0, Services: "sym;asym"})
	got := record(h)
	must(t, h.SetVFs(pf0, 16))
	want(t, "made", 33, len(*got))
	*got = nil
	for _, vf := range h.VFs(pf0) {
		must(t, h.Bind(vf, "vfio-pci"))
	}
	want(t, "bound", 48, len(*got))
	*got = nil
	must(t, h.SetState(pf0, "down"))
	want(t, "removed", 64, len(*got))
}

func TestMessagesToTheByte(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0})
	must(t, h.SetVFs(pf0, 1))
	var got []string
	h.Uevents(func(m []byte) { got = append(got, string(m)) })
	seq := h.seqnum
	must(t, h.Bind(vf0, "vfio-pci"))
	must(t, h.Change(vf0, "ERROR_EVENT=BEGIN_RECOVERY", "DEVICE_ONLINE=0"))
	must(t, h.Unbind(vf0))
	const pci = "PCI_CLASS=B4000\x00PCI_ID=8086:4941\x00PCI_SUBSYS_ID=8086:0000\x00PCI_SLOT_NAME=0000:6b:00.1\x00"
	const alias = "MODALIAS=pci:v00008086d00004941sv00008086sd00000000bc0Bsc40i00\x00"
	const vf = "/devices/pci0000:6b/0000:6b:00.1"
	message := func(action, devpath, rest string) string {
		seq++
		return fmt.Sprintf("%s@%s\x00ACTION=%s\x00DEVPATH=%s\x00%sSEQNUM=%d\x00", action, devpath, action, devpath, rest, seq)
	}
	want(t, "messages", []string{
		message("add", "/devices/virtual/vfio/1", "SUBSYSTEM=vfio\x00MAJOR=511\x00MINOR=1\x00DEVNAME=vfio/1\x00"),
		message("add", vf+"/vfio-dev/vfio0", "SUBSYSTEM=vfio-dev\x00"),
		message("bind", vf, "SUBSYSTEM=pci\x00DRIVER=vfio-pci\x00"+pci+alias),
		message("change", vf, "SUBSYSTEM=pci\x00ERROR_EVENT=BEGIN_RECOVERY\x00DEVICE_ONLINE=0\x00DRIVER=vfio-pci\x00"+pci+alias),
		message("remove", vf+"/vfio-dev/vfio0", "SUBSYSTEM=vfio-dev\x00"),
		message("remove", "/devices/virtual/vfio/1", "SUBSYSTEM=vfio\x00MAJOR=511\x00MINOR=1\x00DEVNAME=vfio/1\x00"),
		message("unbind", vf, "SUBSYSTEM=pci\x00"+pci),
	}, got)
}

// What a reader finds when it looks at the moment of an event.
func TestWhatIsThereWhenAnEventComes(t *testing.T) {
	h := newHost(t, nil, PF{Address: pf0})
	var got []string
	h.Uevents(func(m []byte) {
		header, _, _ := strings.Cut(string(m), "\x00")
		action, devpath, _ := strings.Cut(header, "@")
		var there []string
		for name, file := range map[string]string{
			"1 link": h.Path(vf0), "2 directory": h.sys("devices/pci0000:6b", vf0), "3 group": filepath.Join(h.Path(vf0), "iommu_group"),
			"4 physfn": filepath.Join(h.Path(vf0), "physfn"), "5 driver": filepath.Join(h.Path(vf0), "driver"), "6 node": h.dev("vfio/1"),
			"7 vfio-dev": filepath.Join(h.Path(vf0), "vfio-dev"),
		} {
			if exists(file) {
				there = append(there, name)
			}
		}
		got = append(got, action+" "+filepath.Base(devpath)+": "+strings.Join(sorted(there), ", "))
	})
	must(t, h.SetVFs(pf0, 1))
	must(t, h.Bind(vf0, "vfio-pci"))
	must(t, h.SetVFs(pf0, 0))
	want(t, "events", []string{
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

func TestAddressesAndRoutingIDsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.IntRange(0, 0xffff).Draw(t, "id")
		domain, got, err := routing(addressOf("0000", id))
		if err != nil || domain != "0000" || got != id {
			t.Fatalf("%s: got %s %x %v, want 0000 %x", addressOf("0000", id), domain, got, err, id)
		}
	})
	for _, bad := range []string{"", "6b:00.0", "0000:6b:00", "0000:6b:20.0", "0000:6b:00.8", "0000:6B:00.0", "0000:6b:00.0 "} {
		if _, _, err := routing(bad); err == nil {
			t.Errorf("%q was taken for an address", bad)
		}
	}
}

// TestVariablesAreThoseOfTheRealKernel compares our message with one of this machine's own kernel, asked for by a write that changes nothing.
func TestVariablesAreThoseOfTheRealKernel(t *testing.T) {
	files, _ := filepath.Glob("/sys/bus/pci/devices/*/uevent")
	if os.Getuid() != 0 || len(files) == 0 {
		testenv.Skip(t, "asking the kernel for a uevent needs root and a PCI bus")
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}))
	tv := unix.Timeval{Sec: 5}
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	if err := os.WriteFile(files[0], []byte("change"), 0); err != nil {
		testenv.Skip(t, "this kernel's sysfs cannot be written: "+err.Error())
	}
	address := filepath.Base(filepath.Dir(files[0]))
	buf := make([]byte, 16<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			testenv.Skip(t, "this kernel's uevents do not reach this network namespace: "+err.Error())
		}
		if real := string(buf[:n]); strings.Contains(real, "PCI_SLOT_NAME="+address+"\x00") {
			var ours string
			h := newHost(t, nil)
			h.Uevents(func(m []byte) { ours = string(m) })
			must(t, h.AddVF(VF{Address: vf0}))
			if d := cmp.Diff(keys(real), keys(ours)); d != "" {
				t.Errorf("variables of a message (-kernel +ours):\n%s", d)
			}
			return
		}
	}
}

// keys are the names of a message's variables in order, without those that tell a synthetic event or a bound driver.
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
