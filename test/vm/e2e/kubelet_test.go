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

// A kubelet is the program devmanager (test/kubelet/cmd/devmanager says its protocol): the kubelet's own device manager.
type kubelet struct {
	*program
	commands io.Writer
	replies  chan reply
	asking   sync.Mutex

	mu     sync.Mutex
	counts map[string]int // devices in each resource's newest list
	last   int64          // when the newest list was received, monotonic()
	lists  int            // how many lists have come
	begun  int            // which start of the device manager they belong to
	news   chan struct{}  // closed and made anew with each event
}

// message is a line of devmanager's: an event, or the reply to a command.
type message struct {
	Event      string `json:"event"`
	Resource   string `json:"resource"`
	Capacity   int    `json:"capacity"`
	Start      int    `json:"start"`
	ReceivedUS int64  `json:"received_us"`
	reply
}

type reply struct {
	Reply     string           `json:"reply"`
	Error     string           `json:"error"`
	Resources map[string]count `json:"resources"`
	Devices   []device         `json:"devices"`
	IDs       []string         `json:"ids"`
	Env       map[string]string
	Nodes     []struct{ Host, Container, Permissions string }
}

type count struct{ Capacity, Allocatable int }

type device struct {
	ID, Health string
	NUMA       []int
}

func startKubelet(t *testing.T) *kubelet {
	t.Helper()
	if err := os.RemoveAll(sockets); err != nil { // with the checkpoint of another test's pods
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/devmanager")
	commands, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	// A pipe of ours: one of cmd's would be closed as soon as the program ends, with its last lines unread.
	lines, out := io.Pipe()
	cmd.Stdout = out
	k := &kubelet{commands: commands, replies: make(chan reply, 16), counts: map[string]int{}, news: make(chan struct{})}
	k.program = start(t, cmd)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer lines.Close() // so that nothing waits to write what is not read
		k.read(t, lines)
	}()
	go func() {
		<-k.done
		out.Close()
	}()
	t.Cleanup(func() {
		if err := commands.Close(); err != nil {
			t.Error(err)
		}
		select {
		case <-k.done:
		case <-time.After(patience):
			t.Error("devmanager does not end")
			lines.Close()
		}
		<-read
	})
	k.ask(t, "capacity") // it answers when it has started
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
		k.mu.Lock()
		if m.Start != k.begun {
			k.begun = m.Start
			clear(k.counts) // a kubelet that starts knows no device
		}
		if m.Event == "listed" {
			k.counts[m.Resource], k.last = m.Capacity, m.ReceivedUS
			k.lists++
		}
		close(k.news)
		k.news = make(chan struct{})
		k.mu.Unlock()
	}
}

// try sends a command and returns its reply, which may hold an error.
func (k *kubelet) try(t *testing.T, command string) reply {
	t.Helper()
	k.asking.Lock()
	defer k.asking.Unlock()
	if _, err := io.WriteString(k.commands, command+"\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-k.replies:
		return r
	case <-k.done:
		t.Fatalf("devmanager ended: %v", k.err)
	case <-time.After(patience):
		t.Fatalf("devmanager does not answer %q", command)
	}
	return reply{}
}

// ask sends a command that must succeed.
func (k *kubelet) ask(t *testing.T, command string) reply {
	t.Helper()
	r := k.try(t, command)
	if r.Error != "" {
		t.Fatalf("devmanager: %s: %s", command, r.Error)
	}
	return r
}

// state is how many devices there are in all lists, how many lists have come, when the newest did, and what says when that changes.
func (k *kubelet) state() (devices, lists int, at int64, news <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range k.counts {
		devices += n
	}
	return devices, k.lists, k.last, k.news
}

// all is each resource's devices, as the kubelet may give them to containers; resources with none are left out.
func (k *kubelet) all(t *testing.T) map[string][]device {
	t.Helper()
	k.mu.Lock()
	var names []string
	for name := range k.counts {
		names = append(names, name)
	}
	k.mu.Unlock()
	lists := map[string][]device{}
	for _, name := range names {
		// An error says that no list has come, as after a restart.
		if devices := k.try(t, "devices "+name).Devices; len(devices) > 0 {
			lists[name] = devices
		}
	}
	return lists
}
