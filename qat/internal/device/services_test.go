// SPDX-License-Identifier: Apache-2.0

package device

import (
	"math/bits"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestResourceOf(t *testing.T) {
	tests := map[string]struct{ value, want string }{
		"sym and asym":                 {"sym;asym", "cy"},
		"asym and sym":                 {"asym;sym", "cy"},
		"compression":                  {"dc", "dc"},
		"compression chaining":         {"dcc", "dcc"},
		"one of the crypto services":   {"asym", "asym"},
		"two services":                 {"dc;sym", "sym-dc"},
		"three services":               {"dc;sym;asym", "asym-sym-dc"},
		"decompression":                {"decomp;sym", "sym-decomp"},
		"separators of dev_cfg":        {" sym,\tdc\n", "sym-dc"},
		"a repeated service":           {"dc;dc", "dc"},
		"white space":                  {" \n", ""},
		"half-written word":            {"sym;as", ""},
		"half-written only word":       {"s", ""},
		"unknown word":                 {"sym;magic", ""},
		"characters no name may have":  {"sym;../dc", ""},
		"services in another case":     {"SYM", ""},
		"name of the resource is none": {"cy", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := resourceOf(test.value); got != test.want {
				t.Errorf("resourceOf(%q) = %q, want %q", test.value, got, test.want)
			}
		})
	}
}

func TestResourceNamesAreValid(t *testing.T) {
	valid := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOf(rapid.SampledFrom(append(services[:], "", "x")))
		joined := rapid.Map(words, func(words []string) string { return strings.Join(words, ";") })
		value := rapid.OneOf(rapid.String(), joined).Draw(t, "value")
		if name := resourceOf(value); name != "" && (!valid.MatchString(name) || len(name) > 63) {
			t.Fatalf("resourceOf(%q) = %q, which is not a valid resource name", value, name)
		}
	})
}

func TestServicesAreASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.SampledFrom(services[:]), 1, 6).Draw(t, "words")
		shuffled := rapid.Permutation(append(slices.Clone(words), words[0])).Draw(t, "shuffled")
		a, b := resourceOf(strings.Join(words, ";")), resourceOf(strings.Join(shuffled, ";"))
		if a != b || a == "" {
			t.Fatalf("%v is %q, %v is %q; want the same name", words, a, shuffled, b)
		}
	})
}

func familyOfPF(t *testing.T, id uint16) *Family {
	t.Helper()
	f, isVF := FamilyOf(vendorIntel, id)
	if f == nil || isVF {
		t.Fatalf("no family has the PF ID %#x", id)
	}
	return f
}

func TestCheckServices(t *testing.T) {
	const (
		gen4 = "must be one or two of asym, sym and dc, or dcc alone"
		gen6 = "must be one to three of asym, sym, dc and decomp, or dcc alone"
	)
	tests := []struct {
		pf       uint16
		services string
		want     string // "" for accepted
	}{
		{0x4940, "dc", ""},
		{0x4942, "sym;asym", ""},
		{0x4944, "asym;sym", ""},
		{0x4946, "dc;asym", ""},
		{0x4940, "dcc", ""},
		{0x4940, "asym;sym;dc", "4xxx does not accept asym;sym;dc: " + gen4},
		{0x4942, "decomp", "401xx does not accept decomp: " + gen4},
		{0x4944, "dc;dcc", "402xx does not accept dc;dcc: " + gen4},
		{0x4946, "sym;decomp", "420xx does not accept sym;decomp: " + gen4},
		{0x4948, "decomp", ""},
		{0x4948, "dcc", ""},
		{0x4948, "decomp;dc;sym", ""},
		{0x4948, "asym;sym;dc;decomp", "6xxx does not accept asym;sym;dc;decomp: " + gen6},
		{0x4948, "dcc;decomp", "6xxx does not accept dcc;decomp: " + gen6},
		{0x37c8, "sym", "c6xx has no configurable services"},
		{0x4940, "cy", `unknown service "cy": must be one of asym, sym, dc, decomp, dcc`},
		{0x4940, "dc;DC", `unknown service "DC": must be one of asym, sym, dc, decomp, dcc`},
		{0x4948, "dc;dc", `service "dc" occurs more than once`},
		{0x4948, "dcc;dcc", `service "dcc" occurs more than once`},
	}
	for _, test := range tests {
		f := familyOfPF(t, test.pf)
		t.Run(f.ConfigName()+" "+test.services, func(t *testing.T) {
			got := ""
			if err := f.CheckServices(strings.Split(test.services, ";")); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("CheckServices(%q): %q, want %q", test.services, got, test.want)
			}
		})
	}
}

func TestCheckServicesWithoutServices(t *testing.T) {
	err := familyOfPF(t, 0x4940).CheckServices(nil)
	if want := "no services: must be one or more of asym, sym, dc, decomp, dcc"; err == nil || err.Error() != want {
		t.Errorf("CheckServices(nil): %v, want %s", err, want)
	}
}

// TestCheckServicesMatchesKernel compares CheckServices with the kernel's functions, which decide
// on a mask of services (adf_gen4_services_supported and services_supported of qat_6xxx), for each
// mask and a random order of its services.
func TestCheckServicesMatchesKernel(t *testing.T) {
	words := []string{"asym", "sym", "dc", "decomp", "dcc"}
	const decomp, dcc = 1 << 3, 1 << 4
	kernel := map[uint16]func(mask uint) bool{
		0x4940: func(mask uint) bool {
			n := bits.OnesCount(mask)
			return mask&decomp == 0 && (n == 1 || n == 2 && mask&dcc == 0)
		},
		0x4948: func(mask uint) bool {
			n := bits.OnesCount(mask)
			return n == 1 || n >= 2 && n <= 3 && mask&dcc == 0
		},
	}
	rapid.Check(t, func(rt *rapid.T) {
		order := rapid.Permutation(words).Draw(rt, "order")
		for id, accepts := range kernel {
			for mask := range uint(1 << len(words)) {
				var list []string
				for _, word := range order {
					if mask&(1<<slices.Index(words, word)) != 0 {
						list = append(list, word)
					}
				}
				if err := familyOfPF(t, id).CheckServices(list); (err == nil) != accepts(mask) {
					rt.Fatalf("%#x: CheckServices(%q): %v; the kernel accepts it: %v", id, list, err, accepts(mask))
				}
			}
		}
	})
}

func TestConfigNames(t *testing.T) {
	var names []string
	for _, f := range Families() {
		names = append(names, f.ConfigName())
	}
	want := []string{
		"dh895xcc", "c6xx", "c3xxx", "200xx", "d15xx", "c4xxx", "4xxx", "401xx", "402xx", "420xx", "6xxx",
	}
	if diff := cmp.Diff(want, slices.Compact(names)); diff != "" {
		t.Errorf("names of the families (-want +got):\n%s", diff)
	}
}
