// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// mustBe begins the errors of the flag types below. Package flag puts the name
// of the flag and the value before them.
const mustBe = "must be "

func invalid(allowed string) error { return errors.New(mustBe + allowed) }

// oneOf is a flag with one of several values.
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

// optional is a flag with one of several values, or none.
type optional oneOf

func (f *optional) String() string { return deref(f.value) }
func (f *optional) Set(text string) error {
	if text != "" && !slices.Contains(f.allowed, text) {
		return invalid(strings.Join(f.allowed, " or ") + ", or empty")
	}
	*f.value = text
	return nil
}

// someOf is a flag with a comma-separated list of some of several values.
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

// nonEmpty is a flag with any value but the empty one.
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

// optionalPath is a flag with an absolute path of a file that need not exist, or none.
type optionalPath struct{ value *string }

func (f *optionalPath) String() string { return deref(f.value) }
func (f *optionalPath) Set(text string) error {
	if text != "" && !filepath.IsAbs(text) {
		return invalid("an absolute path, or empty")
	}
	*f.value = text
	return nil
}

// count is a flag with a number that is not negative.
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

// directory is a flag with the path of an existing directory.
type directory struct{ value *string }

func (f *directory) String() string { return deref(f.value) }
func (f *directory) Set(text string) error {
	if info, err := os.Stat(text); err != nil || !info.IsDir() {
		return invalid("the path of a directory that exists")
	}
	*f.value = text
	return nil
}

// optionalDirectory is a flag with the path of an existing directory, or none.
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

// interval is a flag with a time that is not below a minimum, or 0.
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
