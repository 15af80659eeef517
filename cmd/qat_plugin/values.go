package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"qatplugin/qat"
)

// allowed begins the errors of the flag types below; package flag puts the flag's name and the value before it.
const allowed = "allowed is "

func wrong(what string) error { return errors.New(allowed + what) }

type choice struct {
	value   *string
	allowed []string
}

func (c *choice) String() string { return deref(c.value) }
func (c *choice) Set(text string) error {
	if !slices.Contains(c.allowed, text) {
		return wrong(strings.Join(c.allowed, " or "))
	}
	*c.value = text
	return nil
}

type choices struct {
	value   *[]string
	allowed []string
}

func (c *choices) String() string { return strings.Join(deref(c.value), ",") }
func (c *choices) Set(text string) error {
	var list []string
	for word := range strings.SplitSeq(text, ",") {
		word = strings.TrimSpace(word)
		if !slices.Contains(c.allowed, word) {
			return wrong("a list, separated by commas, of " + strings.Join(c.allowed, ","))
		}
		list = append(list, word)
	}
	*c.value = list
	return nil
}

type policy struct{ value *qat.Policy }

func (p *policy) String() string { return string(deref(p.value)) }
func (p *policy) Set(text string) error {
	if text != "" && !slices.Contains(qat.Policies(), text) {
		return wrong(strings.Join(qat.Policies(), " or ") + ", or nothing")
	}
	*p.value = qat.Policy(text)
	return nil
}

type nonEmpty struct {
	value *string
	what  string
}

func (n *nonEmpty) String() string { return deref(n.value) }
func (n *nonEmpty) Set(text string) error {
	if text == "" {
		return wrong(n.what)
	}
	*n.value = text
	return nil
}

type count struct{ value *int }

func (c *count) String() string { return strconv.Itoa(deref(c.value)) }
func (c *count) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return wrong("a whole number, 0 (no limit) or more")
	}
	*c.value = n
	return nil
}

type directory struct{ value *string }

func (d *directory) String() string { return deref(d.value) }
func (d *directory) Set(text string) error {
	if info, err := os.Stat(text); err != nil || !info.IsDir() {
		return wrong("the path of a directory that exists")
	}
	*d.value = text
	return nil
}

type hostPort struct{ value *string }

func (h *hostPort) String() string { return deref(h.value) }
func (h *hostPort) Set(text string) error {
	_, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil && text != "" {
		return wrong("HOST:PORT or :PORT with a port from 0 (any that is free) to 65535, or nothing")
	}
	*h.value = text
	return nil
}

type interval struct {
	value *time.Duration
	min   time.Duration
}

func (i *interval) String() string { return deref(i.value).String() }
func (i *interval) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d != 0 && d < i.min {
		return wrong(fmt.Sprintf("a time of %v or more, such as 10m, or 0 (never)", i.min))
	}
	*i.value = d
	return nil
}

// deref is the value, or the zero value for a flag that package flag made itself to compare defaults.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
