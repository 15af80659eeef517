// SPDX-License-Identifier: Apache-2.0

package flagvalue

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestValueOfABooleanFlagNeedsAnEqualsSign(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-steal", "-bind", "false"}, `unexpected argument "false": write -bind=false`},
		{[]string{"--dry-run", "true", "-steal"}, `unexpected argument "true": write -dry-run=true`},
		{[]string{"-bind", "x"}, `unexpected argument "x": only flags are allowed, see -h`},
		{[]string{"-mode", "dpdk", "true"}, `unexpected argument "true": only flags are allowed, see -h`},
		{[]string{"true"}, `unexpected argument "true": only flags are allowed, see -h`},
	} {
		if err := Parse(flags(), tt.args, "", io.Discard); err == nil || err.Error() != tt.want {
			t.Errorf("%q: error %v, want %s", tt.args, err, tt.want)
		}
	}
}

// flags returns a flag of each type, and two boolean ones.
func flags() *flag.FlagSet {
	set := flag.NewFlagSet("x", flag.ContinueOnError)
	set.Bool("steal", false, "")
	set.Bool("bind", true, "")
	set.Bool("dry-run", false, "")
	set.Var(OneOf(new(string), "dpdk", "kernel"), "mode", "")
	set.Var(Optional(new(string), "balanced", "packed"), "policy", "")
	set.Var(SomeOf(new([]string), "a", "b"), "some", "")
	set.Var(NonEmpty(new(string), "the name of a program"), "program", "")
	set.Var(OptionalPath(new(string)), "socket", "")
	set.Var(Count(new(int), "no limit"), "max", "")
	set.Var(Directory(new(string)), "root", "")
	set.Var(OptionalDirectory(new(string)), "rules", "")
	set.Var(Interval(new(time.Duration), time.Second), "interval", "")
	return set
}

func TestValuesOfEachType(t *testing.T) {
	for _, tt := range []struct{ flag, value, wrong string }{
		{"mode", "dpdk", ""},
		{"mode", "", "must be dpdk or kernel"},
		{"policy", "", ""},
		{"policy", "packed", ""},
		{"policy", "fair", "must be balanced or packed, or empty"},
		{"some", "a,b", ""},
		{"some", "a,c", "must be a comma-separated list of a,b"},
		{"some", "", "must be a comma-separated list of a,b"},
		{"program", "x", ""},
		{"program", "", "must be the name of a program"},
		{"socket", "", ""},
		{"socket", "/none/x", ""},
		{"socket", "x", "must be an absolute path, or empty"},
		{"max", "0", ""},
		{"max", "-1", "must be a whole number, 0 (no limit) or more"},
		{"max", "many", "must be a whole number, 0 (no limit) or more"},
		{"root", "/", ""},
		{"root", "/none/x", "must be the path of a directory that exists"},
		{"root", "", "must be the path of a directory that exists"},
		{"rules", "", ""},
		{"rules", "/none/x", "must be the path of a directory that exists, or empty"},
		{"interval", "0s", ""},
		{"interval", "1s", ""},
		{"interval", "999ms", "must be 0 (disabled) or at least 1s, such as 10m"},
		{"interval", "-1s", "must be 0 (disabled) or at least 1s, such as 10m"},
		{"steal", "true", ""},
		{"steal", "yes", "must be true or false"},
	} {
		set := flags()
		err := Parse(set, []string{"-" + tt.flag + "=" + tt.value}, "", io.Discard)
		if tt.wrong == "" {
			if got := set.Lookup(tt.flag).Value.String(); err != nil || got != tt.value {
				t.Errorf("-%s=%s: value %q, %v", tt.flag, tt.value, got, err)
			}
			continue
		}
		want := fmt.Sprintf("-%s: invalid value %q: %s", tt.flag, tt.value, tt.wrong)
		if err == nil || err.Error() != want {
			t.Errorf("-%s=%s: error %v, want %s", tt.flag, tt.value, err, want)
		}
	}
}

func TestHelpHasTheFlags(t *testing.T) {
	var help strings.Builder
	err := Parse(flags(), []string{"-h"}, "x does nothing.", &help)
	const want = "x does nothing.\n\nFlags:\n  -bind\n"
	if !errors.Is(err, flag.ErrHelp) || !strings.HasPrefix(help.String(), want) {
		t.Errorf("%v, printed %q, want it to start with %q", err, help.String(), want)
	}
}
