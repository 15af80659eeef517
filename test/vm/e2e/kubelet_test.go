// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// socketDir is the directory of the kubelet's socket and those of its device plugins.
const socketDir = "/var/lib/kubelet/device-plugins/"

// kubelet is a running devmanager, the program that runs the kubelet's own device manager. Its
// protocol is described in test/kubelet/cmd/devmanager.
type kubelet struct {
	*program
	requests sync.Mutex // held from a command to its reply
	commands io.Writer
	replies  chan reply

	mu       sync.Mutex     // guards all following fields
	start    int            // which start of the device manager the counts belong to
	counts   map[string]int // number of devices in the newest list of each resource
	lists    int            // number of lists received
	received time.Duration  // when the newest list was received, on the clock of monotonic
	next     chan struct{}  // closed by the next event
}

// message is a line of devmanager's output: an event or the reply to a command.
type message struct {
	Event      string `json:"event"`
	Resource   string `json:"resource"`
	Capacity   int    `json:"capacity"`
	Start      int    `json:"start"`
	ReceivedUS int64  `json:"received_us"`
	reply
}

type reply struct {
	Error   string            `json:"error"`
	Devices []device          `json:"devices"`
	IDs     []string          `json:"ids"`
	Env     map[string]string `json:"env"`
	Nodes   []struct{ Host, Container, Permissions string }
}

type device struct {
	ID, Health string
	NUMA       []int
}

// startKubelet starts a devmanager with an empty directory of sockets.
func startKubelet(t *testing.T) *kubelet {
	t.Helper()
	if err := os.RemoveAll(socketDir); err != nil { // it may hold the checkpoint of another test
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/devmanager")
	commands, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Not cmd.StdoutPipe: Wait would close it before its last lines are read.
	lines, stdout := io.Pipe()
	cmd.Stdout = stdout
	k := &kubelet{
		commands: commands,
		replies:  make(chan reply, 16),
		counts:   map[string]int{},
		next:     make(chan struct{}),
	}
	k.program = startProgram(t, cmd)
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		defer lines.Close() // unblocks the writer
		k.read(t, lines)
	}()
	go func() {
		<-k.done
		stdout.Close()
	}()
	t.Cleanup(func() {
		if err := commands.Close(); err != nil {
			t.Error(err)
		}
		select {
		case <-k.done:
		case <-time.After(testTimeout):
			t.Error("devmanager did not end at the end of its input")
			lines.Close()
		}
		<-reader
	})
	k.do(t, "capacity") // devmanager replies once it has started
	return k
}

func (k *kubelet) read(t *testing.T, lines io.Reader) {
	for in := bufio.NewScanner(lines); in.Scan(); {
		var m message
		if err := json.Unmarshal(in.Bytes(), &m); err != nil {
			t.Errorf("devmanager wrote %q: %v", in.Text(), err)
			return
		}
		if m.Event == "" {
			k.replies <- m.reply
			continue
		}
		k.record(&m)
	}
}

// record records an event.
func (k *kubelet) record(m *message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.Start != k.start {
		k.start = m.Start
		clear(k.counts) // a restarted kubelet has no lists
	}
	if m.Event == "listed" {
		k.counts[m.Resource] = m.Capacity
		k.lists++
		k.received = time.Duration(m.ReceivedUS) * time.Microsecond
	}
	close(k.next)
	k.next = make(chan struct{})
}

// try sends a command and returns its reply, which may be an error.
func (k *kubelet) try(t *testing.T, command string) reply {
	t.Helper()
	k.requests.Lock()
	defer k.requests.Unlock()
	if _, err := io.WriteString(k.commands, command+"\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-k.replies:
		return r
	case <-k.done:
		t.Fatalf("devmanager ended: %v", k.err)
	case <-time.After(testTimeout):
		t.Fatalf("devmanager did not reply to %q", command)
	}
	return reply{}
}

// do sends a command that must succeed.
func (k *kubelet) do(t *testing.T, command string) reply {
	t.Helper()
	r := k.try(t, command)
	if r.Error != "" {
		t.Fatalf("devmanager: %s: %s", command, r.Error)
	}
	return r
}

// kubeletState summarizes the lists that a kubelet has received.
type kubeletState struct {
	devices  int             // in the newest lists of all resources
	lists    int             // received so far
	received time.Duration   // when the newest list was received
	changed  <-chan struct{} // closed by the next event
}

func (k *kubelet) state() kubeletState {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := kubeletState{lists: k.lists, received: k.received, changed: k.next}
	for _, n := range k.counts {
		s.devices += n
	}
	return s
}

// devices returns the devices of each resource that has any.
func (k *kubelet) devices(t *testing.T) map[string][]device {
	t.Helper()
	k.mu.Lock()
	var names []string
	for name := range k.counts {
		names = append(names, name)
	}
	k.mu.Unlock()
	all := map[string][]device{}
	for _, name := range names {
		// The reply is an error if there is no list, as after a restart.
		if devices := k.try(t, "devices "+name).Devices; len(devices) > 0 {
			all[name] = devices
		}
	}
	return all
}
