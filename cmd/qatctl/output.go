// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"golang.org/x/sys/unix"
)

// tableWidth is the width of tables that do not go to a terminal.
const tableWidth = 100

// A color is an ANSI escape sequence; "" is none.
type color string

const (
	plain  color = ""
	bold   color = "\x1b[1m"
	faint  color = "\x1b[2m"
	red    color = "\x1b[31m"
	green  color = "\x1b[32m"
	yellow color = "\x1b[33m"
)

const reset = "\x1b[0m"

// isTerminal reports whether out is a terminal, and its width in columns.
func isTerminal(out io.Writer) (width int, ok bool) {
	f, isFile := out.(*os.File)
	if !isFile {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(size.Col), true
}

// width returns the number of columns of a table on standard output.
func (a *app) width() int {
	if width, ok := isTerminal(a.stdout); ok && width > 0 {
		return width
	}
	return tableWidth
}

// colored reports whether standard output gets colours (https://no-color.org).
func (a *app) colored() bool {
	if a.color != "auto" {
		return a.color == "always"
	}
	_, terminal := isTerminal(a.stdout)
	return terminal && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

// paint returns text in a colour, or as it is if there are no colours.
func (a *app) paint(c color, text string) string {
	if c == plain || text == "" || !a.colored() {
		return text
	}
	return string(c) + text + reset
}

// A cell is one field of a table.
type cell struct {
	text  string
	color color
}

// A table is printed with aligned columns. A row with a single cell is printed as it is.
type table struct {
	header []string
	rows   [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// printTable prints a table. If limit is not 0, the last column is cut off there.
func (a *app) printTable(t *table, limit int) {
	widths := make([]int, len(t.header))
	header := make([]cell, len(t.header))
	for i, text := range t.header {
		header[i] = cell{text, bold}
	}
	rows := append([][]cell{header}, t.rows...)
	for _, row := range rows {
		for i, c := range row {
			if len(row) > 1 || len(t.header) == 1 {
				widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
			}
		}
	}
	const gap = 2
	var out strings.Builder
	for _, row := range rows {
		column := 0 // where the next cell begins
		for i, c := range row {
			text := c.text
			if limit > 0 && i == len(row)-1 {
				text = cut(text, limit-column)
			}
			out.WriteString(a.paint(c.color, text))
			if i < len(row)-1 && !isBlank(row[i+1:]) {
				out.WriteString(strings.Repeat(" ", widths[i]+gap-utf8.RuneCountInString(text)))
			}
			column += widths[i] + gap
		}
		out.WriteByte('\n')
	}
	a.printf("%s", out.String())
}

func isBlank(cells []cell) bool {
	for _, c := range cells {
		if c.text != "" {
			return false
		}
	}
	return true
}

// cut cuts off a text that has more columns than width.
func cut(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(width-1, 0)]) + "…"
}

// wrap breaks a text into lines of at most width columns.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines, line = append(lines, line), word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// printf prints text for people to standard output. What others have written, such as a recording,
// cannot control the terminal.
func (a *app) printf(format string, args ...any) {
	_, _ = io.WriteString(a.stdout, printable(fmt.Sprintf(format, args...)))
}

// control matches the sequences that this program uses, and control characters apart from tabs and
// line feeds.
var control = regexp.MustCompile(`\x1b\[(?:[012]m|3[123]m|H|2J)|[\x00-\x08\x0b-\x1f\x7f-\x{9f}]`)

// printable replaces control characters that this program does not use.
func printable(text string) string {
	return control.ReplaceAllStringFunc(text, func(found string) string {
		if len(found) > 2 {
			return found
		}
		return "�"
	})
}

// print prints a value as JSON or YAML.
func (a *app) print(format string, v any) error {
	if format == "yaml" {
		return printYAML(a.stdout, v)
	}
	encoder := json.NewEncoder(a.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// printLine prints a value as one line of JSON.
func (a *app) printLine(v any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// printYAML prints a value as YAML, with the names and the order of its JSON encoding.
func printYAML(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil { // JSON is YAML
		return err
	}
	setBlockStyle(&node)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&node); err != nil {
		return err
	}
	_, err = w.Write(out.Bytes())
	return err
}

// setBlockStyle removes the braces and quotes of JSON.
func setBlockStyle(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		setBlockStyle(c)
	}
}

// clock returns a time of the same day as today, and one of another day with its date.
func clock(t, today time.Time) string {
	t, today = t.Local(), today.Local()
	if t.YearDay() == today.YearDay() && t.Year() == today.Year() {
		return t.Format("15:04:05.000")
	}
	return t.Format("2006-01-02 15:04:05.000")
}

// ago returns a time and how long ago it was.
func (a *app) ago(t time.Time) string {
	return fmt.Sprintf("%s (%s ago)", t.Local().Format("2006-01-02 15:04:05"), age(a.now().Sub(t)))
}

// age returns a duration with its largest unit or two, such as 12s, 3m20s or 5d4h.
func age(d time.Duration) string {
	d = max(d, 0)
	const day = 24 * time.Hour
	two := func(unit, rest time.Duration, a, b string) string {
		if n := d % unit / rest; n > 0 {
			return fmt.Sprintf("%d%s%d%s", d/unit, a, n, b)
		}
		return fmt.Sprintf("%d%s", d/unit, a)
	}
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return two(time.Minute, time.Second, "m", "s")
	case d < day:
		return two(time.Hour, time.Minute, "h", "m")
	}
	return two(day, time.Hour, "d", "h")
}

// count returns a number and a noun, such as "1 device" and "2 devices".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
