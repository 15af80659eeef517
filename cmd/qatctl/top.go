// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"qatplugin/internal/status"
	"qatplugin/internal/statusclient"
)

// clearScreen clears a terminal (console_codes(4)).
const clearScreen = "\x1b[H\x1b[2J"

func (a *app) newTop() *cobra.Command {
	var once bool
	var interval time.Duration
	var output string
	c := &cobra.Command{
		Use:   "top",
		Short: "Show how busy each PF is: utilization, bandwidth, latency and requests",
		Long: `Show how busy each PF is. On a terminal the table is refreshed until Ctrl-C.

The device's own telemetry needs Linux 6.8, a device of Gen4 or later, and a plugin that was
started with -telemetry: the bandwidth of the PCI bus in each direction, the mean latency of a
request (get to put), and the utilization of the slices, which are the units of the device for
compression (cpr, xlt, dcpr), public keys (pke) and ciphers (ucs, wat, wcp, cph, ath). With -o wide,
each type of slice has a column. The requests that the firmware received need Linux 6.6. Errors are
those of compression (cnv_errors) and of the hardware (qat_ras).`,
		Args: noArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if interval < 100*time.Millisecond {
				return usageError{fmt.Errorf("--interval: invalid value %v: must be at least 100ms", interval)}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return a.top(c.Context(), once, interval, output) },
	}
	c.Flags().BoolVar(&once, "once", false, "print the table once, as without a terminal")
	c.Flags().DurationVar(&interval, "interval", 2*time.Second, "`time` between two refreshes, at least 100ms")
	outputFlag(c, &output, "wide", "json", "yaml")
	return c
}

