// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"
)

// fleetTable shows what the scenarios took.
func fleetTable(first string, results []result) string {
	var b strings.Builder
	header(&b, first, "scenario", "all right after, s", "all watch after, s", "visible p50, ms", "p99, ms",
		"changes", "writes", "reads", "watches", "429", "other failures", "requests in the busiest second",
		"sent a node, KB", "received a node, KB", "API server CPU, s")
	for i := range results {
		r := &results[i]
		took := fmt.Sprintf("%.2f", r.took.Seconds())
		if r.wrong > 0 {
			took = fmt.Sprintf("not for %d nodes", r.wrong)
		}
		c := r.count()
		watching := ""
		if r.watching > 0 {
			watching = fmt.Sprintf("%.2f", r.watching.Seconds())
		}
		row(&b, r.label, r.scenario, took, watching,
			milliseconds(percentile(r.delays, 0.5)), milliseconds(percentile(r.delays, 0.99)),
			r.changes, c.writes, c.reads, c.watches, c.rejected, c.failed, c.busiest,
			kilobytes(r.sent/int64(r.nodes)), kilobytes(r.received/int64(r.nodes)),
			fmt.Sprintf("%.1f", r.apiServer.CPU.Seconds()))
	}
	return b.String()
}

// sizeTable shows what a fleet of each size needs after its cold start.
func sizeTable(sizes []sizeResult) string {
	var b strings.Builder
	header(&b, "nodes", "slices, MB", "driver, KB a node", "API server, MiB", "etcd, MiB", "etcd's database, MB",
		"list of all slices, ms", "MB, compressed")
	for _, s := range sizes {
		row(&b, s.nodes, megabytes(int64(s.slice)*int64(s.nodes)), kilobytes(s.perDriver),
			mebibytes(s.apiServer.Resident), mebibytes(s.etcd.Resident), megabytes(s.database),
			milliseconds(s.listTook), megabytes(s.listBytes))
	}
	return b.String()
}

// capacityTable shows how many slices one API server can write.
func capacityTable(capacities []capacity) string {
	var b strings.Builder
	header(&b, "devices in a slice", "slice, KB", "open watches", "their fields", "one write, ms", "writes a second",
		"API server CPU a write, ms", "429", "memory a watch, KB")
	for _, c := range capacities {
		fields, memory := "", ""
		if c.watches > 0 {
			fields, memory = c.watchBy.text, kilobytes(c.perWatch)
		}
		row(&b, c.devices, kilobytes(int64(c.size)), c.watches, fields, milliseconds(c.one),
			fmt.Sprintf("%.0f", c.rate), milliseconds(c.cpu), c.rejected, memory)
	}
	return b.String()
}

// compaction is the default of -etcd-compaction-interval of kube-apiserver: etcd keeps all versions
// of a slice for so many seconds.
const compaction = 300

// extrapolation multiplies what the largest fleet needed, what a write of 64 devices needed, and
// what the API server needed with many watches by spec.nodeName.
func extrapolation(f *sizeResult, write, watched *capacity) string {
	var b strings.Builder
	header(&b, "nodes", "slices, MB", "their versions in etcd with 1 % churn, MB", "list of all slices, MB, compressed",
		"API server's memory for the watches, MB", "its CPU for a cold start, s",
		"its CPU for 1 % churn, cores", "writes a second that priority and fairness admits", "of 1 % churn")
	for _, n := range []int64{1000, 5000, 50000} {
		slices, churn := n*int64(f.slice), float64(n)/100
		row(&b, n, megabytes(slices), megabytes(slices/100*compaction), megabytes(f.listBytes*n/int64(f.nodes)),
			megabytes(n*watched.perWatch), digits(f.apiServer.CPU.Seconds()/float64(f.nodes)*float64(n)),
			digits(churn*write.cpu.Seconds()),
			digits(watched.rate*float64(watched.watches)/float64(n)), digits(churn))
	}
	return b.String()
}

// counts are the requests of a result by kind.
type counts struct {
	writes, reads, watches int
	rejected, failed       int // with 429; with another error, or without an answer
	busiest                int // requests in the busiest second
}

func (r *result) count() (c counts) {
	seconds := map[int64]int{}
	for i := range r.requests {
		q := &r.requests[i]
		switch {
		case q.write():
			c.writes++
		case q.verb == "watch":
			c.watches++
		default:
			c.reads++
		}
		switch {
		case q.code == 429:
			c.rejected++
		case q.code != inFlight && q.code/100 != 2:
			c.failed++
		}
		second := q.at.Unix()
		seconds[second]++
		c.busiest = max(c.busiest, seconds[second])
	}
	return c
}

func row(b *strings.Builder, cells ...any) {
	for _, c := range cells {
		fmt.Fprintf(b, "| %v ", c)
	}
	b.WriteString("|\n")
}

// header writes the head of a table.
func header(b *strings.Builder, cells ...any) {
	row(b, cells...)
	b.WriteString(strings.Repeat("| --- ", len(cells)) + "|\n")
}

func milliseconds(d time.Duration) string { return digits(float64(d) / float64(time.Millisecond)) }
func kilobytes(n int64) string            { return digits(float64(n) / 1e3) }
func megabytes(n int64) string            { return digits(float64(n) / 1e6) }
func mebibytes(n int64) string            { return digits(float64(n) / (1 << 20)) }

// digits formats a value with two or three significant digits.
func digits(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}
