package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buildPlugin builds the real plugin.
func buildPlugin(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "qat_plugin")
	out, err := exec.Command("go", "build", "-o", file, "qatplugin/cmd/qat_plugin").CombinedOutput()
	if err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	return file
}

// script is a program that stands in for the plugin.
func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "qat_plugin")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

var (
	line     = regexp.MustCompile(`(?m)^ +\d+\.\d{3}  (\S.{45}) +(\S+(?: µs)?)  (\S.*)$`)
	knew     = regexp.MustCompile(`^(\d{1,3}(,\d{3})* µs|early)$`)
	hostLine = regexp.MustCompile(`host +(/[^:]+): `)
)

func TestTheTimelineTellsWhatHappened(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"-plugin", buildPlugin(t)}, &out, &errs); code != 0 || errs.Len() > 0 {
		t.Fatalf("exit status %d\n%s\n%s", code, &errs, &out)
	}
	var got [][2]string // what happened, the list
	for _, m := range line.FindAllStringSubmatch(out.String(), -1) {
		what := strings.TrimSpace(m[1])
		got = append(got, [2]string{what, m[3]})
		silent := strings.Contains(what, "rescan") || strings.Contains(what, "cfg_services") || strings.Contains(what, "echo up")
		if silent != (m[2] == "-") || !silent && !knew.MatchString(m[2]) {
			t.Errorf("%q: the kubelet knew %q", what, m[2])
		}
	}
	want := [][2]string{
		{"qat_plugin starts", "dc 16"},
		{"echo 16 > 0000:6b:00.0/sriov_numvfs", "cy 16  dc 16"},
		{"VF 0000:6b:00.3 is gone", "cy 15  dc 16"},
		{"VF 0000:6b:00.3 is back", "cy 16  dc 16"},
		{"echo 1 > 0000:6b:00.0/remove", "cy 0  dc 16"},
		{"echo 1 > /sys/bus/pci/rescan", "cy 0  dc 16"},
		{"echo 16 > 0000:6b:00.0/sriov_numvfs", "cy 16  dc 16"},
		{"echo down > 0000:e8:00.0/qat/state", "cy 16  dc 0"},
		{"echo 'sym;dc' > 0000:e8:00.0/qat/cfg_services", "cy 16  dc 0"},
		{"echo up > 0000:e8:00.0/qat/state", "cy 16  dc 0"},
		{"echo 16 > 0000:e8:00.0/sriov_numvfs", "cy 16  dc 0  sym-dc 16"},
		{"the kubelet restarts", "cy 16  dc 0  sym-dc 16"},
		{"VF 0000:6b:00.3 is gone", "cy 15  dc 0  sym-dc 16"},
		{"VF 0000:6b:00.3 is back", "cy 16  dc 0  sym-dc 16"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("timeline (-want +got):\n%s\n%s", d, &out)
	}
	for _, text := range []string{"\nSummary\n", "fastest", "slowest", "removed its sockets and ended with status 0"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("%q is missing in:\n%s", text, &out)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colour, though nobody looks at a terminal")
	}
	isGone(t, out.String())
}

// isGone fails when the host's directory is still there.
func isGone(t *testing.T, out string) {
	t.Helper()
	m := hostLine.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no host in:\n%s", out)
	}
	if _, err := os.Stat(m[1]); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", m[1], err)
	}
}

func TestKeepFollowsTheUserUntilInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := newScreen()
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"-keep", "-plugin", buildPlugin(t)}, out, out) }()
	out.wait(t, "Ctrl-C ends the demo")
	host := hostLine.FindStringSubmatch(out.String())[1]
	for _, step := range []struct{ file, value, want string }{
		{"0000:6b:00.0/sriov_numvfs", "0", `PF 0000:6b:00\.0 has 0 VFs +\S+ (µs  )?cy 0  dc 0  sym-dc 16\n`},
		{"0000:6b:00.0/sriov_numvfs", "5", `VFs bound to vfio-pci +\S+ µs  cy 16  dc 0  sym-dc 16\n`},
		{"0000:6b:00.0/sriov_numvfs", "6", `refused, as a kernel would:\n.*there are 16 VFs; write 0 first`},
	} {
		if err := os.WriteFile(filepath.Join(host, "sys/bus/pci/devices", step.file), []byte(step.value+"\n"), 0); err != nil {
			t.Fatal(err)
		}
		out.wait(t, step.want)
	}
	interrupt()
	if got := <-code; got != 0 {
		t.Errorf("exit status %d\n%s", got, out)
	}
	isGone(t, out.String())
}

