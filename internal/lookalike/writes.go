// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// request runs an operation that a program requested by a write. A function that does not exist
// is ignored. The writer does not learn of an error; an observer does.
func (h *Host) request(name, address string, steps func(*op, *function)) {
	_ = h.do(name, address, func(o *op) {
		o.Requested = true
		if d := h.devices[address]; d != nil {
			steps(o, d)
		} else {
			o.ignored = true
		}
	})
}

// handleProbe handles an address written to drivers_probe.
func (h *Host) handleProbe(address string) {
	h.request("bind", address, func(o *op, d *function) {
		o.Value = o.match(d)
		if d.driver != "" || o.Value == "" {
			o.ignored = true
			return
		}
		o.bind(d, o.Value)
	})
}

// handleBind handles an address written to a driver's bind.
func (h *Host) handleBind(address, driver string) {
	h.request("bind", address, func(o *op, d *function) {
		o.Value = driver
		if o.match(d) != driver {
			o.fail(fmt.Errorf("driver %s does not match; set driver_override: %w", driver, syscall.ENODEV))
			return
		}
		o.bind(d, driver)
	})
}

// handleUnbind handles an address written to a driver's unbind.
func (h *Host) handleUnbind(address, driver string) {
	h.request("unbind", address, func(o *op, d *function) {
		o.Value = driver
		if d.driver != driver {
			o.ignored = true
			return
		}
		o.markVisible()
		o.unbind(d)
	})
}

// handleFile handles a write to a regular file.
func (h *Host) handleFile(file string) {
	dir, name := path.Dir(file), path.Base(file)
	switch path.Base(dir) {
	case "qat":
		dir = path.Dir(dir)
	case "telemetry": // in debugfs, in the directory qat_<driver>_<address>
		dir = path.Dir(dir)
		dir = dir[strings.LastIndexByte(dir, '_')+1:]
	}
	var operation string
	var handle func(*op, *function)
	switch name {
	case "rescan":
		h.handleRescan(file)
		return
	case "remove":
		operation, handle = "remove PF", (*op).handleRemove
	case "sriov_numvfs":
		operation, handle = "set VFs of", (*op).handleNumVFs
	case "state":
		operation, handle = "set state of", (*op).handleState
	case "cfg_services":
		operation, handle = "set services of", (*op).handleServices
	case "pm_idle_enabled":
		operation, handle = "set idle power management of", (*op).handlePMIdle
	case "auto_reset":
		operation, handle = "set automatic reset of", (*op).handleAutoReset
	case "control":
		operation, handle = "set telemetry control of", (*op).handleTelemetry
	default:
		return
	}
	h.request(operation, path.Base(dir), func(o *op, d *function) {
		if d.spec != nil {
			handle(o, d)
		} else {
			o.ignored = true // a VF took the address of a removed PF
		}
	})
}

func (h *Host) handleRescan(file string) {
	h.mu.Lock()
	var removed []PF
	if read(file) == "1" {
		removed = slices.Collect(maps.Values(h.removed))
	}
	h.mu.Unlock()
	for _, pf := range removed {
		pf.State = "up" // the driver's probe brings it up
		_ = h.do("add PF", pf.Address, func(o *op) {
			o.Requested = true
			o.addPF(pf)
		})
	}
}

func (o *op) handleRemove(pf *function) {
	if read(path.Join(pf.dir(o.h), "remove")) != "1" {
		o.ignored = true
		return
	}
	o.h.removed[pf.address] = *pf.spec
	o.removePF(pf)
}

func (o *op) handleNumVFs(pf *function) {
	text, ok := o.take(pf, "sriov_numvfs", strconv.Itoa(pf.numVFs))
	if !ok {
		return
	}
	n, err := strconv.Atoi(text)
	switch {
	case err != nil:
		o.Value = text
		o.fail(syscall.EINVAL)
	case n > 0 && n <= pf.spec.TotalVFs && pf.numVFs == 0:
		o.setVFs(pf, pf.spec.TotalVFs) // the QAT driver creates all, whatever the number
	default:
		o.setVFs(pf, n)
	}
	o.restore(pf, "sriov_numvfs", strconv.Itoa(pf.numVFs))
}

func (o *op) handleState(pf *function) {
	text, ok := o.take(pf, "qat/state", pf.spec.State)
	if ok {
		o.setState(pf, text)
		o.restore(pf, "qat/state", pf.spec.State)
	}
	pf.stateWritten = !ok || pf.spec.State == "up"
}

func (o *op) handleServices(pf *function) {
	services, ok := o.take(pf, "qat/cfg_services", pf.spec.Services)
	if !ok {
		return
	}
	o.whileDown(pf, func() { o.setServices(pf, services) })
	o.restore(pf, "qat/cfg_services", pf.spec.Services)
}

// whileDown makes a change that requires the PF to be down. A program can write down to state, make
// the change and write up before Serve looks. State then reads up, as before, or too early. Only
// the writes to it before and after the change show that the PF was to be down.
func (o *op) whileDown(pf *function, change func()) {
	state := path.Join(pf.dir(o.h), "qat/state")
	missedDown := pf.spec.State == "up" && pf.stateWritten && o.h.server.pendingSoon(state)
	if !missedDown {
		pf.stateWritten = false
		change()
		return
	}
	o.setUpFiles(pf, false)
	pf.spec.State = "down"
	o.removeVFs(pf)
	o.showNumVFs(pf)
	change()
	pf.spec.State = "up"
	o.setUpFiles(pf, true)
}

// handlePMIdle is pm_idle_enabled_store (qat_common/adf_sysfs.c).
func (o *op) handlePMIdle(pf *function) {
	text, ok := o.take(pf, "qat/pm_idle_enabled", pf.pmIdle)
	if !ok {
		return
	}
	o.whileDown(pf, func() { o.setPMIdle(pf, text) })
	o.restore(pf, "qat/pm_idle_enabled", pf.pmIdle)
}

func (o *op) setPMIdle(pf *function, text string) {
	o.Value = text
	switch value := map[string]string{"0": "0", "off": "0", "1": "1", "on": "1"}[text]; {
	case value == "":
		o.fail(syscall.EINVAL)
	case pf.spec.State != "down":
		o.fail(fmt.Errorf("the PF is up, and this can change only while it is down: %w", syscall.EINVAL))
	default:
		o.markVisible()
		pf.pmIdle = value
	}
}

// handleAutoReset is auto_reset_store (qat_common/adf_sysfs.c), which the driver accepts at any
// time.
func (o *op) handleAutoReset(pf *function) {
	text, ok := o.take(pf, "qat/auto_reset", pf.autoReset)
	if !ok {
		return
	}
	o.Value = text
	if value := map[string]string{"0": "off", "off": "off", "1": "on", "on": "on"}[text]; value != "" {
		o.markVisible()
		pf.autoReset = value
	} else {
		o.fail(syscall.EINVAL)
	}
	o.restore(pf, "qat/auto_reset", pf.autoReset)
}
