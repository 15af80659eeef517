// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"qatplugin/internal/status"
	"qatplugin/internal/testenv"
)

// openTerminal returns both ends of a new terminal with a number of columns (pts(4)).
func openTerminal(t *testing.T, columns uint16) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		testenv.Skip(t, "there are no pseudoterminals: "+err.Error())
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)) // unlock
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	must(t, unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
	return master, terminal
}

// onTerminal runs qatctl with a terminal as standard output, until it ends, and returns what it
// printed there.
func (f *fakePlugin) onTerminal(
	t *testing.T, ctx context.Context, columns uint16, variables map[string]string, args ...string,
) result {
	t.Helper()
	master, terminal := openTerminal(t, columns)
	printed := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(master) // ends with EIO when nobody has the other end open
		printed <- strings.ReplaceAll(string(text), "\r\n", "\n")
	}()
	var stderr bytes.Buffer
	code := run(ctx, append([]string{"--socket", f.socket}, args...), &environment{
		stdout: terminal,
		stderr: &stderr,
		getenv: func(name string) string { return variables[name] },
		now:    f.now,
	})
	must(t, terminal.Close())
	return result{code, <-printed, stderr.String()}
}

func TestTablesOnATerminal(t *testing.T) {
	f := startPlugin(t)
	for columns, variables := range map[uint16]map[string]string{
		80: {"NO_COLOR": "1"}, 120: {"TERM": "dumb"}, 99: {}, 100: {"TERM": "xterm"},
	} {
		r := f.onTerminal(t, t.Context(), columns, variables, "list").ok(t)
		want := variables["NO_COLOR"] == "" && variables["TERM"] != "dumb"
		if got := strings.Contains(r.stdout, string(green)); got != want {
			t.Errorf("with %v, colours: %v, want %v", variables, got, want)
		}
		text := r.stdout
		for _, c := range []color{bold, red, green, yellow, reset} {
			text = strings.ReplaceAll(text, string(c), "")
		}
		longest := 0
		for line := range strings.Lines(text) {
			longest = max(longest, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")))
		}
		if longest != int(columns) { // the longest reason is cut off there
			t.Errorf("on a terminal with %d columns, the longest line has %d", columns, longest)
		}
	}
}

func TestTopRefreshesOnATerminal(t *testing.T) {
	f := startPlugin(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	asked := 0
	f.onTelemetry = func() { // with the lock of f
		asked++
		f.telemetry[1].Time = f.telemetry[1].Time.Add(time.Second)
		f.telemetry[1].Firmware = []status.EngineCounters{{Engine: "AE0", Requests: uint64(50 * asked)}}
		if asked == 3 {
			cancel(errInterrupted)
		}
	}
	r := f.onTerminal(t, ctx, 100, nil, "top", "--interval", "100ms", "--color", "never").ok(t)
	screens := strings.Split(r.stdout, clearScreen)
	if len(screens) < 3 {
		t.Fatalf("the table is shown %d times:\n%s", len(screens)-1, r.stdout)
	}
	first, second := result{stdout: screens[1]}, result{stdout: screens[2]}
	if line := first.line(t, "0000:e8:00.0"); !strings.Contains(line, " 50 ") {
		t.Errorf("the first table has the row %q, want 50 requests", line)
	}
	first.line(t, "REQUESTS")
	second.line(t, "REQ/S")
	if line := second.line(t, "0000:e8:00.0"); !strings.Contains(line, " 50 ") {
		t.Errorf("the second table has the row %q, want 50 requests per second", line)
	}
}

func TestRecordingIsNotPrintedOnATerminal(t *testing.T) {
	f := startPlugin(t)
	r := f.onTerminal(t, t.Context(), 80, nil, "record")
	r.wantExit(t, exitUsage, "standard output is a terminal: name a file with -o")
	if r.stdout != "" {
		t.Errorf("the terminal has %q", r.stdout)
	}
}

// asProgram is the environment variable with which the test binary is qatctl.
const asProgram = "QATCTL_TEST_MAIN"

func TestSignalsEndWatch(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		f := startPlugin(t)
		cmd := exec.Command(os.Args[0], "watch", "--socket", f.socket)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		must(t, cmd.Start())
		<-f.opened
		f.messages <- message(status.MessageUpdate, status.Update{Time: time.Now(), Removed: []string{"0000:6b:00.1"}})
		f.messages <- ": so that the first message has been read\n\n"
		must(t, cmd.Process.Signal(signal))
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: %v", signal, err)
		}
		<-f.closed
		if strings.Contains(out.String(), "qatctl:") {
			t.Errorf("after %v, an error is printed:\n%s", signal, &out)
		}
	}
}
