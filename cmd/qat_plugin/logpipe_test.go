// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// asProgram is the environment variable with which the test binary is qat_plugin.
const asProgram = "QAT_PLUGIN_TEST_MAIN"

// startProcess runs qat_plugin as a process with this standard error. wait waits for its end. The
// end of the test kills the process.
func startProcess(t *testing.T, stderr *os.File, args ...string) (cmd *exec.Cmd, wait func() error) {
	t.Helper()
	return startProgram(t, os.Args[0], stderr, args...)
}

// startProgram is startProcess with another file of the program.
func startProgram(
	t *testing.T, program string, stderr *os.File, args ...string,
) (cmd *exec.Cmd, wait func() error) {
	t.Helper()
	cmd = exec.Command(program, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stderr = stderr
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, func() error {
		t.Helper()
		select {
		case err := <-ended:
			return err
		case <-time.After(timeout):
			_ = cmd.Process.Kill()
			<-ended
			t.Fatal("the process does not end")
			return nil
		}
	}
}

// pipe returns a pipe for a log that holds 4 KiB.
func pipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { _ = reader.Close() })
	t.Cleanup(func() { _ = writer.Close() })
	_, err = unix.FcntlInt(writer.Fd(), unix.F_SETPIPE_SZ, 4096)
	must(t, err)
	return reader, writer
}

// TestPluginDoesNotNeedAReaderOfItsLog runs the plugin as a process whose standard error is a pipe.
func TestPluginDoesNotNeedAReaderOfItsLog(t *testing.T) {
	for name, test := range map[string]struct {
		closed bool
		format string
	}{
		"full":         {false, "text"},
		"closed":       {true, "text"},
		"full, JSON":   {false, "json"},
		"closed, JSON": {true, "json"},
	} {
		t.Run(name, func(t *testing.T) {
			host, dir := lookalike.Start(t), t.TempDir()
			kubelet, err := kubelettest.Start(dir)
			must(t, err)
			defer kubelet.Stop()
			reader, writer := pipe(t)
			if test.closed {
				must(t, reader.Close())
			}
			cmd, wait := startProcess(t, writer, "-v=4", "-logging-format", test.format,
				"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir)
			must(t, writer.Close())
			addVF(t, host)
			awaitVF(t, kubelet)
			for range 10 { // each change is logged with more than 1 KiB
				must(t, host.RemoveVF(vf))
				must(t, host.AddVF(lookalike.VF{Address: vf, PF: pf}))
			}
			awaitVF(t, kubelet)
			must(t, cmd.Process.Signal(syscall.SIGTERM))
			if err := wait(); err != nil {
				t.Errorf("ended with %v, want status 0", err)
			}
		})
	}
}

func TestLogIsCompleteAtTheEnd(t *testing.T) {
	for format, test := range map[string]struct{ begin, end string }{
		"text": {"I", "\"QAT device plugin ended\"\n"},
		"json": {`{"ts":`, "\"msg\":\"QAT device plugin ended\"}\n"},
	} {
		t.Run(format, func(t *testing.T) { testLogIsComplete(t, format, test.begin, test.end) })
	}
}

// testLogIsComplete ends the plugin after its first line. All lines begin with begin, and the log
// ends with end.
func testLogIsComplete(t *testing.T, format, begin, end string) {
	host, dir := lookalike.Start(t), t.TempDir()
	reader, writer := pipe(t)
	cmd, wait := startProcess(t, writer, "-logging-format", format,
		"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir)
	must(t, writer.Close())
	log := make(chan []byte, 1)
	first := make(chan struct{})
	go func() {
		var text bytes.Buffer
		_, _ = io.CopyN(&text, reader, 1)
		close(first)
		_, _ = io.Copy(&text, reader)
		log <- text.Bytes()
	}()
	<-first
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	must(t, wait())
	text := string(<-log)
	if !strings.HasSuffix(text, end) {
		t.Errorf("the last line is missing from the log:\n%s", text)
	}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, begin) {
			t.Errorf("unexpected line: %s", line)
		}
	}
}

// The Go runtime writes the trace of a crash to descriptor 2, which the garbage collector must not
// close. It does so only in a built program: in a test binary, other packages refer to os.Stderr.
func TestTraceOfACrashIsOnStandardError(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "qat_plugin")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	stderr, err := os.Create(filepath.Join(dir, "stderr"))
	must(t, err)
	defer stderr.Close()
	text := func() string {
		text, err := os.ReadFile(stderr.Name())
		must(t, err)
		return string(text)
	}
	cmd, wait := startProgram(t, program, stderr, "-sysfs-root", dir, "-dev-root", dir, "-kubelet-dir", dir,
		"-profiling", "-http-address=127.0.0.1:0")
	serving := regexp.MustCompile(`"Serving the status" address="([0-9.:]+)"`)
	for end := time.Now().Add(timeout); !serving.MatchString(text()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the program does not serve:\n%s", text())
		}
	}
	address := serving.FindStringSubmatch(text())[1]
	for range 2 { // the second collection comes after the finalizers of the first
		if status, body := get(t, "http://"+address+"/debug/pprof/heap?gc=1&debug=1"); status != 200 {
			t.Fatalf("/debug/pprof/heap: %d %s", status, body)
		}
	}
	must(t, cmd.Process.Signal(syscall.SIGQUIT))
	if err := wait(); err == nil {
		t.Error("the program ended with status 0 after SIGQUIT")
	}
	if !strings.Contains(text(), "\ncreated by ") {
		t.Errorf("no trace of the goroutines:\n%s", text())
	}
}

// TestErrorOfTheLogFileIsPrinted relies on klog, which ends the program for it.
func TestErrorOfTheLogFileIsPrinted(t *testing.T) {
	host, dir := lookalike.Start(t), t.TempDir()
	reader, writer := pipe(t)
	_, wait := startProcess(t, writer, "-logtostderr=false", "-log_file=/does/not/exist",
		"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir)
	must(t, writer.Close())
	if err := wait(); err == nil || err.Error() != "exit status 2" {
		t.Errorf("ended with %v, want status 2", err)
	}
	text, err := io.ReadAll(reader)
	must(t, err)
	if !strings.Contains(string(text), "/does/not/exist") {
		t.Errorf("the error is missing: %s", text)
	}
}
