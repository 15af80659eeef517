// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxMistakes limits how many mistakes of a file an error lists, because the error is logged.
const maxMistakes = 20

// mistakes collects what is wrong with a file.
type mistakes struct {
	file  string
	lines int // of the file
	list  []mistake
}

type mistake struct {
	line int
	text string
}

// newMistakes returns the mistakes of a file that concern its text and neither of the formats. The
// parsers find them late, without a line, or not at all.
func newMistakes(file, text string) mistakes {
	m := mistakes{file: file, lines: 1 + strings.Count(strings.TrimSuffix(text, "\n"), "\n")}
	m.checkText(text)
	return m
}

// addf adds a mistake. The YAML library counts the end of the file as a line, which addf replaces
// by the last line.
func (m *mistakes) addf(line int, format string, args ...any) {
	m.list = append(m.list, mistake{min(line, m.lines), fmt.Sprintf(format, args...)})
}

// err returns an error that lists the mistakes in the order of their lines. It is nil if there are
// none.
func (m *mistakes) err() error {
	slices.SortStableFunc(m.list, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	var errs []error
	for i, mistake := range m.list {
		if i == maxMistakes {
			errs = append(errs, fmt.Errorf("%s:%d: %d more mistakes", m.file, mistake.line, len(m.list)-i))
			break
		}
		errs = append(errs, fmt.Errorf("%s:%d: %s", m.file, mistake.line, mistake.text))
	}
	return errors.Join(errs...)
}

// checkText adds a mistake for the first character that YAML does not allow, and for a text without
// any but white space.
func (m *mistakes) checkText(text string) {
	line := 1
	for i, r := range text {
		switch {
		case r == '\n':
			line++
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD"):
			m.addf(line, "invalid byte %#02x: must be UTF-8 text", text[i])
			return
		case !isAllowed(r, i):
			m.addf(line, "invalid character %U: must be printable text", r)
			return
		}
	}
	if strings.TrimSpace(text) == "" {
		m.addf(1, "the file is empty")
	}
}

// isAllowed reports whether YAML allows a character at an offset: a printable one, or a byte order
// mark at the beginning (YAML 1.2, c-printable).
func isAllowed(r rune, offset int) bool {
	switch {
	case r == '\t', r == '\r', r == 0x85, r >= ' ' && r <= '~', r >= 0xA0 && r < 0xFEFF, r > 0xFFFF:
		return true
	case r == 0xFEFF:
		return offset == 0
	}
	return r > 0xFEFF && r <= 0xFFFD
}

// quote returns a quoted text for an error. Long texts are cut.
func quote(text string) string {
	const limit = 64
	if runes := []rune(text); len(runes) > limit {
		return strconv.Quote(string(runes[:limit])) + "…"
	}
	return strconv.Quote(text)
}

// oneOf returns "a, b or c".
func oneOf(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
