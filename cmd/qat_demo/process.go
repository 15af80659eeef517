package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// logTail is how many of the plugin's last lines are shown when something did not happen.
const logTail = 12

// process is the plugin as a child process. Its log goes to a file; the last lines are kept.
type process struct {
	cmd     *exec.Cmd
	started time.Time // just before the program was executed
	ended   chan struct{}
	err     error // of Wait; to be read after ended

	mu   sync.Mutex
	tail []string
}

func startPlugin(s *stage) (*process, error) {
	log, err := os.Create(s.pluginLog())
	if err != nil {
		return nil, err
	}
	p := &process{ended: make(chan struct{})}
	p.cmd = exec.Command(s.o.plugin,
		"-sysfs-root="+s.host.Sysfs(), "-dev-root="+s.host.Dev(), "-kubelet-dir="+s.kubeletDir(), fmt.Sprintf("-v=%d", s.o.verbose))
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which then ends the plugin in order
	out, err := p.cmd.StderrPipe()
	if err != nil {
		_ = log.Close()
		return nil, err
	}
	p.cmd.Stdout = log
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		_ = log.Close()
		return nil, err
	}
	go func() {
		defer close(p.ended)
		defer log.Close()
		p.keepLog(out, log)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

func (p *process) keepLog(from io.Reader, to io.Writer) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(to, lines.Text())
		p.mu.Lock()
		if p.tail = append(p.tail, lines.Text()); len(p.tail) > logTail {
			p.tail = p.tail[1:]
		}
		p.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, from) // a line past all measure: the plugin must not wait for us
}

func (p *process) lastLines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.tail...)
}

// terminate asks the plugin to end and returns how it did: nil for exit status 0.
func (p *process) terminate(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kill ends the plugin if it still runs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error says that it has ended
	<-p.ended
}
