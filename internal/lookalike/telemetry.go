// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// maxSamples is the highest value of telemetry/control: the number of samples from which the driver
// calculates minimum, maximum and average (adf_gen4_tl.h, ADF_GEN4_TL_NUM_HIST_BUFFS).
const maxSamples = 4

// An Engine holds the counters of one acceleration engine of a PF.
type Engine struct {
	Requests  uint64 // fw_counters: messages that were sent to the engine
	Responses uint64 // fw_counters: messages that came from it

	CompressErrors uint16 // cnv_errors: errors that compress-and-verify found
}

// telemetry is the state of the files in debugfs that show the work of a PF.
type telemetry struct {
	engines []Engine
	values  map[string]uint64 // what the device measures, by the name of the counter
	control int               // telemetry/control: 0, or the number of samples that are kept
	taken   uint64            // number of samples that were taken
	samples []map[string]uint64
}

// sliceType is a kind of hardware unit, in the order in which device_data lists them.
type sliceType struct {
	name    string
	slices  int    // number of units in a device; the firmware reports it to the driver
	queues  int    // number of command queues of a unit, on Gen6
	service string // service that Work uses it for; "" none
}

// slicesOf returns the slices of a device with that driver. The names and their order are those of
// adf_gen4_tl.c and adf_gen6_tl.c (drivers/crypto/intel/qat/qat_common). The numbers are examples.
func slicesOf(driver string) []sliceType {
	switch driver {
	case "4xxx", "420xx":
		return []sliceType{
			{name: "cpr", slices: 1, service: "dc"},
			{name: "xlt", slices: 1, service: "dc"},
			{name: "dcpr", slices: 2, service: "dc"},
			{name: "pke", slices: 6, service: "asym"},
			{name: "wat", slices: 2},
			{name: "wcp", slices: 2},
			{name: "ucs", slices: 4, service: "sym"},
			{name: "cph", slices: 4, service: "sym"},
			{name: "ath", slices: 4, service: "sym"},
		}
	case "6xxx":
		return []sliceType{
			{name: "cnv", slices: 2, queues: 5, service: "dc"},
			{name: "dcprz", slices: 2, queues: 3, service: "decomp"},
			{name: "pke", slices: 16, queues: 1, service: "asym"},
			{name: "wat", slices: 2, queues: 7},
			{name: "wcp", slices: 2, queues: 7},
			{name: "ucs", slices: 4, queues: 3, service: "sym"},
			{name: "ath", slices: 4, queues: 2, service: "sym"},
		}
	}
	return nil
}

// counters returns the names of the counters in device_data in their order, without sample_cnt:
// those of the device, of its slices, and on Gen6 of the command queues.
func counters(driver string) []string {
	names := []string{
		"pci_trans_cnt", "max_rd_lat", "rd_lat_acc_avg", "max_gp_lat", "gp_lat_acc_avg", "bw_in", "bw_out",
		"at_page_req_lat_avg", "at_trans_lat_avg", "at_max_tlb_used",
	}
	if driver == "6xxx" {
		names = append(names, "re_acc_avg")
	}
	for _, s := range slicesOf(driver) {
		for i := range s.slices {
			names = append(names, fmt.Sprint("util_", s.name, i), fmt.Sprint("exec_", s.name, i))
		}
	}
	for _, s := range slicesOf(driver) {
		for i := range s.slices * s.queues {
			for _, what := range []string{"wait", "exec", "drain"} {
				names = append(names, fmt.Sprint("cmdq_", what, "_", s.name, i))
			}
		}
	}
	return names
}

// hasTelemetry reports whether the driver of the PF has device telemetry and qat_ras/. Drivers with
// the attribute group qat/ do.
func (d *function) hasTelemetry() bool {
	return d.spec.Services != "" && slicesOf(d.spec.Driver) != nil
}

// isUp reports whether the files of a PF exist that exist only while it is up.
func (d *function) isUp() bool { return d.driver == d.spec.Driver && d.spec.State == "up" }

