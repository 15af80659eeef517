package events

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pilebones/go-udev/netlink"
)

// bindMessage is what Linux 6.12 sends when vfio-pci gets a VF.
const bindMessage = "bind@/devices/pci0000:6b/0000:6b:00.1\x00ACTION=bind\x00DEVPATH=/devices/pci0000:6b/0000:6b:00.1\x00SUBSYSTEM=pci\x00" +
	"DRIVER=vfio-pci\x00PCI_CLASS=B4000\x00PCI_ID=8086:4941\x00PCI_SUBSYS_ID=8086:0000\x00PCI_SLOT_NAME=0000:6b:00.1\x00" +
	"MODALIAS=pci:v00008086d00004941sv00008086sd00000000bc0Bsc40i00\x00SEQNUM=2742\x00"

func TestParseUevent(t *testing.T) {
	tests := []struct {
		name    string
		message string
		action  Action
		path    string
		env     map[string]string // what Get says; "-" for nil
		err     error
	}{
		{
			name: "a real bind", message: bindMessage, action: Bind, path: "/devices/pci0000:6b/0000:6b:00.1",
			env: map[string]string{"ACTION": "bind", "SUBSYSTEM": "pci", "DRIVER": "vfio-pci", "PCI_ID": "8086:4941", "SEQNUM": "2742", "DEVNAME": "-", "": "-", "PCI": "-"},
		},
		{name: "no variables", message: "add@/x\x00", action: Add, path: "/x", env: map[string]string{"ACTION": "-"}},
		{name: "at signs in the path", message: "remove@/devices/a@b@/c\x00", action: Remove, path: "/devices/a@b@/c"},
		{name: "equals signs in a value", message: "change@/x\x00OF=a=b==\x00", action: Change, path: "/x", env: map[string]string{"OF": "a=b==", "OF=a": "b=="}},
		{name: "an empty value", message: "move@/x\x00K=\x00", action: Move, path: "/x", env: map[string]string{"K": ""}},
		{name: "a word among the variables", message: "online@/x\x00A=1\x00odd\x00B=2\x00", action: Online, path: "/x", env: map[string]string{"A": "1", "odd": "-", "B": "2"}},
		{name: "an empty variable", message: "offline@/x\x00\x00A=1\x00\x00", action: Offline, path: "/x", env: map[string]string{"A": "1", "": "-"}},
		{name: "the last of two variables of one name", message: "unbind@/x\x00A=1\x00A=2\x00", action: Unbind, path: "/x", env: map[string]string{"A": "2"}},
		{name: "nothing", message: "", err: errNoNUL},
		{name: "no NUL", message: "add@/x", err: errNoNUL},
		{name: "no NUL at the end", message: "add@/x\x00A=1", err: errNoNUL},
		{name: "an unknown action", message: "explode@/x\x00", err: errUnknownAction},
		{name: "an action of inotify", message: "create@/x\x00", err: errUnknownAction},
		{name: "no action", message: "@/x\x00", err: errUnknownAction},
		{name: "capital letters", message: "ADD@/x\x00", err: errUnknownAction},
		{name: "no at sign", message: "add\x00", err: errNoHeader},
		{name: "no path", message: "add@\x00", err: errNoHeader},
		{name: "a path that is not absolute", message: "add@x\x00", err: errNoHeader},
		{name: "an at sign in the variables only", message: "add\x00A=@/x\x00", err: errNoHeader},
		{name: "only a NUL", message: "\x00", err: errNoHeader},
		{name: "a message of udevd", message: "libudev\x00\xfe\xed\xca\xfe" + strings.Repeat("\x00", 60), err: errNoHeader},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e Event
			if err := ParseUevent(&e, []byte(tt.message)); err != tt.err {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if e.Action != tt.action || string(e.Path) != tt.path {
				t.Errorf("%v of %q, want %v of %q", e.Action, e.Path, tt.action, tt.path)
			}
			if tt.err == nil && e.Origin != Uevent {
				t.Errorf("source %q, want %q", e.Origin, Uevent)
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

func TestParseUeventLeavesTheEventAloneWhenItRefuses(t *testing.T) {
	var e Event
	ok(t, ParseUevent(&e, []byte(bindMessage)))
	if err := ParseUevent(&e, []byte("boom@/x\x00")); err == nil {
		t.Fatal("accepted an unknown action")
	}
	if e.Action != Bind || string(e.Get("DRIVER")) != "vfio-pci" {
		t.Errorf("the event is now %v with driver %q", e.Action, e.Get("DRIVER"))
	}
}

func TestParseUeventAllocatesNothing(t *testing.T) {
	message := []byte(bindMessage)
	var e Event
	allocs := testing.AllocsPerRun(1000, func() {
		if ParseUevent(&e, message) != nil || e.Get("SUBSYSTEM") == nil || e.Get("NONE") != nil {
			t.Fatal("wrong")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
}

func TestActionsAreTheKernelsWords(t *testing.T) {
	for a := Add; a <= Unbind; a++ {
		if got := ueventAction([]byte(a.String())); got != a {
			t.Errorf("the word %q is %v", a.String(), got)
		}
		if _, err := netlink.ParseKObjAction(a.String()); err != nil {
			t.Error(err)
		}
	}
	if got := Action(0).String(); got != "unknown" {
		t.Errorf("the zero Action is %q", got)
	}
}

// FuzzParseUevent compares the parser with go-udev's wherever both accept a message.
func FuzzParseUevent(f *testing.F) {
	for _, seed := range []string{
		bindMessage, "add@/x\x00", "change@/a@b\x00K=v=w\x00", "add@/x\x00A=1\x00A=2\x00", "add@/x", "@\x00", "\x00", "",
		"libudev\x00\xfe\xed\xca\xfe(\x00\x00\x00(\x00\x00\x00\x1c\x00\x00\x00aaaabbbbccccddddACTION=add\x00DEVPATH=/x\x00",
		"remove@/devices/virtual/vfio/12\x00SUBSYSTEM=vfio\x00DEVNAME=vfio/12\x00\x00odd\x00=\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		whole := bytes.Clone(message)
		var e Event
		err := ParseUevent(&e, message)
		if !bytes.Equal(whole, message) {
			t.Fatal("the message was changed")
		}
		if len(message) == 0 || message[len(message)-1] != 0 {
			if err == nil {
				t.Fatal("accepted a message that does not end in NUL")
			}
			return // go-udev panics on some of them
		}
		if err == nil {
			header, _, _ := bytes.Cut(message, []byte{0})
			if want := e.Action.String() + "@" + string(e.Path); string(header) != want {
				t.Fatalf("read %q from header %q", want, header)
			}
			for _, variable := range bytes.Split(message[len(header)+1:], []byte{0}) {
				if key, _, is := strings.Cut(string(variable), "="); is && e.Get(key) == nil {
					t.Fatalf("variable %q is lost", variable)
				}
			}
		}
		oracle, oracleErr := netlink.ParseUEvent(message)
		if oracleErr != nil || bytes.HasPrefix(message, []byte("libudev\x00")) {
			return
		}
		if err != nil {
			if strings.HasPrefix(oracle.KObj, "/") {
				t.Fatalf("refused what go-udev accepts: %v", err)
			}
			return // go-udev also takes paths that no kernel sends
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
