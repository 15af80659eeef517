// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Widths of the columns of the timeline. The list takes the rest of the line. On an output that is
// too narrow for four columns, what the kubelet knew is below what happened.
const (
	atWidth   = 9
	whatWidth = 46
	knewWidth = 14
	listWidth = 24 // at least, with the space before it

	minWide = atWidth + whatWidth + knewWidth + listWidth
)

// logTail is the number of lines of the plugin's log that are printed when a step fails.
const logTail = 12

// timeline prints what happens, one line per step.
type timeline struct {
	out     io.Writer
	colour  bool
	width   int // of a line, in characters
	fixture *fixture
	start   time.Time // of the first step
	steps   int
	at      string     // when the current step began, as printed
	times   []stepTime // all times that were printed
	early   int        // steps without a time because the kubelet knew before the host was done
}

// stepTime is the time until the kubelet knew of a step.
type stepTime struct {
	what string
	at   string
	knew time.Duration
}

// newTimeline returns a timeline that prints to out, which looks like terminal.
func newTimeline(out, terminal io.Writer, f *fixture) *timeline {
	return &timeline{
		out:     out,
		colour:  useColour(terminal),
		width:   widthOf(terminal, os.Getenv("COLUMNS")),
		fixture: f,
		start:   time.Now(),
	}
}

// isWide reports whether a line has room for all columns.
func (t *timeline) isWide() bool { return t.width >= minWide }

func (t *timeline) printf(format string, args ...any) { fmt.Fprintf(t.out, format, args...) }

func (t *timeline) println(code, text string) { t.printf("%s\n", t.paint(code, text)) }

// text prints a paragraph.
func (t *timeline) text(code, text string) {
	for _, l := range fit(text, t.width) {
		t.println(code, l)
	}
}

// labelled prints text beside a label. Lines after the first begin where the text does.
func (t *timeline) labelled(label, text string) {
	const indent = 11
	for _, l := range fit(text, t.width-indent) {
		t.printf("  %s%s\n", t.paint(cyan, pad(label, indent-2)), l)
		label = ""
	}
}

func (t *timeline) opening() {
	t.text(bold, "The QAT device plugin on a look-alike host: no root, no hardware, no cluster")
	t.printf("\n")
	for _, l := range [][2]string{
		{"host", t.fixture.dir + ": a directory tree with a sysfs and a /dev that behave like a kernel's"},
		{"", cyPF + "  4xxx   NUMA 0  sym;asym   no VFs yet"},
		{"", dcPF + "  402xx  NUMA 1  dc         16 VFs"},
		{"plugin", t.fixture.o.plugin + ", the real program"},
		{"kubelet", "a small kubelet's end of the device plugin API"},
	} {
		t.labelled(l[0], l[1])
	}
	header := padLeft("at (s)", atWidth-2) + "  "
	if t.isWide() {
		header += pad("on the host", whatWidth)
	} else {
		header += "on the host\n" + strings.Repeat(" ", atWidth)
	}
	t.printf("\n%s\n", t.paint(bold, header+padLeft("kubelet knew", knewWidth)+"  its list"))
}

// begin prints the first half of a step's line, which is visible while the step runs.
func (t *timeline) begin(s step) {
	if t.steps == 0 {
		t.start = time.Now()
	}
	t.steps++
	t.row(s.what)
}

// stamp prints the first column.
func (t *timeline) stamp() {
	t.at = fmt.Sprintf("%.3f", time.Since(t.start).Seconds())
	t.printf("%s  ", t.paint(dim, padLeft(t.at, atWidth-2)))
}

// row prints the first two columns.
func (t *timeline) row(what string) {
	t.stamp()
	if t.isWide() {
		t.printf("%s", pad(what, whatWidth))
		return
	}
	t.printf("%s\n", strings.Join(fit(what, t.width-atWidth), "\n"+strings.Repeat(" ", atWidth)))
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
			t.early++
			notes = append(notes, "The kubelet knew before the host was done.")
		default:
			t.times = append(t.times, stepTime{s.what, t.at, r.knew})
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
	indent := t.result(knew, code) + 2
	var lines []string
	for _, part := range listParts(list) {
		if n := len(lines) - 1; n >= 0 && len(lines[n])+2+len(part) <= t.width-indent {
			lines[n] += "  " + part
		} else {
			lines = append(lines, part)
		}
	}
	for i, l := range lines {
		if i > 0 {
			t.printf("%s", strings.Repeat(" ", indent-2))
		}
		t.printf("  %s\n", t.paint(colour, l))
	}
}

// result prints the third column, and returns where it ends.
func (t *timeline) result(text, code string) (end int) {
	end = atWidth + knewWidth
	if t.isWide() {
		end += whatWidth
	} else {
		t.printf("%s", strings.Repeat(" ", atWidth))
	}
	t.printf("%s", t.paint(code, padLeft(text, knewWidth)))
	return end
}

func (t *timeline) note(text string) {
	for _, l := range wrap(text, t.width-atWidth) {
		t.printf("%s%s\n", strings.Repeat(" ", atWidth), t.paint(dim, l))
	}
}

func (t *timeline) failed(err error) {
	t.result("failed", red)
	t.printf("\n")
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
	lines := [][3]string{{
		"steps", fmt.Sprint(t.steps),
		fmt.Sprintf("a kernel would have sent %d uevents; the kubelet received %d lists", rec.uevents, rec.lists),
	}}
	if len(t.times) > 0 {
		byTime := func(a, b stepTime) int { return cmp.Compare(a.knew, b.knew) }
		fastest, slowest := slices.MinFunc(t.times, byTime), slices.MaxFunc(t.times, byTime)
		lines = append(lines,
			[3]string{"fastest", micros(fastest.knew), fastest.what + ", at " + fastest.at + " s"},
			[3]string{"slowest", micros(slowest.knew), slowest.what + ", at " + slowest.at + " s"})
	}
	if t.early > 0 {
		lines = append(lines, [3]string{"early", fmt.Sprint(t.early), "the kubelet knew before the host was done"})
	}
	t.printf("\n%s\n", t.paint(bold, "Summary"))
	for _, l := range lines {
		t.printf("  %s%s  ", t.paint(cyan, pad(l[0], 9)), t.paint(bold, padLeft(l[1], 10)))
		if t.isWide() {
			t.printf("%s\n", l[2])
			continue
		}
		t.printf("\n")
		for _, text := range fit(l[2], t.width-4) {
			t.printf("    %s\n", text)
		}
	}
	const explanation = "Unless a note says otherwise, times run from just before the last change on the " +
		"host that a reader can see (the VFIO device of the last VF appears, the first link of the last VF " +
		"disappears, an attribute gets its value) until the kubelet receives the list. On a directory tree, the " +
		"plugin learns of changes through inotify; on a real host, through the kernel's uevents."
	for _, l := range wrap(explanation, t.width-2) {
		t.printf("  %s\n", t.paint(dim, l))
	}
	t.printf("\n")
}

// listText returns a list in one line, sorted: "cy 16  dc 0".
func listText(list map[string]int) string { return strings.Join(listParts(list), "  ") }

func listParts(list map[string]int) (parts []string) {
	if len(list) == 0 {
		return []string{"nothing"}
	}
	for name, n := range list {
		parts = append(parts, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(parts)
	return parts
}
