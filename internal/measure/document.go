// SPDX-License-Identifier: Apache-2.0

// Package measure runs programs as processes on a look-alike host, measures what they use, and
// writes results into Markdown files. It is for the programs below test that compare and measure.
package measure

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Processor returns the name of the machine's processor.
func Processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// markers returns the lines of a Markdown file between which a make target writes its results.
func markers(target string) (begin, end string) {
	return "<!-- results: written by make " + target + " -->\n", "<!-- end of the results -->\n"
}

// ReplaceResults replaces the part of a Markdown file between the markers of a make target.
func ReplaceResults(file, target, text string) error {
	begin, end := markers(target)
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", file, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return os.WriteFile(file, []byte(before+begin+"\n"+text+"\n"+end+after), 0o644)
}