// screen is what was written so far.
type screen struct {
	mu      sync.Mutex
	text    strings.Builder
	changed chan struct{}
}

func newScreen() *screen { return &screen{changed: make(chan struct{})} }

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) wait(t *testing.T, pattern string) {
	t.Helper()
	want := regexp.MustCompile(pattern)
	deadline := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		text, changed := s.text.String(), s.changed
		s.mu.Unlock()
		if want.MatchString(text) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%q did not come:\n%s", pattern, text)
		}
	}
}

func TestAStepThatDoesNotHappenIsNamed(t *testing.T) {
	for _, c := range []struct {
		name, plugin string
		want         []string
	}{
		{"the plugin does nothing", "echo I am a teapot >&2; exec cat /dev/zero >/dev/null", []string{
			`"qat_plugin starts" did not come out as it should`, "not within 300ms", "the kubelet should hold dc 16 and holds nothing",
		}},
		{"the plugin dies", "echo I am a teapot >&2; exit 3", []string{
			`"qat_plugin starts" did not come out as it should`, "the plugin has ended: exit status 3",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			err := perform(t.Context(), &options{plugin: script(t, c.plugin), deadline: 300 * time.Millisecond}, &out)
			if err == nil {
				t.Fatalf("no error:\n%s", &out)
			}
			for _, text := range c.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q is missing in: %v", text, err)
				}
			}
			for _, text := range []string{"failed", "The last 1 lines of the plugin's log:", "  I am a teapot\n"} {
				if !strings.Contains(out.String(), text) {
					t.Errorf("%q is missing in:\n%s", text, &out)
				}
			}
			isGone(t, out.String())
		})
	}
}

func TestExitStatus(t *testing.T) {
	dies := script(t, "exit 3")
	interrupted, interrupt := context.WithCancel(t.Context())
	interrupt()
	for _, c := range []struct {
		name   string
		ctx    context.Context
		args   []string
		code   int
		out    string
		errOut string
	}{
		{"help", t.Context(), []string{"-h"}, 0, "-keep", ""},
		{"an unknown flag", t.Context(), []string{"-tea"}, 2, "", "qat_demo: flag provided but not defined: -tea; see -h\n"},
		{"an argument", t.Context(), []string{"-plugin", dies, "tea"}, 2, "", `argument "tea": only flags are allowed`},
		{"no plugin", t.Context(), []string{"-plugin", "/nonexistent"}, 2, "", `flag -plugin, value "/nonexistent": allowed is`},
		{"a pace that runs backwards", t.Context(), []string{"-plugin", dies, "-pace", "-1s"}, 2, "", "flag -pace, value -1s: allowed is"},
		{"a plugin that dies", t.Context(), []string{"-plugin", dies}, 1, "failed", "the plugin has ended: exit status 3"},
		{"interrupted", interrupted, []string{"-plugin", dies}, 1, "", "interrupted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := run(c.ctx, c.args, &out, &errs); code != c.code {
				t.Errorf("exit status %d, want %d", code, c.code)
			}
			if !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.errOut) {
				t.Errorf("want %q and %q in\n%s\n%s", c.out, c.errOut, &out, &errs)
			}
		})
	}
}

func TestColumns(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Microsecond: "early", 0: "0 µs", 999 * time.Microsecond: "999 µs", 1500 * time.Microsecond: "1,500 µs", 2 * time.Second: "2,000,000 µs",
	} {
		if got := micros(d); got != want {
			t.Errorf("micros(%d) = %q, want %q", d, got, want)
		}
	}
	if d := cmp.Diff([]string{"a bb", "ccc", "dddddd"}, wrap(" a bb ccc\n dddddd ", 5)); d != "" {
		t.Errorf("wrap (-want +got):\n%s", d)
	}
	if got := pad("µ", 3) + "|" + padLeft("µ", 3) + "|" + pad("long", 3); got != "µ  |  µ|long " {
		t.Errorf("pad: %q", got)
	}
	plain, coloured := &timeline{out: io.Discard}, &timeline{out: io.Discard, colour: true}
	if got := plain.paint(red, "x") + coloured.paint(red, "x") + coloured.paint("", "x"); got != "x\x1b[31mx\x1b[0mx" {
		t.Errorf("paint: %q", got)
	}
}
