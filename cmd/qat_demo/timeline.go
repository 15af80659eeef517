package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Widths of the timeline's columns; the list takes what is left.
const (
	atWidth   = 9
	whatWidth = 46
	knewWidth = 14
)

// timeline prints what happens, a line for each act.
type timeline struct {
	out    io.Writer
	stage  *stage
	colour bool
	start  time.Time
	acts   int

	fastest, slowest known
	told             int
}

// known is how long one act took to be known.
type known struct {
	what string
	d    time.Duration
}

func newTimeline(out io.Writer, s *stage) *timeline {
	return &timeline{out: out, stage: s, colour: coloured(out), start: time.Now()}
}

// isTerminal tells whether a person is likely to read along.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// coloured follows no-color.org.
func coloured(out io.Writer) bool {
	return isTerminal(out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func defaultPace(out io.Writer) time.Duration {
	if isTerminal(out) {
		return 350 * time.Millisecond
	}
	return 0
}

// The few colours, as ANSI codes.
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (t *timeline) paint(code, text string) string {
	if !t.colour || code == "" || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// pad fills text up with spaces to a width in characters; at least one space follows.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(1, width-utf8.RuneCountInString(text)))
}

func padLeft(text string, width int) string {
	return strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text))) + text
}

func (t *timeline) printf(format string, args ...any) { fmt.Fprintf(t.out, format, args...) }

// say prints a sentence of its own.
func (t *timeline) say(code, text string) { t.printf("%s\n", t.paint(code, text)) }

func (t *timeline) opening() {
	s := t.stage
	t.say(bold, "The QAT device plugin on a look-alike host: no root, no hardware, no cluster")
	t.printf("\n")
	for _, l := range [][2]string{
		{"host", s.dir + ": sys and dev, in which PFs, VFs and drivers come and go as in a kernel"},
		{"", cyPF + "  4xxx   NUMA 0  sym;asym   no VFs yet"},
		{"", dcPF + "  402xx  NUMA 1  dc         16 VFs"},
		{"plugin", s.o.plugin + ", the real one"},
		{"kubelet", "the kubelet's end of the device plugin API: registration, one stream a resource"},
	} {
		t.printf("  %s%s\n", t.paint(cyan, pad(l[0], 9)), l[1])
	}
	t.printf("\n%s\n", t.paint(bold, padLeft("at (s)", atWidth-2)+"  "+pad("on the host", whatWidth)+padLeft("kubelet knew", knewWidth)+"  its list"))
}

// begin prints an act's first half: it is seen while the rest is waited for.
func (t *timeline) begin(a act) {
	if t.acts == 0 {
		t.start = time.Now()
	}
	t.acts++
	t.printf("%s  %s", t.at(time.Now()), pad(a.what, whatWidth))
}

func (t *timeline) at(now time.Time) string {
	return t.paint(dim, padLeft(fmt.Sprintf("%.3f", now.Sub(t.start).Seconds()), atWidth-2))
}

// came prints the second half.
func (t *timeline) came(a act, o *outcome) {
	note := a.note
	switch {
	case !o.told:
		t.rest("-", "", listText(o.list))
	default:
		t.rest(micros(o.knew), bold, listText(o.list))
		t.count(a, o)
		if o.knew < 0 {
			note += " An early step told enough: the kubelet knew before the host was done."
		}
	}
	if a.from != "" {
		note += " The time counts " + a.from + "."
	}
	if o.bound > 0 && a.since == nil {
		note = strings.TrimSpace(fmt.Sprintf("%s %s appeared and bound within %s.", note, plural(o.bound, "VF"), millis(o.took)))
	}
	t.note(note)
}

// rest prints the columns after what happened: how long it took to be known, and the list.
func (t *timeline) rest(knew, code, list string) {
	colour := green
	if code == "" {
		colour = dim
	}
	t.printf("%s  %s\n", t.paint(code, padLeft(knew, knewWidth)), t.paint(colour, list))
}

func (t *timeline) note(text string) {
	for _, l := range wrap(strings.TrimSpace(text), 92) {
		t.printf("%s%s\n", strings.Repeat(" ", atWidth), t.paint(dim, l))
	}
}

// count keeps the fastest and the slowest of the host's own changes; a start and a restart are measured from something else.
func (t *timeline) count(a act, o *outcome) {
	if a.since != nil || o.knew < 0 {
		return
	}
	k := known{a.what, o.knew}
	if t.told == 0 || k.d < t.fastest.d {
		t.fastest = k
	}
	if t.told == 0 || k.d > t.slowest.d {
		t.slowest = k
	}
	t.told++
}

func (t *timeline) failed(a act, err error) {
	t.printf("%s\n", t.paint(red, padLeft("failed", knewWidth)))
	t.note(err.Error())
	t.log()
}

// log shows the plugin's last lines.
func (t *timeline) log() {
	if t.stage.plugin == nil {
		return
	}
	lines := t.stage.plugin.lastLines()
	t.printf("\n%s\n", t.paint(bold, fmt.Sprintf("The last %d lines of the plugin's log:", len(lines))))
	for _, l := range lines {
		t.printf("  %s\n", l)
	}
}

func (t *timeline) summary() {
	uevents, lists, _ := t.stage.record.counts()
	t.printf("\n%s\n", t.paint(bold, "Summary"))
	for _, l := range [][3]string{
		{"steps", fmt.Sprint(t.acts), fmt.Sprintf("for which a kernel would have sent %d uevents; the kubelet got %d lists", uevents, lists)},
		{"fastest", micros(t.fastest.d), t.fastest.what},
		{"slowest", micros(t.slowest.d), t.slowest.what},
	} {
		t.printf("  %s%s  %s\n", t.paint(cyan, pad(l[0], 9)), t.paint(bold, padLeft(l[1], 10)), l[2])
	}
	for _, l := range wrap("The time is measured from just before the host's last step that decides (the VFIO device of the last VF is made, the first link of the "+
		"last VF is taken away, an attribute gets its value) to the list's arrival at the kubelet's end of its stream. On a directory the "+
		"plugin hears of changes through inotify; on a real host through the kernel's uevents.", 95) {
		t.printf("  %s\n", t.paint(dim, l))
	}
	t.printf("\n")
}

func (t *timeline) ended(took time.Duration) {
	t.printf("The plugin got SIGTERM: it removed its sockets and ended with status 0 after %s.\n", millis(took))
}

// listText is a list in one line, always in the same order: "cy 16  dc 0".
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

// micros is a duration in whole microseconds, in groups of three digits; "early" when it is negative.
func micros(d time.Duration) string {
	if d < 0 {
		return "early"
	}
	digits := fmt.Sprint(d.Microseconds())
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits + " µs"
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// wrap breaks text into lines of at most width characters.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
