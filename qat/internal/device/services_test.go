// SPDX-License-Identifier: Apache-2.0

package device

import (
	"regexp"
	"slices"
	"strings"
	"testing"

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
