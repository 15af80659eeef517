// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

const (
	pf0 = "0000:3d:00.0"
	pf1 = "0000:6b:00.0"
	pf2 = "0000:70:00.0"

	timeout = 20 * time.Second // only keeps a broken test from hanging
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newHost returns a served host with a Gen2 PF (pf0), a 4xxx PF (pf1) and a 6xxx PF (pf2).
func newHost(t testing.TB) *lookalike.Host {
	t.Helper()
	h := lookalike.Start(t)
	must(t, h.AddPF(lookalike.PF{Address: pf0, DeviceID: "19e2"}))
	must(t, h.AddPF(lookalike.PF{Address: pf1, Services: "dc"}))
	must(t, h.AddPF(lookalike.PF{Address: pf2, DeviceID: "4948", Services: "sym;asym"}))
	return h
}

// debugfs returns the directory of a PF of newHost.
func debugfs(h *lookalike.Host, pf string) string {
	driver := map[string]string{pf0: "c3xxx", pf1: "4xxx", pf2: "6xxx"}[pf]
	return filepath.Join(h.Sysfs(), "kernel/debug/qat_"+driver+"_"+pf)
}

// read reads the telemetry of all PFs, without its time.
func readAll(t testing.TB, r *Reader) []status.Telemetry {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	list := r.Read(ctx)
	for i := range list {
		if age := time.Since(list[i].Time); age < 0 || age > timeout {
			t.Errorf("telemetry of %s is of %v", list[i].Address, list[i].Time)
		}
		list[i].Time = time.Time{}
	}
	return list
}

// setControl writes to control and waits until the host has handled that. It first waits until the
// host has handled the write before, because of two writes the host may see only the last one.
func setControl(t testing.TB, h *lookalike.Host, pf, value string) {
	t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(time.Millisecond) {
		control, err := sysfs.ReadFile(filepath.Join(debugfs(h, pf), controlFile))
		must(t, err)
		data, err := sysfs.ReadFile(filepath.Join(debugfs(h, pf), "telemetry/device_data"))
		must(t, err)
		if (control != "0") == (data != "") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("device_data is %q while control is %s", data, control)
		}
	}
	done := make(chan error, 1)
	h.Observe(func(o lookalike.Operation) { done <- o.Err })
	defer h.Observe(nil)
	must(t, os.WriteFile(filepath.Join(debugfs(h, pf), controlFile), []byte(value+"\n"), 0))
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(timeout):
		t.Fatal("the host does not handle a write to control")
	}
}

func TestReadsWhatTheDriversShow(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pf1, 16)) // VFs have no telemetry
	must(t, h.SetEngines(pf0, lookalike.Engine{Requests: 7, Responses: 6}, lookalike.Engine{CompressErrors: 3}))
	must(t, h.SetAttr(pf2, "qat_ras/errors_nonfatal", "2"))
	must(t, h.SetAttr(pf0, "aer_dev_correctable", "RxErr 1\nBadTLP 2\nTOTAL_ERR_COR 3"))
	must(t, h.SetAttr(pf0, "aer_dev_fatal", "Undefined 0\nTOTAL_ERR_FATAL 0"))
	must(t, h.SetTelemetry(pf1, map[string]uint64{"util_dcpr0": 40, "util_dcpr1": 60, "exec_dcpr1": 5, "bw_in": 12}))
	setControl(t, h, pf1, "2")

	got := readAll(t, NewReader(h.Sysfs()))
	if len(got) != 3 || got[0].Address != pf0 || got[1].Address != pf1 || got[2].Address != pf2 {
		t.Fatalf("telemetry of %+v, want that of three PFs in order", got)
	}
	zeros := map[string]uint64{"0": 0, "1": 3, "2": 0, "3": 0, "4": 0, "5": 0}
	if diff := cmp.Diff(status.Telemetry{
		Address: pf0,
		Firmware: []status.EngineCounters{
			{Engine: "0", Requests: 7, Responses: 6},
			{Engine: "1"}, {Engine: "2"}, {Engine: "3"}, {Engine: "4"}, {Engine: "5"},
		},
		CompressErrors: zeros,
		AER:            map[string]uint64{"correctable": 3, "fatal": 0},
	}, got[0]); diff != "" {
		t.Errorf("a Gen2 PF (-want +got)\n%s", diff)
	}
	d := got[1].Device
	if d == nil {
		t.Fatal("no device telemetry of a PF that has it on")
	}
	if d.Samples != 1 || d.BandwidthIn != 12e6 || d.Utilization["dcpr"] != 50 || d.Utilization["cpr"] != 0 {
		t.Errorf("device telemetry of a 4xxx PF: %+v", d)
	}
	if diff := cmp.Diff(map[string]uint64{"correctable": 0, "nonfatal": 2, "fatal": 0}, got[2].RAS); diff != "" {
		t.Errorf("hardware errors of a 6xxx PF (-want +got)\n%s", diff)
	}
	if got[2].Device != nil || got[2].CompressErrors != nil || len(got[2].Firmware) != 8 {
		t.Errorf("a 6xxx PF with telemetry off and no compression: %+v", got[2])
	}
}

