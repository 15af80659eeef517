// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Widths of the columns of the timeline. The list takes the rest of the line.
const (
	atWidth   = 9
	whatWidth = 46
	knewWidth = 14
)

// logTail is the number of lines of the plugin's log that are printed when a step fails.
const logTail = 12

// timeline prints what happens, one line per step.
type timeline struct {
	out     io.Writer
	colour  bool
	fixture *fixture
	start   time.Time // of the first step
	steps   int
	times   []stepTime // of steps that are measured from a change of the host
}

// stepTime is the time until the kubelet knew of a step.
type stepTime struct {
	what string
	knew time.Duration
}

func newTimeline(out io.Writer, f *fixture) *timeline {
	return &timeline{out: out, colour: useColour(out), fixture: f, start: time.Now()}
}

func (t *timeline) printf(format string, args ...any) { fmt.Fprintf(t.out, format, args...) }

func (t *timeline) println(code, text string) { t.printf("%s\n", t.paint(code, text)) }

func (t *timeline) opening() {
	t.println(bold, "The QAT device plugin on a look-alike host: no root, no hardware, no cluster")
	t.printf("\n")
	for _, l := range [][2]string{
		{"host", t.fixture.dir + ": a directory tree with a sysfs and a /dev that behave like a kernel's"},
		{"", cyPF + "  4xxx   NUMA 0  sym;asym   no VFs yet"},
		{"", dcPF + "  402xx  NUMA 1  dc         16 VFs"},
		{"plugin", t.fixture.o.plugin + ", the real program"},
		{"kubelet", "a small kubelet's end of the device plugin API"},
	} {
		t.printf("  %s%s\n", t.paint(cyan, pad(l[0], 9)), l[1])
	}
	header := padLeft("at (s)", atWidth-2) + "  " + pad("on the host", whatWidth) +
		padLeft("kubelet knew", knewWidth) + "  its list"
	t.printf("\n%s\n", t.paint(bold, header))
}

// begin prints the first half of a step's line, which is visible while the step runs.
func (t *timeline) begin(s step) {
	if t.steps == 0 {
		t.start = time.Now()
	}
	t.steps++
	t.printf("%s  %s", t.at(time.Now()), pad(s.what, whatWidth))
}

func (t *timeline) at(now time.Time) string {
	return t.paint(dim, padLeft(fmt.Sprintf("%.3f", now.Sub(t.start).Seconds()), atWidth-2))
}

// end prints the second half of the line, and the notes.
func (t *timeline) end(s step, r *result) {
	var notes []string
	if s.note != "" {
		notes = append(notes, s.note)
	}
	if s.want == nil {
		t.list("-", "", r.list)
	} else {
		t.list(micros(r.knew), bold, r.list)
		switch {
		case r.knew < 0:
			notes = append(notes, "The kubelet knew before the host was done.")
		case s.since == nil:
			t.times = append(t.times, stepTime{s.what, r.knew})
		}
	}
	if s.since != nil {
		notes = append(notes, "Measured from "+s.from+".")
	} else if r.bound > 0 {
		vfs := plural(r.bound, "VF")
		notes = append(notes, fmt.Sprintf("%s created and bound within %s.", vfs, millis(r.took)))
	}
	t.note(strings.Join(notes, " "))
}

// list prints the last two columns: when the kubelet knew, and its list.
func (t *timeline) list(knew, code string, list map[string]int) {
	colour := green
	if code == "" {
		colour = dim
	}
	t.printf("%s  %s\n", t.paint(code, padLeft(knew, knewWidth)), t.paint(colour, listText(list)))
}

func (t *timeline) note(text string) {
	for _, l := range wrap(text, 92) {
		t.printf("%s%s\n", strings.Repeat(" ", atWidth), t.paint(dim, l))
	}
}

func (t *timeline) failed(err error) {
	t.println(red, padLeft("failed", knewWidth))
	t.note(err.Error())
	t.log()
}

// log prints the end of the plugin's log.
func (t *timeline) log() {
	if t.fixture.plugin == nil {
		return
	}
	t.printf("\n%s\n", t.paint(bold, "Last lines of the plugin's log:"))
	for _, l := range t.fixture.plugin.lastLines(logTail) {
		t.printf("  %s\n", strings.TrimSpace(l))
	}
}

func (t *timeline) summary() {
	rec := t.fixture.recorder.get()
	byTime := func(a, b stepTime) int { return cmp.Compare(a.knew, b.knew) }
	fastest, slowest := slices.MinFunc(t.times, byTime), slices.MaxFunc(t.times, byTime)
	t.printf("\n%s\n", t.paint(bold, "Summary"))
	for _, l := range [][3]string{
		{
			"steps", fmt.Sprint(t.steps),
			fmt.Sprintf("a kernel would have sent %d uevents; the kubelet received %d lists", rec.uevents, rec.lists),
		},
		{"fastest", micros(fastest.knew), fastest.what},
		{"slowest", micros(slowest.knew), slowest.what},
	} {
		t.printf("  %s%s  %s\n", t.paint(cyan, pad(l[0], 9)), t.paint(bold, padLeft(l[1], 10)), l[2])
	}
	for _, l := range wrap("Times run from just before the last change on the host that a reader can see (the "+
		"VFIO device of the last VF appears, the first link of the last VF disappears, an attribute gets its "+
		"value) until the kubelet receives the list. On a directory tree, the plugin learns of changes through "+
		"inotify; on a real host, through the kernel's uevents.", 95) {
		t.printf("  %s\n", t.paint(dim, l))
	}
	t.printf("\n")
}

// listText returns a list in one line, sorted: "cy 16  dc 0".
func listText(list map[string]int) string {
	if len(list) == 0 {
		return "nothing"
	}
	var parts []string
	for name, n := range list {
		parts = append(parts, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, "  ")
}
