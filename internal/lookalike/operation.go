// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Operation is one complete change of the host.
type Operation struct {
	Name      string // "add PF", "set VFs of", "bind", "unbind", "set state of", ...
	Target    string // address of the function, or name of the driver
	Value     string // the driver, number or state; "" if the operation has none
	Requested bool   // a program requested it by a write to sysfs
	Err       error  // why it failed

	// Visible is the time just before the last step that matters to a device plugin: the
	// vfio-dev of the last VF appears, the first link of the last VF disappears, an attribute
	// gets its new value. Later steps change nothing for a reader.
	Visible time.Time
}

// Observe makes the host call f at the end of each operation from now on, in order.
func (h *Host) Observe(f func(Operation)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.observer = f
}

// op is an operation in progress. After the first error, its steps do nothing.
type op struct {
	Operation
	h       *Host
	taken   string // attribute whose write requested the operation (take)
	ignored bool   // a write requested nothing, so there is nothing to observe
}

// do runs an operation.
func (h *Host) do(name, target string, steps func(*op)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := &op{h: h, Operation: Operation{Name: name, Target: target, Visible: time.Now()}}
	steps(o)
	if o.Err != nil {
		o.Err = fmt.Errorf("%s %s: %w", name, target, o.Err)
	}
	if h.observer != nil && !o.ignored {
		h.observer(o.Operation)
	}
	return o.Err
}

// doFunction runs an operation on a PCI function. It fails if there is none.
func (h *Host) doFunction(name, address string, steps func(*op, *function)) error {
	return h.do(name, address, func(o *op) {
		if d := h.devices[address]; d == nil {
			o.fail(syscall.ENODEV)
		} else {
			steps(o, d)
		}
	})
}

// doPF runs an operation on a PF. It fails if there is none.
func (h *Host) doPF(name, address string, steps func(*op, *function)) error {
	return h.do(name, address, func(o *op) {
		if pf := o.findPF(address); pf != nil {
			steps(o, pf)
		}
	})
}

// markVisible records the time before a step that a reader may see; the last call counts.
func (o *op) markVisible() { o.Visible = time.Now() }

func (o *op) fail(err error) {
	if o.Err == nil {
		o.Err = err
	}
}

func (o *op) failed() bool { return o.Err != nil }

func (o *op) try(step func() error) {
	if o.Err == nil {
		o.Err = step()
	}
}

// tryAnyway takes steps even after an error.
func (o *op) tryAnyway(steps func()) {
	err := o.Err
	o.Err = nil
	steps()
	if err != nil {
		o.Err = err
	}
}

func (o *op) mkdir(path string) {
	o.try(func() error { return os.MkdirAll(path, 0o755) })
}

// create creates a new attribute.
func (o *op) create(path, value string) {
	if value != "" {
		value += "\n"
	}
	o.try(func() error { return os.WriteFile(path, []byte(value), 0o644) })
}

// replace sets the value of an attribute atomically: no reader finds it empty or incomplete.
func (o *op) replace(path, value string) {
	o.h.tempFiles++
	temp := filepath.Join(o.h.scratch(), fmt.Sprint(o.h.tempFiles))
	o.create(temp, value)
	o.try(func() error { return os.Rename(temp, path) })
}

func (o *op) fifo(path string) {
	o.try(func() error { return syscall.Mkfifo(path, 0o622) })
}

// link makes name a relative symbolic link to target, as all links in sysfs are.
func (o *op) link(target, name string) {
	o.try(func() error {
		// The kernel's links always end with the name of the target.
		dir, err := filepath.Rel(filepath.Dir(name), filepath.Dir(target))
		if err != nil {
			return err
		}
		return os.Symlink(filepath.Join(dir, filepath.Base(target)), name)
	})
}

// unlink removes a file or link, if it exists.
func (o *op) unlink(path string) {
	o.try(func() error {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}

// removeAll removes a directory. If a program such as an editor or a shell creates a file in it
// at the same time, the second attempt removes that too.
func (o *op) removeAll(path string) {
	o.try(func() error {
		err := os.RemoveAll(path)
		if errors.Is(err, syscall.ENOTEMPTY) {
			err = os.RemoveAll(path)
		}
		return err
	})
}

// read returns the value of an attribute without its newline, or "" if it cannot be read.
func read(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
