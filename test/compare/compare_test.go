// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// twoSizes are results of which the second plugin could not be measured everywhere.
func twoSizes() []sizeResult {
	result := func(vfs int) sizeResult {
		return sizeResult{
			vfs:     vfs,
			plugins: []string{"this plugin", "published plugin"},
			ends:    []int{0, 2},
			samples: []samples{
				{rowStart: {30, 10, 20}, rowIdleCPU: {0.5}, rowMemory: {20}, rowAdd: {4, 8}},
				{rowStart: {1000}, rowIdleCPU: {5}, rowMemory: {18}},
			},
		}
	}
	return []sizeResult{result(16), result(64)}
}

func TestTableShowsMediansAndRatios(t *testing.T) {
	text := table(twoSizes())
	for _, want := range []string{
		"| 64 | " + rowStart + " | 20.0 | 1000 | 50.0 |\n",
		"| 64 | " + rowAdd + " | 6.00 | none |  |\n",
		"| 64 | " + rowMemory + " | 20.0 | 18.0 | 0.90 |\n",
		"| 64 | the published plugin ended by itself, times | | 2 | |\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "| 16 |") {
		t.Errorf("the table shows a size that is only for the plot:\n%s", text)
	}
}

func TestFloorTable(t *testing.T) {
	got, err := floorTable("goos: linux\n" +
		"BenchmarkEventToKubelet/VFs=64-2  3  50.5 floor-p50-µs  60.6 look-p50-µs  70.7 p50-µs  1.40 p50/floor  " +
		"99.9 p99-µs\nPASS\n")
	if want := "| 64 | 50.5 | 60.6 | 70.7 | 99.9 | 1.40 |\n"; err != nil || !strings.HasSuffix(got, want) {
		t.Errorf("floorTable = %q, %v; want a line %q", got, err, want)
	}
	if _, err := floorTable("FAIL\n"); err == nil {
		t.Error("floorTable accepts output without results")
	}
}

func TestPlotIsSVG(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.svg")
	if err := drawPlot(file, twoSizes()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "<svg") || !strings.Contains(string(text), rowStart) {
		t.Errorf("the plot is no SVG with the title %q (%v)", rowStart, err)
	}
}
