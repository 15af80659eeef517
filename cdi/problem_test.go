// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRemedyFitsTheError(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.EROFS:   "mount the directory writable",
		syscall.EACCES:  "allow the plugin to write",
		syscall.EPERM:   "allow the plugin to write",
		syscall.ENOSPC:  "free space",
		syscall.EDQUOT:  "free space",
		syscall.ENOTDIR: "another file is in the way",
		syscall.EEXIST:  "another file is in the way",
		syscall.EISDIR:  "another file is in the way",
		syscall.ENOENT:  "create the directory",
		syscall.EIO:     `solve "x: input/output error"`,
	} {
		if got := remedy(fmt.Errorf("x: %w", errno)); !strings.HasPrefix(got, want) {
			t.Errorf("%v: remedy %q, want %q", errno, got, want)
		}
	}
}

func TestProblemIsLoggedWhenItIsNewChangesPersistsAndIsSolved(t *testing.T) {
	file := func(text string) problems {
		p := problems{}
		p.addFile("/cdi/a.json", errors.New(text))
		return p
	}
	const vf = "color.example.com/vf=1"
	device := problems{}
	device.addDevice(vf, errors.New("bad"))
	start := time.Now()
	var log logBuffer
	problemLog := newProblemLog(log.logger())
	for _, step := range []struct {
		after time.Duration
		found problems
		want  []string // what the line contains; nil if there must be none
	}{
		{0, file("full"), []string{"Cannot update CDI specs", `"full"`, "/cdi/a.json", `solve \"full\"`}},
		{time.Second, file("full"), nil},
		{2 * time.Second, file("broken"), []string{`"broken"`}},
		{10 * time.Minute, file("broken"), nil},
		{10*time.Minute + 2*time.Second, file("broken"), []string{`"broken"`}},
		{20 * time.Minute, file("broken"), nil},
		{21 * time.Minute, problems{}, []string{"CDI problem solved", "/cdi/a.json"}},
		{22 * time.Minute, file("broken"), []string{`"broken"`}},
		{23 * time.Minute, problems{}, []string{"CDI problem solved"}},
		{24 * time.Minute, device, []string{"Serving a device without its CDI name", `"bad"`, vf}},
		{25 * time.Minute, problems{}, []string{"CDI problem solved", vf}},
	} {
		logged := len(log.String())
		problemLog.write(step.found, start.Add(step.after))
		text := log.String()[logged:]
		if (text == "") != (step.want == nil) || strings.Count(text, "\n") > 1 {
			t.Errorf("after %v: logged %q, want %q", step.after, text, step.want)
		}
		for _, want := range step.want {
			if !strings.Contains(text, want) {
				t.Errorf("after %v: logged %q, want %q in it", step.after, text, want)
			}
		}
	}
}
