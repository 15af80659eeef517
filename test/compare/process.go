// SPDX-License-Identifier: Apache-2.0

package main

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

// plugin is a program to measure.
type plugin struct {
	name    string
	program string
	args    []string

	serves   bool // with -http-address
	observed bool // an observer looks into it
}

// childEnv holds the spec of the process that this program becomes in the mount namespace.
const childEnv = "QATPLUGIN_COMPARE_CHILD"

type childSpec struct {
	Sys, Dev, Kubelet string // directories of the look-alike host
	Program           string
	Args              []string
}

const (
	kubeletPath = "/var/lib/kubelet/device-plugins"
	clockFD     = 3 // on which the child writes the time of its exec
)

// process is a plugin that runs.
type process struct {
	cmd     *exec.Cmd
	started time.Time // of the plugin itself, after the namespace was prepared
	ended   chan struct{}
	log     string
}

// start runs a plugin with these arguments on a host. Its log goes to a file.
func (p *plugin) start(h *host, args []string) (*process, error) {
	program, err := filepath.Abs(p.program)
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(childSpec{
		Sys: h.Sysfs(), Dev: h.Dev(), Kubelet: h.kubelet.Dir(),
		Program: program, Args: append([]string{program}, args...),
	})
	if err != nil {
		return nil, err
	}
	log, err := os.CreateTemp("", "compare-*.log")
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
	r := &process{cmd: cmd, ended: make(chan struct{}), log: log.Name()}
	go func() {
		_ = cmd.Wait()
		close(r.ended)
	}()
	text := make([]byte, 32)
	n, err := clock.Read(text)
	nanoseconds, parseErr := strconv.ParseInt(string(text[:n]), 10, 64)
	if err = errors.Join(err, parseErr); err != nil {
		return nil, errors.Join(fmt.Errorf("%s does not start: %w\n%s", p.name, err, r.lastLines(5)), r.stop())
	}
	r.started = time.Unix(0, nanoseconds)
	return r, nil
}

// become prepares the mount namespace in which it is called and executes the plugin.
func become(text string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs at /var/lib: %w", err)
	}
	if err := os.MkdirAll(kubeletPath, 0o755); err != nil {
		return err
	}
	// The host's directory may be below /dev, which therefore comes last.
	for _, m := range [][2]string{{spec.Kubelet, kubeletPath}, {spec.Sys, "/sys"}, {spec.Dev, "/dev"}} {
		if err := unix.Mount(m[0], m[1], "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m[0], m[1], err)
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

// alive reports whether the process has not ended by itself.
func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop ends the process.
func (p *process) stop() error {
	defer os.Remove(p.log)
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
	select {
	case <-p.ended:
		return nil
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return errors.New("the plugin did not end within 10 s of SIGTERM")
	}
}

// lastLines returns the end of the log.
func (p *process) lastLines(n int) string {
	text, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// usage is what a process has used so far.
type usage struct {
	cpu     time.Duration
	wakeups int // voluntary context switches of all threads: how often a thread began to wait
}

// usage adds up the threads. The kernel counts CPU time in nanoseconds only for each of them
// (Documentation/scheduler/sched-stats.rst).
func (p *process) usage() (usage, error) {
	var u usage
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		return u, errors.Join(err, errors.New("the plugin has ended"))
	}
	for _, task := range tasks {
		text, err := os.ReadFile(filepath.Join(task, "schedstat"))
		if err != nil {
			return u, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return u, err
		}
		switches, err := statusField(filepath.Join(task, "status"), "voluntary_ctxt_switches:")
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(ns)
		u.wakeups += switches
	}
	return u, nil
}

// resident returns the resident set size in KiB.
func (p *process) resident() (int, error) {
	return statusField(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid), "VmRSS:")
}

// statusField returns a number of a status file of proc(5).
func statusField(file, name string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name {
			return strconv.Atoi(fields[1])
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}
