// SPDX-License-Identifier: Apache-2.0

// Package flagvalue has values for flags of package flag that refuse what a program cannot use, and
// parses the command line so that each error is one line that names the flag, the value and what is
// allowed.
//
// The functions [OneOf] and so on return a value for [flag.FlagSet.Var]. It sets the variable that
// the first argument points to, whose content is the default.
package flagvalue

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// OneOf returns a flag with one of several values.
func OneOf(value *string, allowed ...string) flag.Value { return &oneOf{value, allowed} }

// Optional returns a flag with one of several values, or none.
func Optional(value *string, allowed ...string) flag.Value { return &optional{value, allowed} }

// SomeOf returns a flag with a comma-separated list of some of several values.
func SomeOf(value *[]string, allowed ...string) flag.Value { return &someOf{value, allowed} }

// NonEmpty returns a flag with any value but the empty one. The errors describe the value as what,
// such as "the path of a directory".
func NonEmpty(value *string, what string) flag.Value { return &nonEmpty{value, what} }

// OptionalPath returns a flag with an absolute path of a file that need not exist, or none.
func OptionalPath(value *string) flag.Value { return &optionalPath{value} }

// Count returns a flag with a number that is not negative. The errors describe 0 as zero, such as
// "no limit".
func Count(value *int, zero string) flag.Value { return &count{value, zero} }

// Directory returns a flag with the path of an existing directory.
func Directory(value *string) flag.Value { return &directory{value} }

// OptionalDirectory returns a flag with the path of an existing directory, or none.
func OptionalDirectory(value *string) flag.Value { return &optionalDirectory{value} }

// Interval returns a flag with a duration of at least atLeast, or 0.
func Interval(value *time.Duration, atLeast time.Duration) flag.Value {
	return &interval{value, atLeast}
}

// mustBe begins the errors of the flag types below. Package flag puts the name
// of the flag and the value before them.
const mustBe = "must be "

func invalid(allowed string) error { return errors.New(mustBe + allowed) }

type oneOf struct {
	value   *string
	allowed []string
}

func (f *oneOf) String() string { return deref(f.value) }
func (f *oneOf) Set(text string) error {
	if !slices.Contains(f.allowed, text) {
		return invalid(strings.Join(f.allowed, " or "))
	}
	*f.value = text
	return nil
}

type optional oneOf

func (f *optional) String() string { return deref(f.value) }
func (f *optional) Set(text string) error {
	if text != "" && !slices.Contains(f.allowed, text) {
		return invalid(strings.Join(f.allowed, " or ") + ", or empty")
	}
	*f.value = text
	return nil
}

type someOf struct {
	value   *[]string
	allowed []string
}

func (f *someOf) String() string { return strings.Join(deref(f.value), ",") }
func (f *someOf) Set(text string) error {
	var list []string
	for word := range strings.SplitSeq(text, ",") {
		word = strings.TrimSpace(word)
		if !slices.Contains(f.allowed, word) {
			return invalid("a comma-separated list of " + strings.Join(f.allowed, ","))
		}
		list = append(list, word)
	}
	*f.value = list
	return nil
}

type nonEmpty struct {
	value *string
	what  string
}

func (f *nonEmpty) String() string { return deref(f.value) }
func (f *nonEmpty) Set(text string) error {
	if text == "" {
		return invalid(f.what)
	}
	*f.value = text
	return nil
}

type optionalPath struct{ value *string }

func (f *optionalPath) String() string { return deref(f.value) }
func (f *optionalPath) Set(text string) error {
	if text != "" && !filepath.IsAbs(text) {
		return invalid("an absolute path, or empty")
	}
	*f.value = text
	return nil
}

type count struct {
	value *int
	zero  string // what 0 means
}

func (f *count) String() string { return strconv.Itoa(deref(f.value)) }
func (f *count) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return invalid("a whole number, 0 (" + f.zero + ") or more")
	}
	*f.value = n
	return nil
}

type directory struct{ value *string }

func (f *directory) String() string { return deref(f.value) }
func (f *directory) Set(text string) error {
	if info, err := os.Stat(text); err != nil || !info.IsDir() {
		return invalid("the path of a directory that exists")
	}
	*f.value = text
	return nil
}

type optionalDirectory directory

func (f *optionalDirectory) String() string { return deref(f.value) }
func (f *optionalDirectory) Set(text string) error {
	if text == "" {
		*f.value = ""
		return nil
	}
	if err := (*directory)(f).Set(text); err != nil {
		return fmt.Errorf("%w, or empty", err)
	}
	return nil
}

type interval struct {
	value *time.Duration
	min   time.Duration
}

func (f *interval) String() string { return deref(f.value).String() }
func (f *interval) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d != 0 && d < f.min {
		return invalid(fmt.Sprintf("0 (disabled) or at least %v, such as 10m", f.min))
	}
	*f.value = d
	return nil
}

// deref returns the value, or the zero value for the flags that package flag
// makes itself to compare defaults.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
