// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"qatplugin/internal/status"
)

// parseDeviceData parses telemetry/device_data. Each line has the name of a counter, its current
// value, and minimum, maximum and average if control is more than 1 (adf_tl_debugfs.c,
// tl_seq_printf_counter). parseDeviceData ignores counters that it does not know. It returns nil if
// there are no lines.
func parseDeviceData(text string) (*status.DeviceTelemetry, error) {
	d := &status.DeviceTelemetry{Utilization: map[string]float64{}}
	slices := map[string]int{} // type and index → place in d.Slices
	lines := 0
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		lines++
		if len(fields) != 2 && len(fields) != 5 {
			return nil, fmt.Errorf("line %q: it must have a name and one or four values", strings.TrimSpace(line))
		}
		value, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", strings.TrimSpace(line), errors.Unwrap(err))
		}
		if !setCounter(d, fields[0], value) {
			setSlice(d, slices, fields[0], value)
		}
	}
	if lines == 0 {
		return nil, nil
	}
	numbers := map[string]int{}
	for _, s := range d.Slices {
		d.Utilization[s.Type] += s.Utilization
		numbers[s.Type]++
	}
	for name, n := range numbers {
		d.Utilization[name] /= float64(n)
	}
	return d, nil
}

// setCounter sets a counter of the device, and reports whether it is one. The kernel shows
// latencies in nanoseconds and bandwidth in Mbit/s.
func setCounter(d *status.DeviceTelemetry, name string, value uint64) bool {
	seconds := func(to *float64) bool {
		*to = float64(value) / 1e9
		return true
	}
	switch name {
	case "sample_cnt":
		d.Samples = value
	case "pci_trans_cnt":
		d.PCITransactions = value
	case "bw_in":
		d.BandwidthIn = float64(value) * 1e6
	case "bw_out":
		d.BandwidthOut = float64(value) * 1e6
	case "rd_lat_acc_avg":
		return seconds(&d.ReadLatency)
	case "max_rd_lat":
		return seconds(&d.MaxReadLatency)
	case "gp_lat_acc_avg":
		return seconds(&d.GetPutLatency)
	case "max_gp_lat":
		return seconds(&d.MaxGetPutLatency)
	case "at_page_req_lat_avg":
		return seconds(&d.PageRequestLatency)
	case "at_trans_lat_avg":
		return seconds(&d.TranslationLatency)
	default:
		return false
	}
	return true
}

// sliceCounter matches the counters of slices: util_<type><index> and exec_<type><index>.
var sliceCounter = regexp.MustCompile(`^(util|exec)_([a-z]+)([0-9]{1,3})$`)

// setSlice sets a counter of a slice, unless the name is that of another counter.
func setSlice(d *status.DeviceTelemetry, places map[string]int, name string, value uint64) {
	match := sliceCounter.FindStringSubmatch(name)
	if match == nil {
		return
	}
	kind, index := match[2], match[3]
	place, known := places[kind+index]
	if !known {
		place = len(d.Slices)
		places[kind+index] = place
		n, _ := strconv.Atoi(index) // it has three digits at most
		d.Slices = append(d.Slices, status.Slice{Type: kind, Index: n})
	}
	if match[1] == "util" {
		d.Slices[place].Utilization = float64(value)
	} else {
		d.Slices[place].Executions = value
	}
}

// outOfTreeCounter matches a line of fw_counters of Intel's out-of-tree driver, such as
// "| Firmware Requests [AE  0]:               83909 |".
var outOfTreeCounter = regexp.MustCompile(`^\| Firmware (Requests|Responses) *\[AE +([0-9]+)\]: +([0-9]+) \|$`)

// parseEngines parses fw_counters. The kernel prints a header, and a line
// "<engine>: <requests> <responses>" for each engine (adf_fw_counters.c).
func parseEngines(text string) ([]status.EngineCounters, error) {
	if strings.HasPrefix(text, "+--") {
		return parseOutOfTreeEngines(text)
	}
	var engines []status.EngineCounters
	err := parseTable(text, 3, func(engine string, fields []string) error {
		requests, err1 := strconv.ParseUint(fields[0], 10, 64)
		responses, err2 := strconv.ParseUint(fields[1], 10, 64)
		engines = append(engines, status.EngineCounters{Engine: engine, Requests: requests, Responses: responses})
		return errors.Join(err1, err2)
	})
	if err != nil {
		return nil, err
	}
	return engines, nil
}

// parseOutOfTreeEngines parses fw_counters of Intel's out-of-tree driver. It prints a banner, and
// two or more lines for each engine.
func parseOutOfTreeEngines(text string) ([]status.EngineCounters, error) {
	var engines []status.EngineCounters
	for line := range strings.Lines(text) {
		match := outOfTreeCounter.FindStringSubmatch(strings.TrimSpace(line))
		if match == nil {
			continue
		}
		if len(engines) == 0 || engines[len(engines)-1].Engine != match[2] {
			engines = append(engines, status.EngineCounters{Engine: match[2]})
		}
		e := &engines[len(engines)-1]
		to := &e.Requests
		if match[1] == "Responses" {
			to = &e.Responses
		}
		var err error
		if *to, err = strconv.ParseUint(match[3], 10, 64); err != nil {
			return nil, fmt.Errorf("line %q: %w", strings.TrimSpace(line), errors.Unwrap(err))
		}
	}
	return engines, nil
}

// noCompression is what cnv_errors contains if the device does not compress (adf_cnv_dbgfs.c).
const noCompression = "No engine configured for comp"

// parseCompressErrors parses cnv_errors. The kernel prints a header, and a line
// "<engine>: <errors> <name of the last error> [<detail>]" for each engine that compresses
// (adf_cnv_dbgfs.c).
func parseCompressErrors(text string) (map[string]uint64, error) {
	if strings.TrimSpace(text) == noCompression {
		return nil, nil
	}
	counts := map[string]uint64{}
	err := parseTable(text, 2, func(engine string, fields []string) error {
		n, err := strconv.ParseUint(fields[0], 10, 64)
		counts[engine] += n
		return err
	})
	if err != nil || len(counts) == 0 {
		return nil, err
	}
	return counts, nil
}

// parseTable calls f for each line of a table of engines, with the number of the engine and the
// other columns. A line must have a number of columns at least. The header begins with AE.
func parseTable(text string, columns int, f func(engine string, fields []string) error) error {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "AE" {
			continue
		}
		engine, ok := strings.CutSuffix(fields[0], ":")
		if _, err := strconv.ParseUint(engine, 10, 16); err != nil || !ok {
			return fmt.Errorf("line %q: it does not begin with the number of an engine", strings.TrimSpace(line))
		}
		if len(fields) < columns {
			return fmt.Errorf("line %q: it has fewer than %d columns", strings.TrimSpace(line), columns)
		}
		if err := f(engine, fields[1:]); err != nil {
			return fmt.Errorf("line %q: %w", strings.TrimSpace(line), err)
		}
	}
	return nil
}

// parseCount parses a file that contains one number, such as qat_ras/errors_fatal.
func parseCount(text string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a count", strings.TrimSpace(text))
	}
	return n, nil
}

// parseTotal parses aer_dev_*. The kernel prints a line for each kind of error, and the total in a
// line such as "TOTAL_ERR_FATAL 3" (drivers/pci/pcie/aer.c, aer_stats_dev_attr).
func parseTotal(text string) (uint64, error) {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 2 && strings.HasPrefix(fields[0], "TOTAL_ERR_") {
			return parseCount(fields[1])
		}
	}
	return 0, errors.New("there is no line TOTAL_ERR_")
}
