// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"qatplugin/internal/testenv"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The demo leaves neither its directory nor the plugin behind, however it is ended.
func TestEndOfTheDemoRemovesItsDirectory(t *testing.T) {
	plugin := buildPlugin(t)
	for name, end := range map[string]func(demo *os.Process, output io.Closer, host string) error{
		"SIGINT":  func(demo *os.Process, _ io.Closer, _ string) error { return demo.Signal(syscall.SIGINT) },
		"SIGTERM": func(demo *os.Process, _ io.Closer, _ string) error { return demo.Signal(syscall.SIGTERM) },
		"SIGHUP":  func(demo *os.Process, _ io.Closer, _ string) error { return demo.Signal(syscall.SIGHUP) },
		"a closed pipe": func(_ *os.Process, output io.Closer, host string) error {
			file := filepath.Join(host, "sys/bus/pci/devices", cyPF, "sriov_numvfs")
			return errors.Join(output.Close(), os.WriteFile(file, []byte("0\n"), 0)) // the change is printed
		},
	} {
		t.Run(name, func(t *testing.T) {
			demo := exec.Command(os.Args[0], "-keep", "-plugin", plugin)
			demo.Env = append(os.Environ(), asProgram+"=1")
			var errs bytes.Buffer
			demo.Stderr = &errs
			stdout, err := demo.StdoutPipe()
			must(t, err)
			must(t, demo.Start())
			lines := bufio.NewScanner(stdout)
			host := ""
			for lines.Scan() && !strings.Contains(lines.Text(), "Ctrl-C ends it") {
				if m := hostLine.FindStringSubmatch(lines.Text()); m != nil {
					host = m[1]
				}
			}
			if host == "" {
				t.Fatalf("the demo did not start: %v\n%s", demo.Wait(), &errs)
			}
			must(t, end(demo.Process, stdout, host))
			kill := time.AfterFunc(30*time.Second, func() { _ = demo.Process.Kill() })
			_, _ = io.Copy(io.Discard, stdout)
			_ = demo.Wait()
			kill.Stop()
			if _, err := os.Stat(host); !os.IsNotExist(err) {
				t.Errorf("%s still exists (%v) after %v", host, err, demo.ProcessState)
				_ = os.RemoveAll(host)
			}
			if errs.Len() > 0 {
				t.Errorf("printed on standard error: %q", &errs)
			}
		})
	}
}

func TestClosedPipeEndsTheDemoAtOnce(t *testing.T) {
	read, write, err := os.Pipe()
	must(t, err)
	must(t, read.Close())
	defer write.Close()
	var errs bytes.Buffer
	// The first line fails, so the plugin is not even awaited.
	code := run(t.Context(), []string{"-plugin", writeScript(t, "exec sleep 60")}, write, &errs)
	if code != 1 || errs.Len() > 0 {
		t.Errorf("exit status %d and %q, want 1 and nothing", code, &errs)
	}
}

func TestOutputThatCannotBeWrittenIsReported(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	var errs bytes.Buffer
	code := run(t.Context(), []string{"-plugin", writeScript(t, "exec sleep 60")}, full, &errs)
	if want := "qat_demo: write /dev/full: no space left on device\n"; code != 1 || errs.String() != want {
		t.Errorf("exit status %d and %q, want 1 and %q", code, &errs, want)
	}
}

// openTerminal returns both ends of a pseudo-terminal of a width.
func openTerminal(t *testing.T, width int) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		testenv.Skip(t, "no pseudo-terminal: "+err.Error())
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(t, err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { slave.Close() })
	must(t, unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(width)}))
	return master, slave
}

var escape = regexp.MustCompile(`\x1b\[\d+m`)

// wantWidth checks that all lines fit, and that the longest uses most of the width.
func wantWidth(t *testing.T, text string, width int) {
	t.Helper()
	longest := 0
	for line := range strings.Lines(escape.ReplaceAllString(text, "")) {
		n := utf8.RuneCountInString(strings.TrimRight(line, "\r\n"))
		if longest = max(longest, n); n > width {
			t.Errorf("%d characters, want at most %d: %q", n, width, line)
		}
	}
	if longest < width-12 {
		t.Errorf("the longest line has %d characters, of %d", longest, width)
	}
}

func TestLinesFitTheTerminal(t *testing.T) {
	t.Chdir(filepath.Dir(buildPlugin(t))) // a short path
	for _, width := range []int{40, 60, 80, 93, 110} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			master, slave := openTerminal(t, width)
			text := make(chan string)
			go func() {
				all, _ := io.ReadAll(master) // ends with EIO when the other end is closed
				text <- string(all)
			}()
			var errs bytes.Buffer
			code := run(t.Context(), []string{"-pace=0", "-plugin", "./qat_plugin"}, slave, &errs)
			must(t, slave.Close())
			out := <-text
			if code != 0 || errs.Len() > 0 {
				t.Fatalf("exit status %d\n%s\n%s", code, &errs, out)
			}
			wantWidth(t, out, width)
		})
	}
}

func TestWidthWithoutATerminal(t *testing.T) {
	t.Chdir(filepath.Dir(buildPlugin(t)))
	for columns, width := range map[string]int{"": 100, "wide": 100, "0": 100, "70": 70, "9": 40, "500": 120} {
		t.Run(columns, func(t *testing.T) {
			t.Setenv("COLUMNS", columns)
			var out, errs bytes.Buffer
			if code := run(t.Context(), []string{"-plugin", "./qat_plugin"}, &out, &errs); code != 0 {
				t.Fatalf("exit status %d\n%s", code, &errs)
			}
			wantWidth(t, out.String(), width)
		})
	}
}
