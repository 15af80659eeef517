// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/sysfs"
)

// configQuiet is how long a configuration file must stay the same before a change of it counts. A
// program that writes a file in place truncates it first and writes the rest milliseconds later.
const configQuiet = 100 * time.Millisecond

// configRetry is how long after a transient error a file is read again.
const configRetry = time.Second

// configs follows the devices' configuration files. A changed file counts when it has stayed the
// same for configQuiet and can be parsed. Until then it counts as before. The first look takes all
// files as they are, because there is nothing before it.
type configs struct {
	dir    string
	files  map[string]*configFile // by name, such as "c6xx_dev0.conf"
	looked bool                   // there was a look
}

// A configFile is one file, and what counts of it.
type configFile struct {
	settled content   // what the file held when it last had been quiet
	known   bool      // the file could be parsed at some time
	last    []section // when it could be parsed last
	err     error     // why settled cannot be parsed; nil if it can

	// A content other than settled waits until it has been quiet. Since is zero if there is none.
	waiting content
	since   time.Time
	silent  bool // only an audit has seen it: no event reported the change

	retry time.Time // when to read the file again after a transient error; zero: never
}

// A content is what reading a file gives.
type content struct {
	text      string
	err       string // why it cannot be read; "" if it can
	transient bool   // err says nothing about the file
	gone      bool   // it does not exist; err is "" then
}

// A config is what counts of one file.
type config struct {
	sections []section
	err      error // why there are no sections; nil if there are
	newErr   error // why the sections are those that the file had before; nil if they are not
}

// look reads the files again and returns what counts of each from now on.
func (c *configs) look(now time.Time) map[string]config {
	counts := map[string]config{}
	for name, got := range c.read() {
		f := c.note(name, got, now, false)
		if f.isDue(now) || !c.looked {
			f.settle(c.path(name))
		}
		if f.settled.gone && f.since.IsZero() {
			delete(c.files, name)
			continue
		}
		counts[name] = f.config(c.path(name))
	}
	c.looked = true
	return counts
}

// audit reads the files again and returns what would count of each if it stays as it is. Nothing
// counts because of an audit. A later look knows since when the file was quiet.
func (c *configs) audit(now time.Time) map[string]config {
	counts := map[string]config{}
	for name, got := range c.read() {
		f := *c.note(name, got, now, true)
		if !f.since.IsZero() {
			f.settle(c.path(name))
		}
		if !f.settled.gone {
			counts[name] = f.config(c.path(name))
		}
	}
	return counts
}

// next is when to look again although no event asks for it: a file may have been quiet for long
// enough by then, or be readable again. Zero: never.
func (c *configs) next() (next time.Time) {
	for _, f := range c.files {
		next = hostwatch.Earlier(next, f.retry)
		if !f.since.IsZero() && !f.silent {
			next = hostwatch.Earlier(next, f.since.Add(configQuiet))
		}
	}
	return next
}

// due reports whether next has come.
func (c *configs) due(now time.Time) bool {
	next := c.next()
	return !next.IsZero() && !now.Before(next)
}

// read reads the files of the directory, and those that were there before.
func (c *configs) read() map[string]content {
	contents := map[string]content{}
	names, _ := sysfs.Names(c.dir) // if that fails, the known files are read nevertheless
	for _, name := range names {
		if _, ok := configType(name); ok {
			contents[name] = readContent(c.path(name))
		}
	}
	for name := range c.files {
		if _, done := contents[name]; !done {
			contents[name] = readContent(c.path(name))
		}
	}
	return contents
}

func (c *configs) path(name string) string { return filepath.Join(c.dir, name) }

// note takes note of what a file holds.
func (c *configs) note(name string, got content, now time.Time, silent bool) *configFile {
	f := c.files[name]
	if f == nil {
		f = &configFile{settled: content{gone: true}}
		c.files[name] = f
	}
	if f.retry = (time.Time{}); got.transient {
		f.retry = now.Add(configRetry)
	}
	switch {
	case got == f.settled:
		f.waiting, f.since, f.silent = content{}, time.Time{}, false
	case f.since.IsZero() || got != f.waiting:
		f.waiting, f.since, f.silent = got, now, silent
	default:
		f.silent = f.silent && silent
	}
	return f
}

// isDue reports whether the file has another content and was quiet for long enough.
func (f *configFile) isDue(now time.Time) bool {
	return !f.since.IsZero() && now.Sub(f.since) >= configQuiet
}

// settle makes the content that waits the one that counts, if it can be parsed.
func (f *configFile) settle(path string) {
	if f.since.IsZero() {
		return
	}
	f.settled, f.waiting, f.since, f.silent = f.waiting, content{}, time.Time{}, false
	if f.settled.gone {
		return // it is forgotten
	}
	sections, err := f.settled.parse(path)
	if f.err = err; err == nil {
		f.known, f.last = true, sections
	}
}

// config returns what counts of the file.
func (f *configFile) config(path string) config {
	switch {
	case f.known:
		return config{sections: f.last, newErr: f.err}
	case f.err != nil:
		return config{err: f.err}
	}
	return config{err: fmt.Errorf("%q is new and may still be written", path)}
}

// readContent reads a file.
func readContent(path string) content {
	text, err := sysfs.ReadText(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return content{gone: true}
	case err != nil:
		return content{err: err.Error(), transient: sysfs.IsTransient(err)}
	}
	return content{text: text}
}

// parse returns the sections. The error names the file and, if there is one, the line.
func (c content) parse(path string) ([]section, error) {
	if c.err != "" {
		return nil, errors.New(c.err)
	}
	sections, err := parseConfig(c.text)
	if err != nil {
		return nil, fmt.Errorf("parse %q: %w", path, err)
	}
	return sections, nil
}
