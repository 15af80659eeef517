// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"qatplugin/internal/measure"
)

// The rows of the table.
const (
	rowStart      = "start to the full list, ms"
	rowAdd        = "16 VFs added, bound and listed, ms"
	rowRemove     = "16 VFs removed, ms"
	rowStormLists = "storm: lists"
	rowStormLate  = "storm: its end to the last list, ms"
	rowStormCPU   = "storm: CPU, ms"
	rowIdleCPU    = "idle: CPU, ms per second"
	rowWakeups    = "idle: wake-ups per second"
	rowRestart    = "kubelet restart to the full list, ms"
	rowAllocate   = "Allocate of 4 VFs, p50, ms"
	rowMemory     = "resident memory, MiB"
	rowEvent      = "VF unbound or bound, p50, ms"
)

var rows = []string{
	rowStart, rowAdd, rowRemove, rowStormLists, rowStormLate, rowStormCPU,
	rowIdleCPU, rowWakeups, rowRestart, rowAllocate, rowMemory, rowEvent,
}

// inTable reports whether the table shows a number of VFs. The plot shows all.
func inTable(vfs int) bool { return vfs == 64 || vfs == 256 || vfs == 1024 }

// table returns the results as a Markdown table. A ratio is the last plugin's value by the first's.
func table(results []sizeResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| VFs | measured | %s | ratio |\n| --- | --- |%s --- |\n",
		strings.Join(results[0].plugins, " | "), strings.Repeat(" --- |", len(results[0].plugins)))
	for _, r := range results {
		if !inTable(r.vfs) && len(results) > 1 {
			continue
		}
		for _, row := range rows {
			if r.has(row) {
				fmt.Fprintf(&b, "| %d | %s | %s |\n", r.vfs, row, strings.Join(r.cells(row), " | "))
			}
		}
		for i, n := range r.ends {
			if n > 0 {
				fmt.Fprintf(&b, "| %d | the %s ended by itself, times | | %d | |\n", r.vfs, r.plugins[i], n)
			}
		}
	}
	return b.String()
}

// has reports whether a row was measured.
func (r *sizeResult) has(row string) bool {
	return slices.ContainsFunc(r.samples, func(s samples) bool { return len(s[row]) > 0 })
}

// cells returns the medians of the plugins, and the ratio of the last one to the first.
func (r *sizeResult) cells(row string) (cells []string) {
	var values []float64
	for i := range r.samples {
		value, ok := r.samples[i].median(row)
		if !ok {
			cells = append(cells, "none")
			continue
		}
		cells = append(cells, number(value))
		values = append(values, value)
	}
	if len(values) < len(r.samples) || values[0] == 0 {
		return append(cells, "")
	}
	return append(cells, number(values[len(values)-1]/values[0]))
}

// number formats a value with two or three significant digits.
func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// conditions returns a description of the machine and of how the results were measured.
func conditions(s *settings) string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	text := fmt.Sprintf("\nMedians of %d rounds on %d CPUs (%s), Linux %s, %s.\n",
		s.rounds, runtime.NumCPU(), measure.Processor(), unix.ByteSliceToString(u.Release[:]), runtime.Version())
	if s.observed {
		return text + fmt.Sprintf(`The plugin ran in the three ways in turns, on the same look-alike host.
The observed one was scraped every %v. A VF was unbound or bound %d times in each round, with %v
between two changes. Idle was measured for %v in each round.
`, scrapeInterval, eventChanges, eventPause, s.idle)
	}
	return text + fmt.Sprintf(`The plugins took turns on the same look-alike host, both with their
default flags, except for -max-num-devices=65536 of the published plugin. A storm adds and removes
%d VFs, 16 at a time. Idle was measured for %v in each round.
`, stormChanges/2, s.idle)
}

// floorTable makes a table of the output of BenchmarkEventToKubelet.
func floorTable(output string) (string, error) {
	var b strings.Builder
	b.WriteString("| VFs | floor p50, µs | floor with look p50, µs | event to list p50, µs | p99, µs " +
		"| p50 / floor |\n" +
		"| --- | --- | --- | --- | --- | --- |\n")
	found := false
	for scanner := bufio.NewScanner(strings.NewReader(output)); scanner.Scan(); {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 2 || !strings.HasPrefix(fields[0], "BenchmarkEventToKubelet/VFs=") {
			continue
		}
		values := map[string]string{}
		for i := 2; i+1 < len(fields); i += 2 {
			values[fields[i+1]] = fields[i]
		}
		vfs, _, _ := strings.Cut(strings.TrimPrefix(fields[0], "BenchmarkEventToKubelet/VFs="), "-")
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n",
			vfs, values["floor-p50-µs"], values["look-p50-µs"], values["p50-µs"], values["p99-µs"], values["p50/floor"])
		found = true
	}
	if !found {
		return "", errors.New("the file of -floor has no result of BenchmarkEventToKubelet")
	}
	return b.String(), nil
}
