// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"qatplugin/events"
)

// hang makes the fake adf_ctl start a child and hang with it. awaitStart waits
// until the child runs, awaitEnd until both are dead.
func (h *testHost) hang(t testing.TB) (awaitStart, awaitEnd func()) {
	t.Helper()
	name := filepath.Join(h.bin, fileChild)
	must(t, syscall.Mkfifo(name, 0o600))
	lines := make(chan string)
	go func() {
		defer close(lines)
		f, err := os.Open(name) // waits for the child to open it
		if err != nil {
			return
		}
		defer f.Close()
		for scanner := bufio.NewScanner(f); scanner.Scan(); { // ends when no process has it open for writing
			lines <- scanner.Text()
		}
	}()
	awaitStart = func() {
		t.Helper()
		if line := receive(t, lines); line != "alive" {
			t.Fatalf("the child did not start: it wrote %q", line)
		}
	}
	awaitEnd = func() {
		t.Helper()
		if line := receive(t, lines); line != "" {
			t.Fatalf("the child is still alive: it wrote %q", line)
		}
	}
	return awaitStart, awaitEnd
}

// runCount is how often the fake adf_ctl has run.
func (h *testHost) runCount(t testing.TB) int {
	t.Helper()
	info, err := os.Stat(filepath.Join(h.bin, fileRuns))
	if os.IsNotExist(err) {
		return 0
	}
	must(t, err)
	return int(info.Size())
}

// awaitRuns waits until the fake adf_ctl has run n times.
func (h *testHost) awaitRuns(t testing.TB, n int) {
	t.Helper()
	w, err := events.NewWatcher()
	must(t, err)
	defer w.Close()
	must(t, w.Watch(h.bin))
	written := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = w.Run(ctx, sinkFunc(func(*events.Event) {
			select {
			case written <- struct{}{}:
			default:
			}
		}))
	}()
	defer func() { cancel(); <-ended }()
	for h.runCount(t) < n {
		receive(t, written)
	}
}

type sinkFunc func(*events.Event)

func (f sinkFunc) Event(e *events.Event) { f(e) }
func (f sinkFunc) Resync(string)         {}

func TestADFCtlStatusReturnsTheOutput(t *testing.T) {
	h, _ := newHostWithDevice(t)
	text, err := adfctl{program: h.program(), timeout: deadline}.status(t.Context())
	must(t, err)
	if string(text) != h.statusText() {
		t.Errorf("got %q, want %q", text, h.statusText())
	}
}

func TestHangingADFCtlIsKilledWithItsChildren(t *testing.T) {
	for name, test := range map[string]struct {
		timeout time.Duration
		cancel  bool
		want    string
	}{
		"at the timeout":           {timeout: 4 * time.Second, want: "no answer within 4s, killed"},
		"when the context is done": {timeout: deadline, cancel: true, want: "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newTestHost(t)
			awaitStart, awaitEnd := h.hang(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				_, err := adfctl{program: h.program(), timeout: test.timeout}.status(ctx)
				ended <- err
			}()
			awaitStart()
			if test.cancel {
				cancel()
			}
			err := receive(t, ended)
			text := fmt.Sprint(err)
			if !strings.Contains(text, test.want) || !strings.Contains(text, h.program()) {
				t.Errorf("error %v, want one that names the program and says %q", err, test.want)
			}
			awaitEnd()
		})
	}
}

func TestFailingADFCtlIsAnErrorWithItsReason(t *testing.T) {
	h := newTestHost(t)
	h.put(t, filepath.Join(h.bin, fileFail), "Can not open /dev/qat_adf_ctl\nand more\n")
	_, err := adfctl{program: h.program(), timeout: deadline}.status(t.Context())
	want := `run "` + h.program() + ` status": exit status 1: Can not open /dev/qat_adf_ctl`
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	_, err = adfctl{program: filepath.Join(h.bin, "none"), timeout: deadline}.status(t.Context())
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the program the error is %v, want %v", err, os.ErrNotExist)
	}
}

