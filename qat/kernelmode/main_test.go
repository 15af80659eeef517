package kernelmode

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"
)

// TestMain is also the stand-in for adf_ctl and for a child of it: a link to the test binary, called by that name.
func TestMain(m *testing.M) {
	dir, name := filepath.Split(os.Args[0])
	switch name {
	case standIn:
		os.Exit(playADFCtl(dir, os.Args[1:]))
	case standInChild:
		playChild(dir)
	}
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // of the stand-in: the race detector keeps a program for a second at its end
	goleak.VerifyTestMain(m)
}

// What the stand-in does is said by files beside it.
const (
	standIn      = "adf_ctl"
	standInChild = "adf_ctl_child"
	fileStatus   = "status" // what it prints
	fileRuns     = "runs"   // grows by a byte with each run
	fileFail     = "fail"   // when it is there, the program fails and says what is in it
	fileChild    = "child"  // a FIFO; when it is there, the program starts a child that holds it open, and both hang
)

func playADFCtl(dir string, args []string) int {
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
	if _, err := os.Stat(dir + fileChild); err == nil {
		child := exec.Command(dir + standInChild)
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		_ = child.Wait()
	}
	if why, err := os.ReadFile(dir + fileFail); err == nil {
		os.Stdout.Write(text)
		os.Stderr.Write(why)
		return 1
	}
	os.Stdout.Write(text)
	return 0
}

// playChild tells by the FIFO that it lives, and hangs.
func playChild(dir string) {
	f, err := os.OpenFile(dir+fileChild, os.O_WRONLY, 0)
	if err != nil {
		os.Exit(2)
	}
	fmt.Fprintln(f, "alive")
	_ = syscall.Pause()
}

// must fails the test for an error of the look-alike host, which is never what a test is about.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// captureLog keeps what is logged until the test ends; the function that it returns gives the lines with a text in them, without their
// time and place.
func captureLog(t *testing.T) func(part string) []string {
	t.Helper()
	var text bytes.Buffer
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", &text) // which gets the errors, too
	return func(part string) (lines []string) {
		klog.Flush()
		for line := range strings.Lines(text.String()) {
			if _, line, ok := strings.Cut(strings.TrimSpace(line), "] "); ok && strings.Contains(line, part) {
				lines = append(lines, line)
			}
		}
		return lines
	}
}
