// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/test/kubelet/devicemanager"
)

// devmanager is a running cmd/devmanager.
type devmanager struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan map[string]any // replies and events
	wait  func() error        // waits for the end of the process
}

func startDevmanager(t *testing.T, path string) *devmanager {
	t.Helper()
	cmd := exec.Command(path)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	d := &devmanager{t: t, cmd: cmd, in: in, lines: make(chan map[string]any, 1000)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(d.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			var line map[string]any
			if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
				t.Errorf("devmanager wrote %q: %v", scanner.Text(), err)
				return
			}
			d.lines <- line
		}
	}()
	d.wait = sync.OnceValue(func() error { <-read; return cmd.Wait() })
	t.Cleanup(d.kill)
	return d
}

// kill ends the process like a crash.
func (d *devmanager) kill() {
	_ = d.cmd.Process.Kill() // fails if the process has ended
	_ = d.wait()             // fails because of the signal
}

// next returns the next line that has a key: "event" or "reply".
func (d *devmanager) next(key string) map[string]any {
	d.t.Helper()
	for timeout := time.After(testTimeout); ; {
		select {
		case line, ok := <-d.lines:
			if !ok {
				d.t.Fatalf("devmanager ended, want a line with %q", key)
			}
			if line[key] != nil {
				return line
			}
		case <-timeout:
			d.t.Fatalf("no line with %q from devmanager", key)
		}
	}
}

// try sends a command and returns its reply.
func (d *devmanager) try(command string, args ...any) map[string]any {
	d.t.Helper()
	line := fmt.Sprintln(append([]any{command}, args...)...)
	_, err := io.WriteString(d.in, line)
	must(d.t, err)
	reply := d.next("reply")
	if reply["reply"] != command {
		d.t.Fatalf("reply to %q is %v", line, reply)
	}
	return reply
}

// do sends a command that must succeed, and returns its reply.
func (d *devmanager) do(command string, args ...any) map[string]any {
	d.t.Helper()
	reply := d.try(command, args...)
	if reply["error"] != nil {
		d.t.Fatalf("%s %v: %v", command, args, reply["error"])
	}
	return reply
}

func TestDevmanagerProgram(t *testing.T) {
	path := build(t, ".", "./cmd/devmanager")
	t.Run("runs commands", func(t *testing.T) { testCommands(t, path) })
	t.Run("is killed and started again", func(t *testing.T) { testCrashes(t, path) })
}

func testCommands(t *testing.T, path string) {
	n, p := newNode(t), &fakePlugin{}
	d := startDevmanager(t, path)
	p.edit(t, healthyDevices("generic", 2))
	n.startPlugin(p)

	d.do("wait", generic, 2, 2)
	p.edit(t, func(b *devtree.Builder) error { return b.Put("generic", device(1, devtree.Unhealthy)) })
	event := d.next("event")
	for event["changed"] == nil {
		event = d.next("event")
	}
	for key, want := range map[string]any{
		"event":    "listed",
		"resource": generic,
		"capacity": 2.0,
		"healthy":  1.0,
		"changed":  []any{deviceID(1)},
	} {
		if diff := cmp.Diff(want, event[key]); diff != "" {
			t.Errorf("%s of the event (-want +got):\n%s", key, diff)
		}
	}
	received, applied := event["received_us"].(float64), event["applied_us"].(float64)
	if received <= 0 || applied < received {
		t.Errorf("the event was received at %v µs and applied at %v µs", received, applied)
	}
	d.do("wait", generic, 2, 1)

	want := []any{
		map[string]any{"id": deviceID(0), "health": "Healthy", "numa": []any{0.0}},
		map[string]any{"id": deviceID(1), "health": "Unhealthy", "numa": []any{1.0}},
	}
	if diff := cmp.Diff(want, d.do("devices", generic)["devices"]); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	got := d.do("allocate", "pod", generic, 1)
	if diff := cmp.Diff([]any{deviceID(0)}, got["ids"]); diff != "" {
		t.Errorf("allocated devices (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"DEVICE_0": deviceID(0)}, got["env"]); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if nodes, _ := got["nodes"].([]any); len(nodes) != 2 {
		t.Errorf("device nodes are %v, want two", got["nodes"])
	}
	if reply := d.try("allocate", "other", generic, 1); reply["error"] == nil {
		t.Error("a device was allocated that is unhealthy or in use")
	}
	d.do("remove", "pod")
	d.do("allocate", "pod", generic, 1)

	d.do("restart")
	d.do("wait", generic, 2, 1)
	for _, wrong := range []string{"nonsense", "devices", "remove nobody", "wait a/b 1 1 1ms", "wait a/b x 1"} {
		words := strings.Fields(wrong)
		if reply := d.try(words[0], strings.Join(words[1:], " ")); reply["error"] == nil {
			t.Errorf("%q succeeded: %v", wrong, reply)
		}
	}
	d.do("quit")
	if err := d.wait(); err != nil {
		t.Errorf("devmanager ended with %v after quit", err)
	}
}

// A kubelet that crashes closes nothing in order, and leaves a socket behind that refuses
// connections.
func testCrashes(t *testing.T, path string) {
	n, p := newNode(t), &fakePlugin{}
	p.edit(t, healthyDevices("generic", 16))
	n.startPlugin(p)
	for range 10 {
		d := startDevmanager(t, path)
		d.do("wait", generic, 16, 16)
		d.kill()
		if _, err := os.Stat(devicemanager.Socket); err != nil {
			t.Errorf("a killed device manager must leave its socket behind: %v", err)
		}
	}
	d := startDevmanager(t, path)
	d.do("wait", generic, 16, 16)
	must(t, d.cmd.Process.Signal(syscall.SIGTERM))
	if err := d.wait(); err != nil {
		t.Errorf("devmanager ended with %v after SIGTERM", err)
	}
}
