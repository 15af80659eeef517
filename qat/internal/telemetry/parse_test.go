// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qatplugin/internal/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deviceData formats counters as the kernel does: "%-*s" with TL_KEY_MIN_PADDING, and "%*llu" with
// TL_VALUE_MIN_PADDING for each value (adf_tl_debugfs.c).
func deviceData(counters ...any) string {
	var text strings.Builder
	for i := 0; i < len(counters); i += 2 {
		fmt.Fprintf(&text, "%-23s", counters[i])
		if values, ok := counters[i+1].([]int); ok {
			for _, value := range values {
				fmt.Fprintf(&text, "%20d", value)
			}
		} else {
			fmt.Fprintf(&text, "%20v", counters[i+1])
		}
		text.WriteString("\n")
	}
	return text.String()
}

func TestParseDeviceData(t *testing.T) {
	tests := map[string]struct {
		text string
		want *status.DeviceTelemetry
		err  string // part of the error
	}{
		"off": {},
		"all counters of Gen4, with control 1": {
			text: deviceData("sample_cnt", 17, "pci_trans_cnt", 2, "max_rd_lat", 3000, "rd_lat_acc_avg", 4,
				"max_gp_lat", 5_000_000, "gp_lat_acc_avg", 6, "bw_in", 7, "bw_out", 8, "at_page_req_lat_avg", 9,
				"at_trans_lat_avg", 10, "at_max_tlb_used", 11, "util_cpr0", 12, "exec_cpr0", 13,
				"util_pke0", 10, "exec_pke0", 1, "util_pke1", 21, "exec_pke1", 2, "util_pke12", 59, "exec_pke12", 3),
			want: &status.DeviceTelemetry{
				Samples:            17,
				PCITransactions:    2,
				MaxReadLatency:     3e-6,
				ReadLatency:        4e-9,
				MaxGetPutLatency:   5e-3,
				GetPutLatency:      6e-9,
				BandwidthIn:        7e6,
				BandwidthOut:       8e6,
				PageRequestLatency: 9e-9,
				TranslationLatency: 10e-9,
				Utilization:        map[string]float64{"cpr": 12, "pke": 30},
				Slices: []status.Slice{
					{Type: "cpr", Index: 0, Utilization: 12, Executions: 13},
					{Type: "pke", Index: 0, Utilization: 10, Executions: 1},
					{Type: "pke", Index: 1, Utilization: 21, Executions: 2},
					{Type: "pke", Index: 12, Utilization: 59, Executions: 3},
				},
			},
		},
		"the current value is the first of four": {
			text: deviceData("sample_cnt", 3, "bw_in", []int{5, 1, 9, 4}, "util_ucs3", []int{50, 0, 100, 40}),
			want: &status.DeviceTelemetry{
				Samples:     3,
				BandwidthIn: 5e6,
				Utilization: map[string]float64{"ucs": 50},
				Slices:      []status.Slice{{Type: "ucs", Index: 3, Utilization: 50}},
			},
		},
		"counters that only Gen6 has": {
			text: deviceData("re_acc_avg", 1, "util_cnv0", 2, "exec_cnv0", 3, "cmdq_wait_cnv0", 4, "cmdq_exec_cnv0", 5,
				"cmdq_drain_cnv0", 6, "util_dcprz1", 7),
			want: &status.DeviceTelemetry{
				Utilization: map[string]float64{"cnv": 2, "dcprz": 7},
				Slices: []status.Slice{
					{Type: "cnv", Index: 0, Utilization: 2, Executions: 3},
					{Type: "dcprz", Index: 1, Utilization: 7},
				},
			},
		},
		"a device without work": {
			text: deviceData("sample_cnt", 0),
			want: &status.DeviceTelemetry{Utilization: map[string]float64{}},
		},
		"the largest value": {
			text: deviceData("sample_cnt", uint64(math.MaxUint64)),
			want: &status.DeviceTelemetry{Samples: math.MaxUint64, Utilization: map[string]float64{}},
		},
		"a number that is none":  {text: "bw_in x\n", err: `line "bw_in x": invalid syntax`},
		"a number out of range":  {text: "bw_in 18446744073709551616\n", err: "value out of range"},
		"a name without a value": {text: "sample_cnt 1\nbw_in\n", err: `line "bw_in": it must have a name and`},
		"three values":           {text: "bw_in 1 2 3", err: "it must have a name and one or four values"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseDeviceData(test.text)
			compare(t, test.want, got, test.err, err)
		})
	}
}