func (a *app) top(ctx context.Context, once bool, interval time.Duration, output string) error {
	_, terminal := isTerminal(a.stdout)
	var previous []status.Telemetry
	for {
		var s *status.Snapshot
		var list []status.Telemetry
		err := a.ask(ctx, func(ctx context.Context, c *statusclient.Client) (err error) {
			if list, err = c.Telemetry(ctx); err == nil {
				s, err = c.Snapshot(ctx)
			}
			return err
		})
		switch {
		case errors.Is(context.Cause(ctx), errInterrupted):
			return nil
		case err != nil:
			return err
		case output == "json", output == "yaml":
			return a.print(output, list)
		}
		if terminal && !once {
			a.printf(clearScreen)
		}
		a.printf("qat_plugin %s, up %s, %s\n", s.Version, age(s.Time.Sub(s.Started)),
			s.Time.Local().Format(time.TimeOnly))
		a.printTop(s, list, previous, output == "wide")
		if once || !terminal {
			return nil
		}
		previous = list
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

// printTop prints the table of top. previous are the counters of the previous refresh, if there
// was one.
func (a *app) printTop(s *status.Snapshot, list, previous []status.Telemetry, wide bool) {
	t := &table{header: []string{"PF", "RESOURCE", "STATE", "IN", "OUT", "LATENCY", "REQUESTS", "ERRORS", "BUSIEST"}}
	if previous != nil {
		t.header[6] = "REQ/S"
	}
	types, limit := []string(nil), a.width()
	if wide {
		types, limit = sliceTypes(list), 0
		t.header = append(t.header[:8], "FAMILY", "NUMA")
		for _, name := range types {
			t.header = append(t.header, strings.ToUpper(name))
		}
	}
	for i := range s.PFs {
		p := &s.PFs[i]
		now := findTelemetry(list, p.Address)
		row := []cell{{p.Address, plain}, {orDash(p.Resource), plain}, {joinedState(p), stateColor(p.Health)}}
		row = append(row, deviceCells(now)...)
		row = append(row, requestCells(now, findTelemetry(previous, p.Address), previous != nil)...)
		if !wide {
			t.add(append(row, busiest(now))...)
			continue
		}
		row = append(row, cell{p.Family, plain}, cell{numaNode(p.NUMANode), plain})
		for _, name := range types {
			row = append(row, utilization(now, name))
		}
		t.add(row...)
	}
	a.printTable(t, limit)
	if !slices.ContainsFunc(list, func(t status.Telemetry) bool { return t.Device != nil }) {
		a.printf("\nNo telemetry of the devices: start the plugin with -telemetry (Linux 6.8, Gen4 or later).\n")
	}
}

// sliceTypes returns the types of slices that any PF has.
func sliceTypes(list []status.Telemetry) []string {
	types := map[string]bool{}
	for i := range list {
		if d := list[i].Device; d != nil {
			for name := range d.Utilization {
				types[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(types))
}

func joinedState(p *status.PF) string {
	if p.Health != status.Healthy {
		return p.Health
	}
	return orDash(p.State)
}

func findTelemetry(list []status.Telemetry, address string) *status.Telemetry {
	i := slices.IndexFunc(list, func(t status.Telemetry) bool { return t.Address == address })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// Utilization in percent from which a type of slices is marked.
const (
	busy      = 60
	saturated = 90
)

func loadColor(percent float64) color {
	switch {
	case percent >= saturated:
		return red
	case percent >= busy:
		return yellow
	}
	return plain
}

// utilization returns the utilization of a type of slices.
func utilization(t *status.Telemetry, name string) cell {
	if t != nil && t.Device != nil {
		if percent, ok := t.Device.Utilization[name]; ok {
			return cell{fmt.Sprintf("%.0f%%", percent), loadColor(percent)}
		}
	}
	return cell{"-", plain}
}

// busiest returns the two types of slices with the highest utilization.
func busiest(t *status.Telemetry) cell {
	if t == nil || t.Device == nil || len(t.Device.Utilization) == 0 {
		return cell{"-", plain}
	}
	all := t.Device.Utilization
	return cell{utilizations(all, 2), loadColor(slices.Max(slices.Collect(maps.Values(all))))}
}

// utilizations returns the highest of the utilizations by type of slice, at most n.
func utilizations(all map[string]float64, n int) string {
	names := slices.SortedFunc(maps.Keys(all), func(x, y string) int {
		return cmp.Or(cmp.Compare(all[y], all[x]), cmp.Compare(x, y))
	})
	texts := []string{}
	for _, name := range names[:min(n, len(names))] {
		texts = append(texts, fmt.Sprintf("%s %.0f%%", name, all[name]))
	}
	return strings.Join(texts, ", ")
}

func deviceCells(t *status.Telemetry) []cell {
	if t == nil || t.Device == nil {
		return []cell{{"-", plain}, {"-", plain}, {"-", plain}}
	}
	latency := "-"
	if t.Device.GetPutLatency > 0 {
		latency = shortDuration(t.Device.GetPutLatency)
	}
	return []cell{{bitRate(t.Device.BandwidthIn), plain}, {bitRate(t.Device.BandwidthOut), plain}, {latency, plain}}
}

// requestCells returns the requests of the firmware, or their rate since the previous refresh, and
// the number of errors.
func requestCells(now, before *status.Telemetry, rate bool) []cell {
	if now == nil {
		return []cell{{"-", plain}, {"-", plain}}
	}
	requests := "-"
	switch {
	case len(now.Firmware) == 0:
	case !rate:
		requests = quantity(float64(sumRequests(now)))
	case before != nil && len(before.Firmware) > 0 && sumRequests(now) >= sumRequests(before):
		if seconds := now.Time.Sub(before.Time).Seconds(); seconds > 0 {
			requests = quantity(float64(sumRequests(now)-sumRequests(before)) / seconds)
		}
	}
	failures := sum(now.CompressErrors) + sum(now.RAS)
	c := plain
	if failures > 0 {
		c = red
	}
	return []cell{{requests, plain}, {fmt.Sprint(failures), c}}
}

func sumRequests(t *status.Telemetry) (sum uint64) {
	for _, e := range t.Firmware {
		sum += e.Requests
	}
	return sum
}

// bitRate returns bits per second with a unit.
func bitRate(bits float64) string { return quantity(bits) + "b/s" }

// quantity returns a number with three digits and a decimal prefix.
func quantity(n float64) string {
	for _, unit := range []string{"", "k", "M", "G"} {
		if n < 999.5 || unit == "G" {
			if n < 10 && unit != "" {
				return fmt.Sprintf("%.1f%s", n, unit)
			}
			return fmt.Sprintf("%.0f%s", n, unit)
		}
		n /= 1000
	}
	return ""
}
