package kernelmode

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
)

// hang makes the stand-in start a child and hang with it. started waits until the child runs; ended until both are dead.
func (h *testHost) hang(t testing.TB) (started, ended func()) {
	t.Helper()
	name := filepath.Join(h.bin, fileChild)
	must(t, syscall.Mkfifo(name, 0o600))
	words := make(chan string)
	go func() {
		defer close(words)
		f, err := os.Open(name) // waits for the child to open it
		if err != nil {
			return
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); { // ends when nobody has it open for writing any more
			words <- lines.Text()
		}
	}()
	return func() {
			t.Helper()
			if word := receive(t, words); word != "alive" {
				t.Fatalf("the child did not start, it says %q", word)
			}
		}, func() {
			t.Helper()
			if word := receive(t, words); word != "" {
				t.Fatalf("the child lives on, it says %q", word)
			}
		}
}

func TestADFCtlIsAskedForItsStatus(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	h.addPF(t, 0, addressA)
	text, err := adfCtl{program: filepath.Join(h.bin, standIn), timeout: deadline}.status(t.Context())
	must(t, err)
	if string(text) != h.statusText() {
		t.Errorf("got %q, want %q", text, h.statusText())
	}
}

func TestADFCtlThatHangsIsKilledWithItsChildren(t *testing.T) {
	for name, test := range map[string]struct {
		timeout time.Duration
		cancel  bool
		want    string
	}{
		"at the deadline":           {4 * time.Second, false, "no answer within 4s, killed"},
		"when the plugin is to end": {deadline, true, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newTestHost(t)
			started, killed := h.hang(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			program := filepath.Join(h.bin, standIn)
			go func() {
				_, err := adfCtl{program: program, timeout: test.timeout}.status(ctx)
				ended <- err
			}()
			started()
			if test.cancel {
				cancel()
			}
			err := receive(t, ended)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), program) {
				t.Errorf("error %v, want one that names the program and says %q", err, test.want)
			}
			killed()
		})
	}
}

func TestADFCtlThatFailsIsAnErrorThatSaysWhy(t *testing.T) {
	h := newTestHost(t)
	h.put(t, filepath.Join(h.bin, fileFail), "Can not open /dev/qat_adf_ctl\nand more\n")
	program := filepath.Join(h.bin, standIn)
	_, err := adfCtl{program: program, timeout: deadline}.status(t.Context())
	if want := `run "` + program + ` status": exit status 1: Can not open /dev/qat_adf_ctl`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	_, err = adfCtl{program: filepath.Join(h.bin, "none"), timeout: deadline}.status(t.Context())
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the program the error is %v, want one that wraps %v", err, os.ErrNotExist)
	}
}

func TestAnEndlessOutputIsCut(t *testing.T) {
	var l limited
	for range 3 {
		n, err := l.Write(bytes.Repeat([]byte("x"), maxOutput/2+1))
		if n != maxOutput/2+1 || err != nil {
			t.Fatalf("Write returned %d, %v: the program would see a broken pipe", n, err)
		}
	}
	if l.Len() != maxOutput {
		t.Errorf("%d bytes are kept, want %d", l.Len(), maxOutput)
	}
}

// While adf_ctl says nothing, what it said last is true of what sysfs still shows; and it is tried again without any event.
func TestAFailingADFCtlChangesNothing(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	a, b := h.addPF(t, 0, addressA), h.addPF(t, 1, addressB)
	h.up(t, a, b)
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	h.conf(t, "c6xx_dev1", sec("DC", 1, 0, 1))
	r := start(t, h.config())
	both := map[string][]string{"cy1_dc0": {"SSL_dev0_0"}, "cy0_dc1": {"DC_dev1_0"}}
	r.becomes(both)

	fail := filepath.Join(h.bin, fileFail)
	h.put(t, fail, "no")
	runs := h.runs(t)
	h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}, "cy0_dc1": {"DC_dev1_0"}})
	h.awaitRuns(t, runs+3) // the back-off
	h.remove(t, b)
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}, "cy0_dc1": {}})
	if reason := reasonOf(r.plugin.LeftOut(), "adf_ctl"); !strings.Contains(reason, "exit status 1: no") {
		t.Errorf("people are told %q of adf_ctl", reason)
	}
	must(t, os.Remove(fail))
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}, "cy0_dc1": {}})
}

func TestADFCtlThatComesLaterIsFound(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	h.up(t, h.addPF(t, 0, addressA))
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	program := filepath.Join(h.bin, standIn)
	must(t, os.Rename(program, program+".off"))
	r := start(t, h.config())
	r.becomes(map[string][]string{})
	if reason := reasonOf(r.plugin.LeftOut(), "adf_ctl"); !strings.Contains(reason, "no such file") {
		t.Errorf("people are told %q of adf_ctl", reason)
	}
	must(t, os.Rename(program+".off", program))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
}

// A device and its files are followed while adf_ctl hangs, and Watch ends at once.
func TestAHangingADFCtlHoldsNothingUp(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	d := h.addPF(t, 0, addressA)
	h.up(t, d)
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	cfg := h.config()
	cfg.ADFCtlTimeout = time.Hour
	r := start(t, cfg)
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0"}})
	started, killed := h.hang(t)
	h.conf(t, "c6xx_dev0", sec("SSL", 2, 1, 0))
	r.becomes(map[string][]string{"cy1_dc0": {"SSL_dev0_0", "SSL_dev0_1"}})
	h.removeUIO(t, d)
	r.becomes(map[string][]string{"cy1_dc0": {}})
	started()
	r.stop()
	killed()
}

func reasonOf(left []Omission, subject string) string {
	for _, o := range left {
		if o.Subject == subject {
			return o.Reason
		}
	}
	return ""
}
