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

// devmanager is the program of cmd/devmanager at work.
type devmanager struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan map[string]any // replies and events, in the order they came
	ended func() error        // waits for the process
}

func startDevmanager(t *testing.T, path string) *devmanager {
	t.Helper()
	cmd := exec.Command(path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &devmanager{t: t, cmd: cmd, in: in, lines: make(chan map[string]any, 1000)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(d.lines)
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			var line map[string]any
			if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
				t.Errorf("devmanager wrote %q: %v", scanner.Text(), err)
				return
			}
			d.lines <- line
		}
	}()
	d.ended = sync.OnceValue(func() error { <-read; return cmd.Wait() })
	t.Cleanup(d.kill)
	return d
}

// kill ends the process as a crash does.
func (d *devmanager) kill() {
	_ = d.cmd.Process.Kill() // it may have ended
	_ = d.ended()            // by a signal, as wanted
}

// next is the next line that has the key: "event" or "reply".
func (d *devmanager) next(key string) map[string]any {
	d.t.Helper()
	timeout := time.After(deadline)
	for {
		select {
		case line, ok := <-d.lines:
			if !ok {
				d.t.Fatalf("devmanager ended while a line with %q was awaited", key)
			}
			if line[key] != nil {
				return line
			}
		case <-timeout:
			d.t.Fatalf("no line with %q came from devmanager", key)
		}
	}
}

// do sends the command and returns its reply.
func (d *devmanager) do(command string, args ...any) map[string]any {
	d.t.Helper()
	line := fmt.Sprintln(append([]any{command}, args...)...)
	if _, err := io.WriteString(d.in, line); err != nil {
		d.t.Fatal(err)
	}
	reply := d.next("reply")
	if reply["reply"] != command {
		d.t.Fatalf("reply to %q is %v", line, reply)
	}
	return reply
}

// must is do for a command that may not fail.
func (d *devmanager) must(command string, args ...any) map[string]any {
	d.t.Helper()
	reply := d.do(command, args...)
	if reply["error"] != nil {
		d.t.Fatalf("%s %v: %v", command, args, reply["error"])
	}
	return reply
}

func TestDevmanagerProgram(t *testing.T) {
	path := build(t, ".", "./cmd/devmanager")
	t.Run("answers its commands", func(t *testing.T) { testCommands(t, path) })
	t.Run("killed and started again, as a kubelet that crashes", func(t *testing.T) { testKilled(t, path) })
}

func testCommands(t *testing.T, path string) {
	n, p := newNode(t), &fakePlugin{}
	d := startDevmanager(t, path)
	p.edit(t, healthyDevices("generic", 2))
	n.startPlugin(p)

	d.must("wait", generic, 2, 2)
	p.edit(t, func(b *devtree.Builder) error { return b.Put("generic", device(1, devtree.Unhealthy)) })
	event := d.next("event")
	for event["changed"] == nil {
		event = d.next("event")
	}
	for key, want := range map[string]any{"event": "listed", "resource": generic, "capacity": 2.0, "healthy": 1.0, "changed": []any{deviceID(1)}} {
		if diff := cmp.Diff(want, event[key]); diff != "" {
			t.Errorf("event's %s (-want +got):\n%s", key, diff)
		}
	}
	if received, applied := event["received_us"].(float64), event["applied_us"].(float64); received <= 0 || applied < received {
		t.Errorf("event was received at %v µs and applied at %v µs", received, applied)
	}
	d.must("wait", generic, 2, 1)

	want := []any{
		map[string]any{"id": deviceID(0), "health": "Healthy", "numa": []any{0.0}},
		map[string]any{"id": deviceID(1), "health": "Unhealthy", "numa": []any{1.0}},
	}
	if diff := cmp.Diff(want, d.must("devices", generic)["devices"]); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	got := d.must("allocate", "pod", generic, 1)
	if diff := cmp.Diff([]any{deviceID(0)}, got["ids"]); diff != "" {
		t.Errorf("allocated devices (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"DEVICE_0": deviceID(0)}, got["env"]); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if nodes, _ := got["nodes"].([]any); len(nodes) != 2 {
		t.Errorf("nodes are %v, want the device's two", got["nodes"])
	}
	if reply := d.do("allocate", "other", generic, 1); reply["error"] == nil {
		t.Error("a device was allocated that is Unhealthy or in use")
	}
	d.must("remove", "pod")
	d.must("allocate", "pod", generic, 1)

	d.must("restart")
	d.must("wait", generic, 2, 1)
	for _, wrong := range []string{"nonsense", "devices", "remove nobody", "wait a/b 1 1 1ms", "wait a/b x 1"} {
		words := strings.Fields(wrong)
		if reply := d.do(words[0], strings.Join(words[1:], " ")); reply["error"] == nil {
			t.Errorf("%q was taken: %v", wrong, reply)
		}
	}
	d.must("quit")
	if err := d.ended(); err != nil {
		t.Errorf("devmanager ended with %v", err)
	}
}

// A kubelet that crashes says goodbye to nobody, and leaves its socket behind: connections to it are refused.
func testKilled(t *testing.T, path string) {
	n, p := newNode(t), &fakePlugin{}
	p.edit(t, healthyDevices("generic", 16))
	n.startPlugin(p)
	for range 10 {
		d := startDevmanager(t, path)
		d.must("wait", generic, 16, 16)
		d.kill()
		if _, err := os.Stat(devicemanager.Socket); err != nil {
			t.Errorf("a killed device manager should leave its socket: %v", err)
		}
	}
	d := startDevmanager(t, path)
	d.must("wait", generic, 16, 16)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.ended(); err != nil {
		t.Errorf("devmanager ended with %v on SIGTERM", err)
	}
}
