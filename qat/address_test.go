package qat

import (
	"testing"

	"pgregory.net/rapid"
)

func TestParseAddress(t *testing.T) {
	tests := map[string]struct {
		text string
		want Address
		ok   bool
	}{
		"as sysfs names it":                 {"0000:6b:00.1", Address{0, 0x6b, 0, 1}, true},
		"the highest of each part":          {"ffff:ff:1f.7", Address{0xffff, 0xff, 31, 7}, true},
		"a domain of five digits, as VMD":   {"10000:e1:00.0", Address{0x10000, 0xe1, 0, 0}, true},
		"without a domain":                  {"6b:00.1", Address{}, false},
		"device above 31":                   {"0000:6b:20.0", Address{}, false},
		"function above 7":                  {"0000:6b:00.8", Address{}, false},
		"a function below the digits":       {"0000:6b:00./", Address{}, false},
		"upper case":                        {"0000:6B:00.1", Address{}, false},
		"a colon for the point":             {"0000:6b:00:1", Address{}, false},
		"something behind":                  {"0000:6b:00.1 ", Address{}, false},
		"empty":                             {"", Address{}, false},
		"a root bus":                        {"pci0000:6b", Address{}, false},
		"a domain longer than eight digits": {"123456789:6b:00.1", Address{}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := ParseAddress(test.text)
			if got != test.want || ok != test.ok {
				t.Errorf("ParseAddress(%q) = %v, %v; want %v, %v", test.text, got, ok, test.want, test.ok)
			}
			if b, okb := ParseAddress([]byte(test.text)); b != got || okb != ok {
				t.Errorf("ParseAddress of the same bytes = %v, %v; want %v, %v", b, okb, got, ok)
			}
		})
	}
}

func genAddress(t *rapid.T) Address {
	return Address{
		Domain: rapid.Uint32().Draw(t, "domain"), Bus: rapid.Uint8().Draw(t, "bus"),
		Device: rapid.Uint8Range(0, 31).Draw(t, "device"), Function: rapid.Uint8Range(0, 7).Draw(t, "function"),
	}
}

func TestAddressSurvivesItsText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := genAddress(t)
		if got, ok := ParseAddress(a.String()); !ok || got != a {
			t.Fatalf("%v reads back as %v, %v", a, got, ok)
		}
	})
}

func TestCompareOrdersByTheParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genAddress(t), genAddress(t)
		want := 0
		for _, p := range [][2]uint32{{a.Domain, b.Domain}, {uint32(a.Bus), uint32(b.Bus)}, {uint32(a.Device), uint32(b.Device)}, {uint32(a.Function), uint32(b.Function)}} {
			if want == 0 && p[0] != p[1] {
				want = 1
				if p[0] < p[1] {
					want = -1
				}
			}
		}
		if got := a.Compare(b); got*want < 0 || (got == 0) != (want == 0) {
			t.Fatalf("%v against %v = %d, want the sign of %d", a, b, got, want)
		}
	})
}

func TestLastAddress(t *testing.T) {
	tests := map[string]struct {
		path string
		want string // "": none
	}{
		"a function on a root bus": {"/devices/pci0000:6b/0000:6b:00.1", "0000:6b:00.1"},
		"behind a bridge":          {"/devices/pci0000:3a/0000:3a:00.0/0000:3b:01.2", "0000:3b:01.2"},
		"something below":          {"/devices/pci0000:6b/0000:6b:00.1/vfio-dev/vfio3", "0000:6b:00.1"},
		"with a slash at the end":  {"/devices/pci0000:6b/0000:6b:00.1/", "0000:6b:00.1"},
		"alone":                    {"0000:6b:00.1", "0000:6b:00.1"},
		"no function":              {"/devices/virtual/vfio/12", ""},
		"empty":                    {"", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a, ok := lastAddress(test.path)
			if got := map[bool]string{true: a.String()}[ok]; got != test.want {
				t.Errorf("lastAddress(%q) = %q, want %q", test.path, got, test.want)
			}
		})
	}
}