// compare compares what a parser returned with what is wanted. wantErr is a part of the error.
func compare(t *testing.T, want, got any, wantErr string, err error) {
	t.Helper()
	if wantErr != "" {
		if err == nil || !strings.Contains(err.Error(), wantErr) {
			t.Errorf("the error is %v, want one with %q", err, wantErr)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseEngines(t *testing.T) {
	tests := map[string]struct {
		text string
		want []status.EngineCounters
		err  string
	}{
		"nothing": {},
		"the kernel's table": {
			text: "AE          Requests        Responses\n" +
				" 0:              260                7\n" +
				"11: 18446744073709551615 18446744073709551615\n",
			want: []status.EngineCounters{
				{Engine: "0", Requests: 260, Responses: 7},
				{Engine: "11", Requests: math.MaxUint64, Responses: math.MaxUint64},
			},
		},
		"the table of the out-of-tree driver": {
			text: "+------------------------------------------------+\n" +
				"| FW Statistics for Qat Device                   |\n" +
				"+------------------------------------------------+\n" +
				"| Firmware Requests [AE  0]:              260640 |\n" +
				"| Firmware Responses[AE  0]:              260639 |\n" +
				"| RAS Events        [AE  0]:                   3 |\n" +
				"+------------------------------------------------+\n" +
				"| Firmware Requests [AE 10]:                   1 |\n" +
				"| Firmware Responses[AE 10]:                   0 |\n" +
				"+------------------------------------------------+\n",
			want: []status.EngineCounters{
				{Engine: "0", Requests: 260640, Responses: 260639},
				{Engine: "10", Requests: 1},
			},
		},
		"out of range": {
			text: "+--\n| Firmware Requests [AE 10]: 18446744073709551616 |\n",
			err:  "value out of range",
		},
		"a column that is missing":  {text: " 0: 1\n", err: `line "0: 1": it has fewer than 3 columns`},
		"a number that is none":     {text: " 0: 1 x\n", err: `parsing "x"`},
		"an engine without number":  {text: " x: 1 1\n", err: `line "x: 1 1": it does not begin with the number`},
		"an engine without a colon": {text: "0 1 1\n", err: "it does not begin with the number of an engine"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseEngines(test.text)
			compare(t, test.want, got, test.err, err)
		})
	}
}

func TestParseCompressErrors(t *testing.T) {
	tests := map[string]struct {
		text string
		want map[string]uint64
		err  string
	}{
		"nothing":                      {},
		"a device that does not do it": {text: "No engine configured for comp\n"},
		"no engine that does it":       {text: "AE      Total Errors       Last Error\n"},
		"the kernel's table": {
			text: "AE      Total Errors       Last Error\n" +
				"0:                0        No Error [0]\n" +
				"3:               12  Length Error-P [-7]\n" +
				"15:            65535  Checksum Error [0]\n",
			want: map[string]uint64{"0": 0, "3": 12, "15": 65535},
		},
		"a column that is missing": {text: "3:\n", err: "it has fewer than 2 columns"},
		"a number that is none":    {text: "3: x No Error [0]\n", err: `parsing "x"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseCompressErrors(test.text)
			compare(t, test.want, got, test.err, err)
		})
	}
}

func TestParseTotal(t *testing.T) {
	for text, want := range map[string]uint64{
		"Undefined 0\nDLP 1\nTOTAL_ERR_NONFATAL 1\n": 1,
		"TOTAL_ERR_COR 18446744073709551615\n":       math.MaxUint64,
	} {
		if got, err := parseTotal(text); got != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "DLP 1\n", "TOTAL_ERR_COR\n", "TOTAL_ERR_COR -1\n"} {
		if got, err := parseTotal(text); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
}

// Whatever a file contains, its parser returns either a valid result or an error.
func FuzzParse(f *testing.F) {
	f.Add(deviceData("sample_cnt", 1, "util_cpr0", []int{1, 2, 3, 4}, "exec_cpr0", 2))
	f.Add("AE          Requests        Responses\n 0:                1                1\n")
	f.Add("AE      Total Errors       Last Error\n0:                0        No Error [0]\n")
	f.Add("+--\n| Firmware Requests [AE  0]:              260640 |\n")
	f.Add(noCompression)
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := parseDeviceData(text); err == nil && d != nil {
			mean := map[string]float64{}
			number := map[string]float64{}
			for _, s := range d.Slices {
				mean[s.Type] += s.Utilization
				number[s.Type]++
			}
			for kind, sum := range mean {
				if got, want := d.Utilization[kind], sum/number[kind]; got != want || math.IsNaN(got) {
					t.Errorf("the mean of %s is %v, want %v", kind, got, want)
				}
			}
			if len(d.Utilization) != len(mean) {
				t.Errorf("%d means of %d types", len(d.Utilization), len(mean))
			}
		} else if err != nil && d != nil {
			t.Error("telemetry and an error")
		}
		if engines, err := parseEngines(text); err != nil && engines != nil {
			t.Error("engines and an error")
		}
		if counts, err := parseCompressErrors(text); err != nil && counts != nil {
			t.Error("counts and an error")
		}
	})
}
