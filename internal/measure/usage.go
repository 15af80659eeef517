// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used so far.
type Usage struct {
	CPU     time.Duration
	Wakeups int // voluntary context switches of all threads: how often a thread began to wait
}

// UsageOf adds up the threads of a process. The kernel counts CPU time in nanoseconds only for each
// of them (Documentation/scheduler/sched-stats.rst).
func UsageOf(pid int) (Usage, error) {
	var u Usage
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		return u, errors.Join(err, errors.New("the process has ended"))
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
		u.CPU += time.Duration(ns)
		u.Wakeups += switches
	}
	return u, nil
}

// Resident returns the resident set size of a process in KiB.
func Resident(pid int) (int, error) {
	return statusField(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
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
