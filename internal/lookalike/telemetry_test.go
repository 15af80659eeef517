// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// text returns the content of a file, exactly.
func text(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	must(t, err)
	return string(b)
}

// The expected texts follow the format strings of the kernel: adf_fw_counters.c, adf_cnv_dbgfs.c
// and adf_tl_debugfs.c in drivers/crypto/intel/qat/qat_common.

func TestEngineCountersHaveTheFormatOfTheKernel(t *testing.T) {
	const pf1 = "0000:70:00.0"
	h := newHost(t, nil, PF{Address: pf0, DeviceID: "19e2"}, PF{Address: pf1, Services: "sym;asym"})
	must(t, h.SetEngines(pf0, Engine{Requests: 7, Responses: 6}, Engine{Requests: 1 << 63, CompressErrors: 3}))
	dir := h.sys("kernel/debug/qat_c3xxx_" + pf0)
	equal(t, "fw_counters", ""+
		"AE          Requests        Responses\n"+
		" 0:                7                6\n"+
		" 1: 9223372036854775808                0\n"+
		" 2:                0                0\n"+
		" 3:                0                0\n"+
		" 4:                0                0\n"+
		" 5:                0                0\n", text(t, dir, "fw_counters"))
	equal(t, "cnv_errors", ""+
		"AE      Total Errors       Last Error\n"+
		"0:                0        No Error [0]\n"+
		"1:                3  Checksum Error [0]\n"+
		"2:                0        No Error [0]\n"+
		"3:                0        No Error [0]\n"+
		"4:                0        No Error [0]\n"+
		"5:                0        No Error [0]\n", text(t, dir, "cnv_errors"))
	equal(t, "cnv_errors without compression", "No engine configured for comp\n",
		text(t, h.sys("kernel/debug/qat_4xxx_"+pf1), "cnv_errors"))
	equal(t, "RAS counter of a Gen4 PF", "0\n", text(t, h.Path(pf1), "qat_ras/errors_fatal"))
	equal(t, "telemetry and RAS counters of a Gen2 PF", false,
		exists(dir, "telemetry") || exists(h.Path(pf0), "qat_ras"))
}

func TestTelemetryControl(t *testing.T) {
	h, ops := startHost(t, PF{Address: pf0, Services: "dc"})
	must(t, h.SetTelemetry(pf0, map[string]uint64{"bw_in": 5, "util_cpr0": 60}))
	<-ops
	dir := h.sys("kernel/debug/qat_4xxx_"+pf0, "telemetry")
	data := func() string {
		var lines []string
		for line := range strings.Lines(text(t, dir, "device_data")) {
			if name := strings.Fields(line)[0]; name == "sample_cnt" || name == "bw_in" || name == "util_cpr0" {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	control := func(value, want string) {
		t.Helper()
		must(t, write(filepath.Join(dir, "control"), value+"\n"))
		equal(t, "operation", "set telemetry control of "+pf0+" "+want, describe(wait(t, ops, "control")))
	}
	equal(t, "control at the start", "0\n", text(t, dir, "control"))
	equal(t, "data while it is off", "", data())

	control("1", "1")
	equal(t, "data with control 1", ""+
		"sample_cnt                                1\n"+
		"bw_in                                     5\n"+
		"util_cpr0                                60\n", data())

	control("2", "2")
	for _, n := range []uint64{100, 9, 4} {
		must(t, h.SetTelemetry(pf0, map[string]uint64{"bw_in": n}))
		<-ops
	}
	equal(t, "data with control 2", ""+
		"sample_cnt                                5\n"+
		"bw_in                                     4                   4                   9                   6\n"+
		"util_cpr0                                60                  60                  60                  60\n",
		data())

	control("5", "5: refused")
	equal(t, "control after a refused write", "2\n", text(t, dir, "control"))
	control("0", "0")
	equal(t, "data after it is off again", "", data())
}

func TestTelemetryEndsWithTheState(t *testing.T) {
	h, ops := startHost(t, PF{Address: pf0, DeviceID: "4948", Services: "sym"})
	dir := h.sys("kernel/debug/qat_6xxx_" + pf0)
	must(t, write(filepath.Join(dir, "telemetry/control"), "1\n"))
	<-ops
	must(t, h.Work(1))
	data := text(t, dir, "telemetry/device_data")
	for _, name := range []string{"re_acc_avg ", "util_cnv0 ", "util_dcprz1 ", "cmdq_drain_ath7 "} {
		equal(t, name+"in device_data", true, strings.Contains(data, "\n"+name))
	}
	must(t, h.SetState(pf0, "down"))
	for _, name := range []string{"telemetry", "fw_counters", "cnv_errors"} {
		equal(t, name+" of a PF that is down", false, exists(dir, name))
	}
	equal(t, "qat_ras of a PF that is down", false, exists(h.Path(pf0), "qat_ras"))
	must(t, h.Work(2))
	if h.SetEngines(pf0, Engine{}) == nil || h.SetTelemetry(pf0, nil) == nil {
		t.Error("counters of a PF that is down can be set")
	}
	must(t, h.SetState(pf0, "up"))
	equal(t, "control of a PF that is up again", "0\n", text(t, dir, "telemetry/control"))
	equal(t, "counters of a PF that is up again", true,
		strings.Contains(text(t, dir, "fw_counters"), " 0:                0                0\n"))
}

func TestWorkLoadsTheServicesOfThePF(t *testing.T) {
	h, ops := startHost(t, PF{Address: pf0, Services: "asym"})
	dir := h.sys("kernel/debug/qat_4xxx_" + pf0)
	must(t, write(filepath.Join(dir, "telemetry/control"), "1\n"))
	<-ops
	for second := range 120 {
		must(t, h.Work(second))
		for line := range strings.Lines(text(t, dir, "telemetry/device_data")) {
			f := strings.Fields(line)
			if strings.HasPrefix(f[0], "util_") && !strings.HasPrefix(f[0], "util_pke") && f[1] != "0" {
				t.Fatalf("second %d: %s of a PF with asym", second, line)
			}
			if f[0] == "util_pke0" && (len(f[1]) > 2 && f[1] != "100") {
				t.Fatalf("second %d: %s", second, line)
			}
		}
	}
}
