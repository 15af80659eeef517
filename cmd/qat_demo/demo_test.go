// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
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

// asProgram makes the test binary the demo.
const asProgram = "QAT_DEMO_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	_ = os.Unsetenv("COLUMNS")
	goleak.VerifyTestMain(m)
}

// buildPlugin builds qat_plugin.
func buildPlugin(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "qat_plugin")
	out, err := exec.Command("go", "build", "-o", file, "qatplugin/cmd/qat_plugin").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return file
}

// writeScript creates a shell script in place of the plugin.
func writeScript(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "qat_plugin")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

var (
	stepLine = regexp.MustCompile(`(?m)^ +\d+\.\d{3}  (\S.{45}) +(\S+(?: µs)?)  (\S.*)$`)
	measured = regexp.MustCompile(`^(\d{1,3}(,\d{3})* µs|early)$`)
	hostLine = regexp.MustCompile(`host +(/[^:]+): `)
)

func TestTimeline(t *testing.T) {
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"-plugin", buildPlugin(t)}, &out, &errs)
	if code != 0 || errs.Len() > 0 {
		t.Fatalf("exit status %d\n%s\n%s", code, &errs, &out)
	}
	var got [][3]string // step, time at which the kubelet knew, list
	for _, m := range stepLine.FindAllStringSubmatch(out.String(), -1) {
		got = append(got, [3]string{strings.TrimSpace(m[1]), measured.ReplaceAllString(m[2], "time"), m[3]})
	}
	want := [][3]string{
		{"qat_plugin starts", "time", "dc 16"},
		{"echo 16 > 0000:6b:00.0/sriov_numvfs", "time", "cy 16  dc 16"},
		{"VF 0000:6b:00.3 is gone", "time", "cy 15  dc 16"},
		{"VF 0000:6b:00.3 is back", "time", "cy 16  dc 16"},
		{"echo 1 > 0000:6b:00.0/remove", "time", "cy 0  dc 16"},
		{"echo 1 > /sys/bus/pci/rescan", "-", "cy 0  dc 16"},
		{"echo 16 > 0000:6b:00.0/sriov_numvfs", "time", "cy 16  dc 16"},
		{"echo down > 0000:e8:00.0/qat/state", "time", "cy 16  dc 0"},
		{"echo 'sym;dc' > 0000:e8:00.0/qat/cfg_services", "-", "cy 16  dc 0"},
		{"echo up > 0000:e8:00.0/qat/state", "-", "cy 16  dc 0"},
		{"echo 16 > 0000:e8:00.0/sriov_numvfs", "time", "cy 16  dc 0  sym-dc 16"},
		{"the kubelet restarts", "time", "cy 16  dc 0  sym-dc 16"},
		{"VF 0000:6b:00.3 is gone", "time", "cy 15  dc 0  sym-dc 16"},
		{"VF 0000:6b:00.3 is back", "time", "cy 16  dc 0  sym-dc 16"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("timeline (-want +got):\n%s\n%s", diff, &out)
	}
	for _, text := range []string{"\nSummary\n", "fastest", "slowest", "sockets and exited with status 0"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("no %q in:\n%s", text, &out)
		}
	}
	checkSummary(t, out.String())
	if strings.Contains(out.String(), "\x1b") {
		t.Error("coloured output, though it is not a terminal")
	}
	checkRemoved(t, out.String())
}

var (
	timeInTable = regexp.MustCompile(`(?m)^ +(\d+\.\d{3})  (\S.{45}) +([\d,]+ µs)  `)
	summaryLine = regexp.MustCompile(`(?m)^  (steps|fastest|slowest|early) +(\S+(?: µs)?)  (.*)$`)
)