// A child that outlives the program, such as a daemon that it started, does not
// hold up the answer.
func TestOrphanOfADFCtlDelaysNothing(t *testing.T) {
	h, _ := newHostWithDevice(t)
	fifo := filepath.Join(h.bin, fileOrphan)
	must(t, syscall.Mkfifo(fifo, 0o600))
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	must(t, err)
	answered := make(chan error, 1)
	go func() {
		text, err := adfctl{program: h.program(), timeout: time.Hour}.status(context.Background())
		if err == nil && string(text) != h.statusText() {
			err = fmt.Errorf("got %q", text)
		}
		answered <- err
	}()
	err = receive(t, answered)
	f.Close() // ends the child
	must(t, err)
}

// A program that writes endlessly is killed, and its output is not kept. Without a limit, the run
// would allocate memory for the 256 MiB that the fake writes.
func TestADFCtlThatWritesEndlesslyIsKilled(t *testing.T) {
	for _, stream := range []string{"stdout", "stderr"} {
		t.Run(stream, func(t *testing.T) {
			h, _ := newHostWithDevice(t)
			h.put(t, filepath.Join(h.bin, fileFlood), stream)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := adfctl{program: h.program(), timeout: deadline}.status(t.Context())
			runtime.ReadMemStats(&after)
			want := `run "` + h.program() + ` status": more than 1048576 bytes of output, killed`
			if err == nil || err.Error() != want {
				t.Errorf("error %v, want %s", err, want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 16*maxOutput {
				t.Errorf("the run allocated %d MiB, want at most 16", n>>20)
			}
		})
	}
}

func TestADFCtlMayWriteAsMuchAsTheLimit(t *testing.T) {
	h := newTestHost(t)
	text := strings.Repeat("x", maxOutput)
	h.put(t, filepath.Join(h.bin, fileStatus), text)
	got, err := adfctl{program: h.program(), timeout: deadline}.status(t.Context())
	must(t, err)
	if string(got) != text {
		t.Errorf("got %d bytes, want %d", len(got), len(text))
	}
}

// While adf_ctl fails, its last answer stays valid for the devices that sysfs
// still shows, and it is run again without an event.
func TestFailingADFCtlKeepsTheLastAnswer(t *testing.T) {
	h := newTestHost(t)
	a, b := h.addPF(t, 0, addressA), h.addPF(t, 1, addressB)
	h.up(t, a, b)
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	h.conf(t, "c6xx_dev1", sec("DC", 1, 0, 1))
	r := start(t, h, withInotify(h))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}, "cy0_dc1": {"DC_dev1_0"}})

	fail := filepath.Join(h.bin, fileFail)
	h.put(t, fail, "no")
	runs := h.runCount(t)
	h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}, "cy0_dc1": {"DC_dev1_0"}})
	h.awaitRuns(t, runs+3) // by the back-off
	h.remove(t, b)
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}, "cy0_dc1": {}})
	if reason := r.skipped()["adf_ctl"]; !strings.Contains(reason, "exit status 1: no") {
		t.Errorf("adf_ctl is skipped for %q", reason)
	}
	must(t, os.Remove(fail))
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}, "cy0_dc1": {}})
}

func TestADFCtlInstalledLaterIsFound(t *testing.T) {
	h, _ := newHostWithDevice(t)
	must(t, os.Rename(h.program(), h.program()+".off"))
	r := start(t, h, withInotify(h))
	r.becomes(map[string][]string{})
	if reason := r.skipped()["adf_ctl"]; !strings.Contains(reason, "no such file") {
		t.Errorf("adf_ctl is skipped for %q", reason)
	}
	must(t, os.Rename(h.program()+".off", h.program()))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
}

// While adf_ctl hangs, files and links are followed, and Run ends at once.
func TestHangingADFCtlDelaysNothing(t *testing.T) {
	h, d := newHostWithDevice(t)
	r := start(t, h, withInotify(h))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	awaitStart, awaitEnd := h.hang(t)
	h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}})
	h.removeUIO(t, d)
	r.becomes(map[string][]string{"cy1_dc0": {}})
	awaitStart()
	r.stop()
	awaitEnd()
}
