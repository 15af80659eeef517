// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// rows of the table.
var rows = []struct {
	name  string
	value func(*samples) string
}{
	{"start to all slices visible, ms", started(func(s *samples) string { return milliseconds(median(s.start)) })},
	{"change to visible, p50, ms", changed(func(s *samples) string { return milliseconds(median(s.visible)) })},
	{"change to visible, p99, ms", changed(func(s *samples) string {
		return milliseconds(percentile(s.visible, 0.99))
	})},
	{"writes a change", changed(func(s *samples) string { return digits(float64(s.writes) / float64(s.changes)) })},
	{"storm: writes a second", changed(func(s *samples) string {
		return digits(float64(s.stormWrites) / s.stormed.Seconds())
	})},
	{"storm: its end to the last write, ms", changed(func(s *samples) string { return milliseconds(median(s.late)) })},
	{"resident memory, MiB", started(func(s *samples) string {
		return digits(float64(slices.Max(s.memory)) / 1024)
	})},
}

// started returns "none" for a driver that cannot publish so many devices.
func started(value func(*samples) string) func(*samples) string {
	return func(s *samples) string {
		if len(s.start) == 0 {
			return "none"
		}
		return value(s)
	}
}

// changed returns an empty cell for a driver to which no change was made.
func changed(value func(*samples) string) func(*samples) string {
	return func(s *samples) string {
		if s.changes == 0 {
			return ""
		}
		return value(s)
	}
}

func table(drivers []driver, results []result) string {
	var b strings.Builder
	b.WriteString("| VFs | measured |")
	for _, d := range drivers {
		b.WriteString(" " + d.name + " |")
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- |", len(drivers)) + "\n")
	for _, r := range results {
		for _, row := range rows {
			fmt.Fprintf(&b, "| %d | %s |", r.vfs, row.name)
			for i := range r.samples {
				b.WriteString(" " + row.value(&r.samples[i]) + " |")
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func milliseconds(d time.Duration) string { return digits(float64(d) / float64(time.Millisecond)) }

// digits formats a value with two or three significant digits.
func digits(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}
