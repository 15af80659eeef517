package lookalike

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"syscall"
)

// written does what the kernel does when the file is written.
func (h *Host) written(file string) {
	name := filepath.Base(file)
	dir := filepath.Dir(file)
	if filepath.Base(dir) == "qat" {
		dir = filepath.Dir(dir)
	}
	address := filepath.Base(dir)
	switch name {
	case "rescan":
		h.askRescan(file)
	case "remove":
		h.askRemove(address, file)
	case "sriov_numvfs":
		h.askVFs(address, file)
	case "state":
		h.askState(address, file)
	case "cfg_services":
		h.askService(address, file)
	}
}

// ask runs an operation that a program asked for by a write to a PF. Nothing is done, and nothing observed, when pending says so.
func (h *Host) ask(name, address string, pending func(d *function) bool, steps func(o *op, d *function)) {
	h.mu.Lock()
	d := h.devices[address]
	wanted := d != nil && pending(d)
	h.mu.Unlock()
	if !wanted {
		return
	}
	_ = h.do(name, address, true, func(o *op) { // the writer cannot be told; an observer is
		if h.devices[address] == d {
			steps(o, d)
		}
	})
}

func (h *Host) askProbe(address string) {
	h.ask("bind", address, func(d *function) bool { return d.driver == "" }, func(o *op, d *function) {
		if driver := o.match(d); driver != "" && d.driver == "" {
			o.Detail = driver
			o.bind(d, driver)
		}
	})
}

func (h *Host) askBind(address, driver string) {
	h.ask("bind", address, func(*function) bool { return true }, func(o *op, d *function) {
		o.Detail = driver
		if o.match(d) != driver {
			o.fail(fmt.Errorf("driver %s does not match; driver_override decides: %w", driver, syscall.ENODEV))
			return
		}
		o.bind(d, driver)
	})
}

func (h *Host) askUnbind(address, driver string) {
	h.ask("unbind", address, func(d *function) bool { return d.driver == driver }, func(o *op, d *function) {
		o.Detail = driver
		if d.driver == driver {
			o.decided()
			o.unbind(d)
		}
	})
}

func (h *Host) askRemove(address, file string) {
	h.ask("remove PF", address, func(d *function) bool { return d.spec != nil && read(file) == "1" }, func(o *op, d *function) {
		h.removed[address] = *d.spec
		o.removePF(d)
	})
}

func (h *Host) askRescan(file string) {
	h.mu.Lock()
	var gone []PF
	if read(file) == "1" {
		for _, pf := range h.removed {
			gone = append(gone, pf)
		}
	}
	h.mu.Unlock()
	for _, pf := range gone {
		pf.State = "up" // the driver's probe brings it up
		_ = h.do("add PF", pf.Address, true, func(o *op) { o.addPF(pf) })
	}
}

func (h *Host) askVFs(address, file string) {
	h.ask("set VFs of", address, func(d *function) bool {
		text := read(file)
		return d.spec != nil && text != "" && text != strconv.Itoa(d.numVFs)
	}, func(o *op, d *function) {
		text := o.take(d, "sriov_numvfs")
		n, err := strconv.Atoi(text)
		switch {
		case text == "":
			return // between the truncation and the write of a shell's echo
		case err != nil:
			o.Detail = text
			o.fail(syscall.EINVAL)
		case n > 0 && n <= d.spec.TotalVFs && d.numVFs == 0:
			o.setVFs(d, d.spec.TotalVFs) // the QAT driver makes all, whatever the number
		default:
			o.setVFs(d, n)
		}
		o.settle(func() { o.showNumVFs(d) })
	})
}

func (h *Host) askState(address, file string) {
	h.ask("set state of", address, func(d *function) bool {
		text := read(file)
		if d.spec == nil || text == "" {
			return false
		}
		if text == d.spec.State {
			d.stateWritten = true
			return false
		}
		return true
	}, func(o *op, d *function) {
		d.stateWritten = false
		if text := o.take(d, "qat/state"); text != "" {
			o.setState(d, text)
			o.settle(func() { o.show(d, "qat/state", d.spec.State) })
		}
	})
}

func (h *Host) askService(address, file string) {
	h.ask("set services of", address, func(d *function) bool {
		text := read(file)
		return d.spec != nil && text != "" && text != d.spec.Services
	}, func(o *op, d *function) {
		services := o.take(d, "qat/cfg_services")
		if services == "" {
			return
		}
		// A script's down, services, up can be over before Serve looks. All that can be seen then is that state was written before
		// and after, though it says what it said.
		quick := d.spec.State == "up" && d.stateWritten && h.server != nil && h.server.soonPending(path.Join(path.Dir(file), "state"))
		d.stateWritten = false
		if quick {
			o.heartbeat(d, false)
			d.spec.State = "down"
			o.removeVFs(d)
			o.showNumVFs(d)
		}
		o.setService(d, services)
		if quick {
			o.heartbeat(d, true)
			d.spec.State = "up"
		}
		o.settle(func() { o.show(d, "qat/cfg_services", d.spec.Services) })
	})
}

// take reads what a user wrote. From here on it counts as seen.
func (o *op) take(d *function, name string) string {
	o.taken, d.shown[name] = name, read(path.Join(d.dir(o.h), name))
	return d.shown[name]
}

// settle makes the file say the truth after a write, above all after one that was refused.
func (o *op) settle(show func()) {
	err := o.Err
	o.Err = nil
	show()
	if err != nil {
		o.Err = err
	}
}
