// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// TestMain also runs the fake adf_ctl and its child, which are symbolic links
// to the test binary.
func TestMain(m *testing.M) {
	dir, name := filepath.Split(os.Args[0])
	switch name {
	case fakeADFCtl:
		os.Exit(runFakeADFCtl(dir, os.Args[1:]))
	case fakeChild:
		runFakeChild(dir, os.Args[1])
	}
	// Without this the race detector delays the exit of the fake by a second.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	goleak.VerifyTestMain(m)
}

// The fake adf_ctl is controlled by files in its directory.
const (
	fakeADFCtl = "adf_ctl"
	fakeChild  = "adf_ctl_child"
	fileStatus = "status" // what it prints
	fileRuns   = "runs"   // grows by a byte with each run
	fileFail   = "fail"   // if it exists, the program prints it to stderr and fails
	fileOrphan = "orphan" // if it exists, it is a FIFO: a child holds the output open until the FIFO is closed
	fileFlood  = "flood"  // if it exists, it names the stream to which the program writes without an end
	fileChild  = "child"  // if it exists, it is a FIFO: a child holds it open, and both programs hang
)

func runFakeADFCtl(dir string, args []string) int {
	if len(args) != 1 || args[0] != "status" {
		fmt.Fprintf(os.Stderr, "called with %q\n", args)
		return 2
	}
	runs, err := os.OpenFile(dir+fileRuns, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err == nil {
		_, err = runs.WriteString("x")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	text, _ := os.ReadFile(dir + fileStatus)
	os.Stdout.Write(text)
	if stream, err := os.ReadFile(dir + fileFlood); err == nil {
		flood(string(stream))
	}
	for _, fifo := range []string{fileOrphan, fileChild} {
		if _, err := os.Stat(dir + fifo); err != nil {
			continue
		}
		child := exec.Command(dir+fakeChild, fifo)
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		if fifo == fileChild {
			_ = child.Wait()
		}
	}
	if reason, err := os.ReadFile(dir + fileFail); err == nil {
		os.Stderr.Write(reason)
		return 1
	}
	return 0
}

// flood writes to a stream until it is killed. It stops at 256 MiB, so that a test that fails does
// not use up the memory of the machine.
func flood(stream string) {
	signal.Ignore(syscall.SIGPIPE)
	f := os.Stdout
	if stream == "stderr" {
		f = os.Stderr
	}
	line := []byte(strings.Repeat("y\n", 1<<15))
	for range 256 << 20 / len(line) {
		_, _ = f.Write(line)
	}
	for {
		_ = syscall.Pause()
	}
}

// runFakeChild hangs after it wrote to the FIFO, or ends when the FIFO is closed.
func runFakeChild(dir, fifo string) {
	if fifo == fileOrphan {
		if f, err := os.OpenFile(dir+fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
			_, _ = io.Copy(io.Discard, f)
		}
		os.Exit(0)
	}
	f, err := os.OpenFile(dir+fifo, os.O_WRONLY, 0)
	if err != nil {
		os.Exit(2)
	}
	fmt.Fprintln(f, "alive")
	_ = syscall.Pause()
}
