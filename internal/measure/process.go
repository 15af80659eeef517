// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Mount is a directory that a program finds at another path.
type Mount struct {
	Source string // empty: an empty file system in memory
	Target string // created if it is missing
}

// childEnv holds the spec of the process that this program becomes in the mount namespace.
const childEnv = "QATPLUGIN_MEASURE_CHILD"

type childSpec struct {
	Mounts  []Mount
	Program string
	Args    []string
}

// clockFD is where the child writes the time of its exec.
const clockFD = 3

// A Process is a program that runs.
type Process struct {
	PID     int
	Started time.Time     // of the program itself, after the namespace was prepared
	Ended   chan struct{} // closed when the program has ended

	cmd *exec.Cmd
	log string
}

// Start runs a program in a mount namespace of its own, with mounts in this order. That takes root
// or a kernel that allows user namespaces. The log goes to a file, which Stop removes. The main
// function of the calling program must begin with a call of [Child].
func Start(program string, args []string, mounts []Mount) (*Process, error) {
	program, err := filepath.Abs(program)
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(childSpec{mounts, program, append([]string{program}, args...)})
	if err != nil {
		return nil, err
	}
	log, err := os.CreateTemp("", "measure-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	clock, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer clock.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+string(spec))
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, err
	}
	p := &Process{PID: cmd.Process.Pid, Ended: make(chan struct{}), cmd: cmd, log: log.Name()}
	go func() {
		_ = cmd.Wait()
		close(p.Ended)
	}()
	text := make([]byte, 32)
	n, err := clock.Read(text)
	nanoseconds, parseErr := strconv.ParseInt(string(text[:n]), 10, 64)
	if err = errors.Join(err, parseErr); err != nil {
		return nil, errors.Join(fmt.Errorf("%s does not start: %w\n%s", program, err, p.LastLines(5)), p.Stop())
	}
	p.Started = time.Unix(0, nanoseconds)
	return p, nil
}

// Child returns unless this process was started by Start. Then it executes the program.
func Child() {
	if spec := os.Getenv(childEnv); spec != "" {
		fmt.Fprintln(os.Stderr, become(spec)) // returns only if it fails
		os.Exit(1)
	}
}

// become prepares the mount namespace in which it is called and executes the program.
func become(text string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	for _, m := range spec.Mounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	if err := os.Unsetenv(childEnv); err != nil {
		return err
	}
	unix.CloseOnExec(clockFD)
	if _, err := unix.Write(clockFD, strconv.AppendInt(nil, time.Now().UnixNano(), 10)); err != nil {
		return err
	}
	return unix.Exec(spec.Program, spec.Args, os.Environ())
}

func (m Mount) mount() error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	if m.Source == "" {
		if err := unix.Mount("tmpfs", m.Target, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount a tmpfs at %s: %w", m.Target, err)
		}
		return nil
	}
	if err := unix.Mount(m.Source, m.Target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Source, m.Target, err)
	}
	return nil
}

// Alive reports whether the process has not ended by itself.
func (p *Process) Alive() bool {
	select {
	case <-p.Ended:
		return false
	default:
		return true
	}
}

// Stop ends the process and removes its log.
func (p *Process) Stop() error {
	defer os.Remove(p.log)
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
	select {
	case <-p.Ended:
		return nil
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.Ended
		return errors.New("the program did not end within 10 s of SIGTERM")
	}
}

// LastLines returns the end of the log.
func (p *Process) LastLines(n int) string {
	text, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