// SetTelemetry sets what the device of a PF measures, by the names of the counters in
// telemetry/device_data. Other counters keep their values. If telemetry is on, the device takes a
// sample.
func (h *Host) SetTelemetry(address string, values map[string]uint64) error {
	return h.doPF("set telemetry of", address, func(o *op, pf *function) {
		known := counters(pf.spec.Driver)
		if !pf.isUp() || !pf.hasTelemetry() {
			o.fail(syscall.ENOENT)
			return
		}
		for name := range values {
			if !slices.Contains(known, name) {
				o.fail(fmt.Errorf("there is no counter %q", name))
				return
			}
		}
		maps.Copy(pf.telemetry.values, values)
		o.sample(pf)
	})
}

// SetEngines sets the counters of the engines of a PF, the first ones of those that it has.
func (h *Host) SetEngines(address string, engines ...Engine) error {
	return h.doPF("set engines of", address, func(o *op, pf *function) {
		switch {
		case !pf.isUp():
			o.fail(syscall.ENOENT)
			return
		case len(engines) > len(pf.telemetry.engines):
			o.fail(fmt.Errorf("it has %d engines", len(pf.telemetry.engines)))
			return
		}
		copy(pf.telemetry.engines, engines)
		o.showEngines(pf)
	})
}

// Work makes all PFs that are up work for one second: they count requests and responses, and those
// with telemetry on take a sample. second is the time; the load of each PF varies with it.
func (h *Host) Work(second int) error {
	h.mu.Lock()
	var pfs []string
	for address, d := range h.devices {
		if d.spec != nil && d.isUp() {
			pfs = append(pfs, address)
		}
	}
	h.mu.Unlock()
	slices.Sort(pfs)
	for i, address := range pfs {
		err := h.doPF("work on", address, func(o *op, pf *function) {
			o.ignored = true
			if pf.isUp() {
				o.work(pf, second, i)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *op) work(pf *function, second, number int) {
	// Two waves of a minute and of seven seconds, out of step between PFs, from 0 to 1.
	t := float64(second)
	load := 0.5 + 0.35*math.Sin(t*math.Pi/30+float64(number)) + 0.15*math.Sin(t*2*math.Pi/7+2*float64(number))
	state := &pf.telemetry
	state.values["pci_trans_cnt"] = uint64(load * 900)
	state.values["bw_in"] = uint64(load * 38_000)
	state.values["bw_out"] = uint64(load * 31_000)
	state.values["rd_lat_acc_avg"] = uint64(700 + 500*load)
	state.values["max_rd_lat"] = uint64(1500 + 2500*load)
	state.values["gp_lat_acc_avg"] = uint64(4000 + 9000*load)
	state.values["max_gp_lat"] = uint64(9000 + 40000*load)
	services := strings.Split(pf.spec.Services, ";")
	for _, s := range slicesOf(pf.spec.Driver) {
		for i := range s.slices {
			percent := 0.0
			if slices.Contains(services, s.service) {
				percent = 100 * load * (1 - 0.2*float64(i)/float64(s.slices))
			}
			state.values[fmt.Sprint("util_", s.name, i)] = uint64(percent)
			state.values[fmt.Sprint("exec_", s.name, i)] = uint64(percent * 2000)
		}
	}
	for i := range state.engines {
		e := &state.engines[i]
		n := uint64(load * 100_000 / float64(1+i))
		e.Requests += n
		e.Responses += n
	}
	o.showEngines(pf)
	o.sample(pf)
}

// startTelemetry creates what the driver shows of the PF's work: adf_dbgfs_add (adf_dbgfs.c) and
// adf_sysfs_start_ras (adf_sysfs_ras_counters.c). The counters start again at 0.
func (o *op) startTelemetry(pf *function) {
	f, _ := familyOf(pf.id)
	pf.telemetry = telemetry{engines: make([]Engine, f.engines), values: map[string]uint64{}}
	o.showEngines(pf)
	if !pf.hasTelemetry() {
		return
	}
	dir := o.h.telemetryDir(pf)
	o.mkdir(dir)
	o.watchWrites(dir) // before there is a file to write to
	o.replace(path.Join(dir, "device_data"), "")
	o.replace(path.Join(dir, "control"), "0")
	ras := path.Join(pf.dir(o.h), "qat_ras")
	o.mkdir(ras)
	for _, kind := range []string{"correctable", "nonfatal", "fatal"} {
		o.create(path.Join(ras, "errors_"+kind), "0")
	}
}

func (o *op) stopTelemetry(pf *function) {
	o.removeAll(path.Join(pf.dir(o.h), "qat_ras"))
	o.removeAll(o.h.telemetryDir(pf))
	o.removeAll(path.Join(o.h.debugfs(pf), "cnv_errors"))
	o.removeAll(path.Join(o.h.debugfs(pf), "fw_counters"))
}

func (h *Host) telemetryDir(pf *function) string { return path.Join(h.debugfs(pf), "telemetry") }

// showEngines writes the files that have a line for each engine. Drivers outside of the kernel do
// not have them.
func (o *op) showEngines(pf *function) {
	if len(pf.telemetry.engines) == 0 {
		return
	}
	o.replace(path.Join(o.h.debugfs(pf), "fw_counters"), fwCounters(pf.telemetry.engines))
	o.replace(path.Join(o.h.debugfs(pf), "cnv_errors"), cnvErrors(pf.telemetry.engines, pf.spec.Services))
}

// fwCounters is qat_fw_counters_seq_show (adf_fw_counters.c).
func fwCounters(engines []Engine) string {
	lines := []string{fmt.Sprintf("AE  %16s %16s", "Requests", "Responses")}
	for i, e := range engines {
		lines = append(lines, fmt.Sprintf("%2d: %16d %16d", i, e.Requests, e.Responses))
	}
	return strings.Join(lines, "\n")
}

// cnvErrors is qat_cnv_errors_seq_show (adf_cnv_dbgfs.c).
func cnvErrors(engines []Engine, services string) string {
	if services != "" && !strings.Contains(services, "dc") { // adf_hw_dev_has_compression
		return "No engine configured for comp"
	}
	lines := []string{fmt.Sprintf("AE  %16s %16s", "Total Errors", "Last Error")}
	for i, e := range engines {
		last := "No Error"
		if e.CompressErrors > 0 {
			last = "Checksum Error"
		}
		lines = append(lines, fmt.Sprintf("%d: %16d%16s [%d]", i, e.CompressErrors, last, 0))
	}
	return strings.Join(lines, "\n")
}

// sample makes the device take a sample, if telemetry is on: tl_work_handler (adf_telemetry.c).
func (o *op) sample(pf *function) {
	state := &pf.telemetry
	if state.control == 0 {
		return
	}
	state.taken++
	state.samples = append(state.samples, maps.Clone(state.values))
	state.samples = state.samples[max(0, len(state.samples)-state.control):]
	o.replace(path.Join(o.h.telemetryDir(pf), "device_data"), state.deviceData(pf.spec.Driver))
}

// deviceData is tl_print_dev_data (adf_tl_debugfs.c).
func (t *telemetry) deviceData(driver string) string {
	lines := []string{fmt.Sprintf("%-23s%20d", "sample_cnt", t.taken)}
	for _, name := range counters(driver) {
		newest := t.samples[len(t.samples)-1][name]
		line := fmt.Sprintf("%-23s%20d", name, newest)
		if t.control > 1 {
			least, most, sum := newest, newest, uint64(0)
			for _, s := range t.samples {
				least, most, sum = min(least, s[name]), max(most, s[name]), sum+s[name]
			}
			line += fmt.Sprintf("%20d%20d%20d", least, most, sum/uint64(len(t.samples)))
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// handleTelemetry is tl_control_write (adf_tl_debugfs.c). The device takes the first sample at
// once, not after a second. While telemetry is off, device_data is empty; a kernel refuses to
// read it with EPERM.
func (o *op) handleTelemetry(pf *function) {
	state, dir := &pf.telemetry, o.h.telemetryDir(pf)
	file := path.Join(dir, "control")
	text := read(file)
	if text == "" || text == strconv.Itoa(state.control) {
		o.ignored = true
		return
	}
	o.Value = text
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxSamples {
		o.fail(syscall.EINVAL)
		o.tryAnyway(func() { o.replace(file, strconv.Itoa(state.control)) })
		return
	}
	o.markVisible()
	state.control, state.samples = n, nil
	if n == 0 {
		o.replace(path.Join(dir, "device_data"), "")
	}
	o.sample(pf)
}
