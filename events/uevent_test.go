// SPDX-License-Identifier: Apache-2.0

package events

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pilebones/go-udev/netlink"
)

// bindMessage is sent by Linux 6.12 when a VF is bound to vfio-pci.
const bindMessage = "bind@/devices/pci0000:6b/0000:6b:00.1\x00ACTION=bind\x00" +
	"DEVPATH=/devices/pci0000:6b/0000:6b:00.1\x00SUBSYSTEM=pci\x00DRIVER=vfio-pci\x00PCI_CLASS=B4000\x00" +
	"PCI_ID=8086:4941\x00PCI_SUBSYS_ID=8086:0000\x00PCI_SLOT_NAME=0000:6b:00.1\x00" +
	"MODALIAS=pci:v00008086d00004941sv00008086sd00000000bc0Bsc40i00\x00SEQNUM=2742\x00"

func TestParseUevent(t *testing.T) {
	type env map[string]string // key → result of Get, "-" for nil
	for name, tt := range map[string]struct {
		message string
		action  Action
		path    string
		env     env
		err     error
	}{
		"kernel message": {
			message: bindMessage,
			action:  Bind,
			path:    "/devices/pci0000:6b/0000:6b:00.1",
			env: env{
				"ACTION": "bind", "SUBSYSTEM": "pci", "DRIVER": "vfio-pci", "PCI_ID": "8086:4941",
				"SEQNUM": "2742", "DEVNAME": "-", "": "-", "PCI": "-",
			},
		},
		"no variables":  {"add@/x\x00", Add, "/x", env{"ACTION": "-"}, nil},
		"@ in the path": {"remove@/devices/a@b@/c\x00", Remove, "/devices/a@b@/c", nil, nil},
		"= in a value":  {"change@/x\x00O=a=b==\x00", Change, "/x", env{"O": "a=b==", "O=a": "b=="}, nil},
		"empty value":   {"move@/x\x00K=\x00", Move, "/x", env{"K": ""}, nil},
		"variable without =": {
			message: "online@/x\x00A=1\x00odd\x00B=2\x00",
			action:  Online,
			path:    "/x",
			env:     env{"A": "1", "odd": "-", "B": "2"},
		},
		"empty variable":    {"offline@/x\x00\x00A=1\x00\x00", Offline, "/x", env{"A": "1", "": "-"}, nil},
		"variable twice":    {"unbind@/x\x00A=1\x00A=2\x00", Unbind, "/x", env{"A": "2"}, nil},
		"empty message":     {message: "", err: errNoNUL},
		"no NUL":            {message: "add@/x", err: errNoNUL},
		"no NUL at the end": {message: "add@/x\x00A=1", err: errNoNUL},
		"unknown action":    {message: "explode@/x\x00", err: errUnknownAction},
		"action of inotify": {message: "create@/x\x00", err: errUnknownAction},
		"empty action":      {message: "@/x\x00", err: errUnknownAction},
		"upper case":        {message: "ADD@/x\x00", err: errUnknownAction},
		"no @":              {message: "add\x00", err: errNoHeader},
		"empty path":        {message: "add@\x00", err: errNoHeader},
		"relative path":     {message: "add@x\x00", err: errNoHeader},
		"@ in a variable":   {message: "add\x00A=@/x\x00", err: errNoHeader},
		"only a NUL":        {message: "\x00", err: errNoHeader},
		"udevd message":     {message: "libudev\x00\xfe\xed\xca\xfe" + strings.Repeat("\x00", 9), err: errNoHeader},
	} {
		t.Run(name, func(t *testing.T) {
			var e Event
			if err := ParseUevent(&e, []byte(tt.message)); err != tt.err {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if e.Action != tt.action || string(e.Path) != tt.path {
				t.Errorf("%v of %q, want %v of %q", e.Action, e.Path, tt.action, tt.path)
			}
			if tt.err == nil && e.Origin != Uevent {
				t.Errorf("origin %q, want %q", e.Origin, Uevent)
			}
			for key, want := range tt.env {
				got := "-"
				if v := e.Get(key); v != nil {
					got = string(v)
				}
				if got != want {
					t.Errorf("variable %q is %q, want %q", key, got, want)
				}
			}
		})
	}
}

func TestParseUeventKeepsEventOnError(t *testing.T) {
	var e Event
	must(t, ParseUevent(&e, []byte(bindMessage)))
	want := e
	for _, message := range []string{"add@/x", "add@x\x00", "explode@/x\x00"} {
		if err := ParseUevent(&e, []byte(message)); err == nil {
			t.Fatalf("%q was accepted", message)
		}
		if e.Origin != want.Origin || e.Action != want.Action || !bytes.Equal(e.Path, want.Path) ||
			!bytes.Equal(e.env, want.env) {
			t.Errorf("%q changed the event to %v of %q", message, e.Action, e.Path)
		}
	}
}

func TestParseUeventDoesNotAllocate(t *testing.T) {
	message := []byte(bindMessage)
	var e Event
	allocs := testing.AllocsPerRun(1000, func() {
		if ParseUevent(&e, message) != nil || e.Get("SUBSYSTEM") == nil || e.Get("NONE") != nil {
			t.Fatal("wrong result")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
}

func TestUdevKnowsUeventActions(t *testing.T) {
	for a := Add; a <= Unbind; a++ {
		if _, err := netlink.ParseKObjAction(a.String()); err != nil {
			t.Error(err)
		}
	}
}

// FuzzParseUevent compares the result with go-udev's if both accept the message.
func FuzzParseUevent(f *testing.F) {
	for _, seed := range []string{
		"", "\x00", "@\x00", "add@/x", "add@/x\x00", bindMessage,
		"add@/x\x00A=1\x00A=2\x00", "change@/a@b\x00K=v=w\x00",
		"libudev\x00\xfe\xed\xca\xfe(\x00\x00\x00(\x00\x00\x00\x1c\x00\x00\x00aaaabbbbccccdddd" +
			"ACTION=add\x00DEVPATH=/x\x00",
		"remove@/devices/virtual/vfio/12\x00SUBSYSTEM=vfio\x00DEVNAME=vfio/12\x00\x00odd\x00=\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		original := bytes.Clone(message)
		var e Event
		err := ParseUevent(&e, message)
		if !bytes.Equal(original, message) {
			t.Fatal("ParseUevent modified the message")
		}
		if len(message) == 0 || message[len(message)-1] != 0 {
			if err == nil {
				t.Fatal("accepted a message that does not end with NUL")
			}
			return // go-udev panics for some of these
		}
		if err == nil {
			header, _, _ := bytes.Cut(message, []byte{0})
			if want := e.Action.String() + "@" + string(e.Path); string(header) != want {
				t.Fatalf("got %q from header %q", want, header)
			}
			for _, variable := range bytes.Split(message[len(header)+1:], []byte{0}) {
				if key, _, is := strings.Cut(string(variable), "="); is && e.Get(key) == nil {
					t.Fatalf("variable %q is missing", variable)
				}
			}
		}
		oracle, oracleErr := netlink.ParseUEvent(message)
		if oracleErr != nil || bytes.HasPrefix(message, []byte("libudev\x00")) {
			return
		}
		if err != nil {
			if strings.HasPrefix(oracle.KObj, "/") {
				t.Fatalf("%v, but go-udev accepts the message", err)
			}
			return // go-udev also accepts paths that the kernel never sends
		}
		if e.Action.String() != oracle.Action.String() || string(e.Path) != oracle.KObj {
			t.Fatalf("%v of %q, go-udev: %v of %q", e.Action, e.Path, oracle.Action, oracle.KObj)
		}
		for key, want := range oracle.Env {
			if got := e.Get(key); got == nil || string(got) != want {
				t.Fatalf("%s is %q, go-udev: %q", key, got, want)
			}
		}
	})
}

func BenchmarkParseUevent(b *testing.B) {
	message := []byte(bindMessage)
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		var e Event
		for b.Loop() {
			if err := ParseUevent(&e, message); err != nil || string(e.Get("SUBSYSTEM")) != "pci" {
				b.Fatal(err)
			}
		}
	})
	b.Run("go-udev", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if e, err := netlink.ParseUEvent(message); err != nil || e.Env["SUBSYSTEM"] != "pci" {
				b.Fatal(err)
			}
		}
	})
}
