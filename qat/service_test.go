package qat

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"qatplugin/devtree"
)

func TestResourceOfServices(t *testing.T) {
	tests := map[string]struct{ value, want string }{
		"sym and asym are cy":               {"sym;asym", "cy"},
		"in either order":                   {"asym;sym", "cy"},
		"compression":                       {"dc", "dc"},
		"compression chaining":              {"dcc", "dcc"},
		"one of the crypto services":        {"asym", "asym"},
		"two, in the order of names":        {"dc;sym", "sym-dc"},
		"three, and then cy has no meaning": {"dc;sym;asym", "asym-sym-dc"},
		"decompression":                     {"decomp;sym", "sym-decomp"},
		"separated as dev_cfg may":          {" sym,\tdc\n", "sym-dc"},
		"a word twice":                      {"dc;dc", "dc"},
		"blank":                             {" \n", ""},
		"half written":                      {"sym;as", ""},
		"a word that is none":               {"sym;magic", ""},
		"something to break a name with":    {"sym;../dc", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := resourceOfServices(test.value); got != test.want {
				t.Errorf("resourceOfServices(%q) = %q, want %q", test.value, got, test.want)
			}
		})
	}
}

func TestNoValueMakesAnInvalidResourceName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.SampledFrom(append(services[:], "", "x"))), func(words []string) string {
			return strings.Join(words, ";")
		})).Draw(t, "value")
		name := resourceOfServices(value)
		if name == "" {
			return
		}
		if err := devtree.CheckResourceName(name); err != nil {
			t.Fatalf("%q made %q: %v", value, name, err)
		}
	})
}

func TestOrderAndRepeatsOfServicesSayNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.SampledFrom(services[:]), 1, 6).Draw(t, "words")
		shuffled := rapid.Permutation(append(slices.Clone(words), words[0])).Draw(t, "shuffled")
		if a, b := resourceOfServices(strings.Join(words, ";")), resourceOfServices(strings.Join(shuffled, ";")); a != b || a == "" {
			t.Fatalf("%v is %q, %v is %q", words, a, shuffled, b)
		}
	})
}
