// SPDX-License-Identifier: Apache-2.0

package pci

import (
	"cmp"
	"fmt"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	tests := map[string]struct {
		text string
		want Address
		ok   bool
	}{
		"VF":                        {"0000:6b:00.1", Address{0, 0x6b, 0, 1}, true},
		"highest values":            {"ffff:ff:1f.7", Address{0xffff, 0xff, 31, 7}, true},
		"VMD domain":                {"10000:e1:00.0", Address{0x10000, 0xe1, 0, 0}, true},
		"highest domain":            {"ffffffff:00:00.0", Address{Domain: 0xffffffff}, true},
		"no domain":                 {"6b:00.1", Address{}, false},
		"short domain":              {"000:6b:00.1", Address{}, false},
		"nine-digit domain":         {"123456789:6b:00.1", Address{}, false},
		"device above 31":           {"0000:6b:20.0", Address{}, false},
		"function above 7":          {"0000:6b:00.8", Address{}, false},
		"function below the digits": {"0000:6b:00./", Address{}, false},
		"upper case":                {"0000:6B:00.1", Address{}, false},
		"bus not hexadecimal":       {"0000:g0:00.1", Address{}, false},
		"device not hexadecimal":    {"0000:6b:0g.1", Address{}, false},
		"domain not hexadecimal":    {"000x:6b:00.1", Address{}, false},
		"no dot":                    {"0000:6b:00:1", Address{}, false},
		"no second colon":           {"0000:6b.00.1", Address{}, false},
		"no first colon":            {"0000.6b:00.1", Address{}, false},
		"trailing space":            {"0000:6b:00.1 ", Address{}, false},
		"empty":                     {"", Address{}, false},
		"root bus":                  {"pci0000:6b", Address{}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := Parse(test.text)
			if got != test.want || ok != test.ok {
				t.Errorf("Parse(%q) = %v, %v; want %v, %v", test.text, got, ok, test.want, test.ok)
			}
		})
	}
}

func genAddress(t *rapid.T) Address {
	return Address{
		Domain:   rapid.Uint32().Draw(t, "domain"),
		Bus:      rapid.Uint8().Draw(t, "bus"),
		Device:   rapid.Uint8Range(0, 31).Draw(t, "device"),
		Function: rapid.Uint8Range(0, 7).Draw(t, "function"),
	}
}

func TestParseInvertsString(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := genAddress(t)
		if got, ok := Parse(a.String()); !ok || got != a {
			t.Fatalf("Parse(%q) = %v, %v; want the same address", a.String(), got, ok)
		}
	})
}

func TestStringIsAsTheKernelPrints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := genAddress(t)
		want := fmt.Sprintf("%04x:%02x:%02x.%d", a.Domain, a.Bus, a.Device, a.Function) // drivers/pci/probe.c
		if got := a.String(); got != want {
			t.Fatalf("String() = %q, want %q", got, want)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"0000:6b:00.1", "10000:e1:1f.7", "00000000:6b:00.1", "0000:6b:20.0", "6b:00.1", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, ok := Parse(text)
		if b, okBytes := Parse([]byte(text)); b != a || okBytes != ok {
			t.Fatalf("Parse(%q) = %v, %v for a string and %v, %v for bytes", text, a, ok, b, okBytes)
		}
		if last, okLast := LastInPath("/devices/x/" + text); ok && (!okLast || last != a) {
			t.Fatalf("LastInPath = %v, %v for a path that ends in %q", last, okLast, text)
		}
		if !ok {
			return
		}
		if a.Device > 31 || a.Function > 7 {
			t.Fatalf("Parse(%q) = %+v, which no device can have", text, a)
		}
		if again, ok := Parse(a.String()); !ok || again != a {
			t.Fatalf("Parse(%q) = %v, and its text parses as %v, %v", text, a, again, ok)
		}
	})
}

func TestCompareOrdersByDomainBusDeviceFunction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genAddress(t), genAddress(t)
		if rapid.Bool().Draw(t, "same domain") {
			b.Domain, b.Bus = a.Domain, a.Bus
		}
		want := cmp.Or(
			cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Bus, b.Bus),
			cmp.Compare(a.Device, b.Device), cmp.Compare(a.Function, b.Function),
		)
		if got := a.Compare(b); got != want {
			t.Fatalf("%v.Compare(%v) = %d, want %d", a, b, got, want)
		}
	})
}

func TestCompareOfNeighbours(t *testing.T) {
	ascending := []Address{
		{}, {Function: 7}, {Device: 1}, {Device: 31, Function: 7}, {Bus: 1}, {Bus: 0xff, Device: 31, Function: 7},
		{Domain: 1}, {Domain: 0x10000}, // differs from the first in bits that an int of 32 bits does not have
		{Domain: 0xffffffff},
	}
	for i, a := range ascending {
		for j, b := range ascending {
			if got, want := a.Compare(b), cmp.Compare(i, j); got != want {
				t.Errorf("%v.Compare(%v) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestLastInPath(t *testing.T) {
	tests := map[string]struct{ path, want string }{ // want "": none
		"function on a root bus":    {"/devices/pci0000:6b/0000:6b:00.1", "0000:6b:00.1"},
		"function behind a bridge":  {"/devices/pci0000:3a/0000:3a:00.0/0000:3b:01.2", "0000:3b:01.2"},
		"child device":              {"/devices/pci0000:6b/0000:6b:00.1/vfio-dev/vfio3", "0000:6b:00.1"},
		"trailing slash":            {"/devices/pci0000:6b/0000:6b:00.1/", "0000:6b:00.1"},
		"address alone":             {"0000:6b:00.1", "0000:6b:00.1"},
		"relative path":             {"0000:6b:00.1/qat/state", "0000:6b:00.1"},
		"address within a name":     {"/kernel/debug/qat_4xxx_0000:6b:00.0", ""},
		"path without an address":   {"/devices/virtual/vfio/12", ""},
		"path of slashes":           {"//", ""},
		"empty path":                {"", ""},
		"something after the digit": {"/devices/0000:6b:00.1x", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a, ok := LastInPath(test.path)
			if got := map[bool]string{true: a.String()}[ok]; got != test.want {
				t.Errorf("LastInPath(%q) = %q, want %q", test.path, got, test.want)
			}
		})
	}
}

func TestParsingDoesNotAllocate(t *testing.T) {
	path := []byte("/devices/pci0000:3a/0000:3a:00.0/0000:3b:01.2/vfio-dev/vfio3")
	if n := testing.AllocsPerRun(100, func() { LastInPath(path) }); n != 0 {
		t.Errorf("LastInPath allocates %v times, want 0", n)
	}
}