func TestAbsentFilesAreNormal(t *testing.T) {
	h := newHost(t)
	must(t, h.SetState(pf1, "down"))
	must(t, h.Unbind(pf2))
	must(t, os.RemoveAll(filepath.Join(h.Sysfs(), "kernel/debug"))) // no debugfs
	want := []status.Telemetry{{Address: pf0}, {Address: pf1}}
	if diff := cmp.Diff(want, readAll(t, NewReader(h.Sysfs()))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := readAll(t, NewReader(t.TempDir())); len(got) != 0 {
		t.Errorf("telemetry of a host without drivers: %+v", got)
	}
}

// The driver logs an error when device_data is read while telemetry is off.
func TestDeviceDataIsNotReadWhileTelemetryIsOff(t *testing.T) {
	h := newHost(t)
	setControl(t, h, pf2, "1")
	var mu sync.Mutex
	var files []string
	readAll(t, newReader(h.Sysfs(), func(name string) (string, error) {
		if strings.HasSuffix(name, "device_data") {
			mu.Lock()
			defer mu.Unlock()
			files = append(files, name)
		}
		return sysfs.ReadFile(name)
	}))
	if want := filepath.Join(debugfs(h, pf2), "telemetry/device_data"); len(files) != 1 || files[0] != want {
		t.Errorf("reads %q, want only %s", files, want)
	}
}

func TestDebugfsThatIsNotAccessibleIsLikeNone(t *testing.T) {
	h := newHost(t)
	forbidden := func(name string) (string, error) {
		if strings.Contains(name, "kernel/debug") {
			return "", &os.PathError{Op: "open", Path: name, Err: unix.EPERM}
		}
		return sysfs.ReadFile(name)
	}
	for _, telemetry := range readAll(t, newReader(h.Sysfs(), forbidden)) {
		if telemetry.Err != "" || telemetry.Firmware != nil || (telemetry.RAS != nil) != (telemetry.Address != pf0) {
			t.Errorf("telemetry without debugfs: %+v", telemetry)
		}
	}
}

func TestOneBadFileHidesNothingElse(t *testing.T) {
	h := newHost(t)
	setControl(t, h, pf1, "1")
	bad := map[string]string{
		"telemetry/device_data": "sample_cnt many\n",
		"fw_counters":           "AE\n 0:\n",
		"cnv_errors":            "AE\n 0:\n",
	}
	for name, text := range bad {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(debugfs(h, pf1), name)
			reader := newReader(h.Sysfs(), func(name string) (string, error) {
				if name == file {
					return text, nil
				}
				return sysfs.ReadFile(name)
			})
			got := readAll(t, reader)
			if len(got) != 3 || !strings.HasPrefix(got[1].Err, "parse "+file+": line ") {
				t.Fatalf("with a bad file: %+v, want an error that names it", got)
			}
			if (got[1].Device == nil) != (name == "telemetry/device_data") ||
				(got[1].Firmware == nil) != (name == "fw_counters") ||
				(got[1].CompressErrors == nil) != (name == "cnv_errors") || got[1].RAS == nil {
				t.Errorf("with a bad file: %+v, want everything else", got[1])
			}
			if got[0].Err != "" || got[2].Err != "" {
				t.Errorf("errors of other PFs: %q, %q", got[0].Err, got[2].Err)
			}
		})
	}
	file := filepath.Join(h.Sysfs(), "bus/pci/drivers/4xxx", pf1, "qat_ras/errors_fatal")
	got := readAll(t, newReader(h.Sysfs(), func(name string) (string, error) {
		if name == file {
			return "", &os.PathError{Op: "read", Path: name, Err: unix.EIO}
		}
		return sysfs.ReadFile(name)
	}))
	if want := "read " + file + ": input/output error"; got[1].Err != want || got[1].Firmware == nil {
		t.Errorf("with a file that cannot be read: %+v, want the error %q", got[1], want)
	}
}

// A read that the kernel blocks must delay nothing else, and must not be repeated while it lasts.
func TestBlockedReadsDoNotPileUp(t *testing.T) {
	h := newHost(t)
	var mu sync.Mutex
	reads := 0
	release := make(chan struct{})
	reader := newReader(h.Sysfs(), func(name string) (string, error) {
		if name == filepath.Join(debugfs(h, pf1), "fw_counters") {
			mu.Lock()
			reads++
			mu.Unlock()
			<-release
		}
		return sysfs.ReadFile(name)
	})
	for range 5 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		list := reader.Read(ctx)
		cancel()
		if len(list) > 2 || len(list) == 2 && (list[0].Address != pf0 || list[1].Address != pf2) {
			t.Fatalf("telemetry %+v, want none of the PF that blocks", list)
		}
	}
	waiting := make(chan []status.Telemetry)
	go func() { waiting <- reader.Read(context.Background()) }()
	close(release)
	if list := <-waiting; len(list) != 3 {
		t.Errorf("telemetry of %d PFs after the read has returned, want 3", len(list))
	}
	mu.Lock()
	got := reads
	mu.Unlock()
	if got > 2 { // the last Read may have come after the first read of the file had returned
		t.Errorf("%d reads of a file that blocks, want one", got)
	}
	if list := readAll(t, reader); len(list) != 3 || list[1].Firmware == nil {
		t.Errorf("telemetry %+v after that, want that of 3 PFs", list)
	}
}

// A recorder is a Writer that can fail.
type recorder struct {
	writer *sysfs.Writer

	mu     sync.Mutex // guards the following fields
	fail   error
	writes []string
}

func (r *recorder) DryRun() bool { return r.writer.DryRun() }

func (r *recorder) Write(name, value string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes = append(r.writes, name+"="+value)
	if r.fail != nil {
		return &os.PathError{Op: "open", Path: name, Err: r.fail}
	}
	return r.writer.Write(name, value)
}

func (r *recorder) setFail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// take returns the writes since the last call.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	writes := r.writes
	r.writes = nil
	return writes
}

func address(t testing.TB, text string) pci.Address {
	t.Helper()
	a, ok := pci.Parse(text)
	if !ok {
		t.Fatal(errors.New("no address: " + text))
	}
	return a
}