// checkSummary checks that the summary follows from the table.
func checkSummary(t *testing.T, out string) {
	t.Helper()
	micros := func(text string) (n int) {
		_, err := fmt.Sscan(strings.ReplaceAll(text, ",", ""), &n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	want := map[string]string{"steps": fmt.Sprint(len(stepLine.FindAllString(out, -1)))}
	table, _, _ := strings.Cut(out, "\nSummary\n")
	if n := strings.Count(table, " early  "); n > 0 {
		want["early"] = fmt.Sprint(n)
	}
	fastest, slowest := -1, -1
	for _, m := range timeInTable.FindAllStringSubmatch(out, -1) {
		text := m[3] + " " + strings.TrimSpace(m[2]) + ", at " + m[1] + " s"
		if n := micros(m[3]); fastest < 0 || n < fastest {
			fastest, want["fastest"] = n, text
		}
		if n := micros(m[3]); n > slowest {
			slowest, want["slowest"] = n, text
		}
	}
	got := map[string]string{}
	for _, m := range summaryLine.FindAllStringSubmatch(out, -1) {
		got[m[1]] = m[2]
		if strings.HasSuffix(m[2], "µs") {
			got[m[1]] += " " + m[3]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("summary (-table +got):\n%s\n%s", diff, out)
	}
}

// checkRemoved checks that the directory of the host, which out names, was removed.
func checkRemoved(t *testing.T, out string) {
	t.Helper()
	m := hostLine.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no directory in:\n%s", out)
	}
	if _, err := os.Stat(m[1]); !os.IsNotExist(err) {
		t.Errorf("%s still exists (%v)", m[1], err)
	}
}

func TestKeepPrintsChangesUntilInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := newScreen()
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"-keep", "-plugin", buildPlugin(t)}, out, out) }()
	out.wait(t, "Ctrl-C ends it")
	host := hostLine.FindStringSubmatch(out.String())[1]
	socket := regexp.MustCompile(`qatctl --socket (\S+) list`).FindStringSubmatch(out.String())
	if socket == nil {
		t.Fatalf("no command that looks into the plugin:\n%s", out)
	}
	c, err := net.Dial("unix", socket[1])
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, step := range []struct{ file, value, want string }{
		{"0000:6b:00.0/sriov_numvfs", "0", `PF 0000:6b:00\.0 has 0 VFs +\S+ (µs  )?cy 0  dc 0  sym-dc 16\n`},
		{"0000:6b:00.0/sriov_numvfs", "5", `VFs bound to vfio-pci +\S+ µs  cy 16  dc 0  sym-dc 16\n`},
		{"0000:6b:00.0/sriov_numvfs", "6", `refused, as a kernel would:\n.*there are 16 VFs; write 0 first`},
	} {
		file := filepath.Join(host, "sys/bus/pci/devices", step.file)
		if err := os.WriteFile(file, []byte(step.value+"\n"), 0); err != nil {
			t.Fatal(err)
		}
		out.wait(t, step.want)
	}
	interrupt()
	if got := <-code; got != 0 {
		t.Errorf("exit status %d\n%s", got, out)
	}
	checkRemoved(t, out.String())
}

// screen holds the output so far.
type screen struct {
	mu      sync.Mutex // guards the following fields
	text    strings.Builder
	changed chan struct{} // closed and replaced at each write
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

// wait waits until the output matches a pattern.
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
			t.Fatalf("no match of %q within 30 s:\n%s", pattern, text)
		}
	}
}

func TestFailedStepIsNamed(t *testing.T) {
	for _, c := range []struct {
		name, plugin string
		want         []string // in the error
	}{
		{
			"plugin does nothing", "echo I am a teapot >&2; exec sleep 60",
			[]string{
				`step "qat_plugin starts" failed`,
				"no result within 300ms; the kubelet has nothing, want dc 16",
			},
		},
		{
			"plugin exits", "echo I am a teapot >&2; exit 3",
			[]string{`step "qat_plugin starts" failed`, "the plugin has ended: exit status 3"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			o := &options{plugin: writeScript(t, c.plugin), timeout: 300 * time.Millisecond}
			err := runDemo(t.Context(), o, &out)
			if err == nil {
				t.Fatalf("no error:\n%s", &out)
			}
			for _, text := range c.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("no %q in: %v", text, err)
				}
			}
			for _, text := range []string{"failed", "Last lines of the plugin's log:", "  I am a teapot\n"} {
				if !strings.Contains(out.String(), text) {
					t.Errorf("no %q in:\n%s", text, &out)
				}
			}
			checkRemoved(t, out.String())
		})
	}
}

