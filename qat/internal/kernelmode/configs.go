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

// configQuiet is how long a configuration file must stay the same before a change takes effect. A
// program that writes a file in place truncates it first and writes the rest milliseconds later.
const configQuiet = 100 * time.Millisecond

// configRetry is how long after a transient error a file is read again.
const configRetry = time.Second

// configs tracks the devices' configuration files. A changed file takes effect when it has stayed
// the same for configQuiet and can be parsed. Until then, the previous content stays in effect. The
// first update accepts all files as they are, because no previous content exists.
type configs struct {
	dir     string
	files   map[string]*configFile // by name, such as "c6xx_dev0.conf"
	updated bool                   // update was called
}

// A configFile is the state of one file.
type configFile struct {
	settled content   // the content that last stayed the same for configQuiet
	known   bool      // last is set
	last    []section // sections of the last settled content that could be parsed
	err     error     // why settled cannot be parsed; nil if it can

	waiting content   // a content that differs from settled, until it settles
	since   time.Time // when waiting was first read; zero: nothing waits
	silent  bool      // only audits have read waiting, so no event reported the change

	retry time.Time // when to read the file again after a transient error; zero: never
}

// A content is the result of reading a file.
type content struct {
	text      string
	err       string // why the file cannot be read; "" if it can
	transient bool   // err does not concern the file itself
	gone      bool   // the file does not exist; err is ""
}

// A config is the content of one file that is in effect.
type config struct {
	sections []section
	err      error // why sections is empty; nil if it is valid
	newErr   error // why sections are those of an earlier content; nil if they are of the current one
}

// update reads the files again, and returns the configurations that are in effect from now on.
func (c *configs) update(now time.Time) map[string]config {
	effective := map[string]config{}
	for name, got := range c.read() {
		f := c.note(name, got, now, false)
		if f.isDue(now) || !c.updated {
			f.settle(c.path(name))
		}
		if f.settled.gone && f.since.IsZero() {
			delete(c.files, name)
			continue
		}
		effective[name] = f.config(c.path(name))
	}
	c.updated = true
	return effective
}

// audit reads the files again, and returns the configurations that will be in effect if the files
// stay as they are. It makes no change take effect. It records since when a file has its content,
// for a later update.
func (c *configs) audit(now time.Time) map[string]config {
	expected := map[string]config{}
	for name, got := range c.read() {
		f := *c.note(name, got, now, true)
		if !f.since.IsZero() {
			f.settle(c.path(name))
		}
		if !f.settled.gone {
			expected[name] = f.config(c.path(name))
		}
	}
	return expected
}

// next returns when to call update without an event: when a file may have stayed the same for long
// enough, or may be readable again. The zero time means never.
func (c *configs) next() (next time.Time) {
	for _, f := range c.files {
		next = hostwatch.Earlier(next, f.retry)
		if !f.since.IsZero() && !f.silent {
			next = hostwatch.Earlier(next, f.since.Add(configQuiet))
		}
	}
	return next
}

// due reports whether the time that next returns has come.
func (c *configs) due(now time.Time) bool {
	next := c.next()
	return !next.IsZero() && !now.Before(next)
}

// read reads all files of the directory, and the known files that are no longer in it.
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

// note records the content of a file. silent reports that an audit read it.
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

// isDue reports whether a content waits and has stayed the same for configQuiet.
func (f *configFile) isDue(now time.Time) bool {
	return !f.since.IsZero() && now.Sub(f.since) >= configQuiet
}

// settle makes the waiting content, if any, the settled one. Its sections take effect if it can be
// parsed.
func (f *configFile) settle(path string) {
	if f.since.IsZero() {
		return
	}
	f.settled, f.waiting, f.since, f.silent = f.waiting, content{}, time.Time{}, false
	if f.settled.gone {
		return // the caller drops the file
	}
	sections, err := f.settled.parse(path)
	if f.err = err; err == nil {
		f.known, f.last = true, sections
	}
}

// config returns the configuration of the file that is in effect.
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