func TestExitStatus(t *testing.T) {
	exits := writeScript(t, "exit 3")
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
		{
			"unknown flag", t.Context(), []string{"-tea"}, 2,
			"", "qat_demo: flag provided but not defined: -tea; see -h\n",
		},
		{
			"argument", t.Context(), []string{"-plugin", exits, "tea"}, 2,
			"", "qat_demo: unexpected argument \"tea\": only flags are allowed, see -h\n",
		},
		{
			"plugin does not exist", t.Context(), []string{"-plugin", "/nonexistent"}, 2,
			"", `qat_demo: -plugin: invalid value "/nonexistent": must be the path of qat_plugin; `,
		},
		{
			"pace is not a duration", t.Context(), []string{"-pace", "slow"}, 2,
			"", "qat_demo: -pace: invalid value \"slow\": must be a time, 0 or more, such as 300ms\n",
		},
		{
			"keep is not a boolean", t.Context(), []string{"-keep=long"}, 2,
			"", "qat_demo: -keep: invalid value \"long\": must be true or false\n",
		},
		{
			"level is not a number", t.Context(), []string{"-v", "x"}, 2,
			"", "qat_demo: -v: invalid value \"x\": must be a whole number, such as 2\n",
		},
		{
			"pace is negative", t.Context(), []string{"-plugin", exits, "-pace", "-1s"}, 2,
			"", "qat_demo: -pace: invalid value \"-1s\": must be a time, 0 or more, such as 300ms\n",
		},
		{
			"plugin exits", t.Context(), []string{"-plugin", exits}, 1,
			"failed", "the plugin has ended: exit status 3; the kubelet has nothing, want dc 16\n",
		},
		{"interrupted", interrupted, []string{"-plugin", exits}, 1, "", "qat_demo: interrupted\n"},
		{"keep interrupted", interrupted, []string{"-plugin", exits, "-keep"}, 1, "", "qat_demo: interrupted\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := run(c.ctx, c.args, &out, &errs); code != c.code {
				t.Errorf("exit status %d, want %d", code, c.code)
			}
			if !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.errOut) {
				t.Errorf("no %q or %q in:\n%s\n%s", c.out, c.errOut, &out, &errs)
			}
		})
	}
}

func TestText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Microsecond:       "early",
		0:                       "0 µs",
		999 * time.Microsecond:  "999 µs",
		1500 * time.Microsecond: "1,500 µs",
		2 * time.Second:         "2,000,000 µs",
	} {
		if got := micros(d); got != want {
			t.Errorf("micros(%d) = %q, want %q", d, got, want)
		}
	}
	if diff := cmp.Diff([]string{"a bb", "ccc", "dddddd"}, wrap(" a bb ccc\n dddddd ", 5)); diff != "" {
		t.Errorf("wrap (-want +got):\n%s", diff)
	}
	if got := pad("µ", 3) + "|" + padLeft("µ", 3) + "|" + pad("long", 3); got != "µ  |  µ|long " {
		t.Errorf("pad: got %q", got)
	}
	plain, coloured := &timeline{out: io.Discard}, &timeline{out: io.Discard, colour: true}
	got := plain.paint(red, "x") + coloured.paint(red, "x") + coloured.paint("", "x")
	if got != "x\x1b[31mx\x1b[0mx" {
		t.Errorf("paint: got %q", got)
	}
}
