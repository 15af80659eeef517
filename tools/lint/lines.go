// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/scanner"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"
)

const (
	maxCode  = 120 // columns of a line of Go
	maxProse = 100 // columns of a comment line, and of a line of prose in Markdown
	tabWidth = 4
)

// A language is what a file is written in, as far as the checks distinguish it.
type language int

const (
	none language = iota
	golang
	c
	markdown
	hash // comments start with #: shell, YAML, make, Docker, awk
)

func languageOf(path string) language {
	switch filepath.Ext(path) {
	case ".go":
		return golang
	case ".c", ".h":
		return c
	case ".md":
		return markdown
	case ".sh", ".yaml", ".awk", ".conf":
		return hash
	}
	switch filepath.Base(path) {
	case "Makefile", "Dockerfile", "Kbuild", ".gitignore", ".dockerignore":
		return hash
	case "run": // .ci/run
		return hash
	}
	return none
}

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// checkLines reports the lines of a file that are too long. A line that holds a single word, such
// as a link, cannot be broken and may have any length.
func checkLines(path, text string) (offenses []offense) {
	if generated.MatchString(text) {
		return nil
	}
	lang := languageOf(path)
	prose := proseLines(lang, text)
	report := func(line, columns int, what string, limit int) {
		message := fmt.Sprintf("%d columns of %s, the limit is %d", columns, what, limit)
		offenses = append(offenses, offense{path, line, message})
	}
	for i, line := range strings.Split(text, "\n") {
		number, columns := i+1, width(line)
		switch {
		case prose[number] && columns > maxProse && !isOneWord(line):
			report(number, columns, "prose", maxProse)
		case lang == golang && columns > maxCode && !prose[number]:
			report(number, columns, "code", maxCode)
		}
	}
	return offenses
}

// width returns the number of columns of a line.
func width(line string) int {
	return utf8.RuneCountInString(line) + (tabWidth-1)*strings.Count(line, "\t")
}

// isOneWord reports whether a line consists of one word, after the characters that start a comment
// or an item of a list.
func isOneWord(line string) bool {
	return len(strings.Fields(strings.TrimLeft(line, " \t/*#->"))) <= 1
}

// proseLines returns the numbers of the lines that hold nothing but prose: comments or, in
// Markdown, everything except code blocks and tables.
func proseLines(lang language, text string) map[int]bool {
	if lang == golang {
		return goComments(text)
	}
	prose, fenced := map[int]bool{}, false
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch lang {
		case markdown:
			if strings.HasPrefix(line, "```") {
				fenced = !fenced
			} else if !fenced && !strings.HasPrefix(line, "|") {
				prose[i+1] = true
			}
		case c:
			prose[i+1] = strings.HasPrefix(line, "//") || strings.HasPrefix(line, "/*") || strings.HasPrefix(line, "*")
		case hash:
			prose[i+1] = strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "#!")
		}
	}
	return prose
}

// goComments returns the lines of Go source that hold only a comment. Directives, such as
// //go:build, are not prose.
func goComments(text string) map[int]bool {
	files := token.NewFileSet()
	file := files.AddFile("", files.Base(), len(text))
	var s scanner.Scanner
	s.Init(file, []byte(text), func(token.Position, string) {}, scanner.ScanComments)
	lines, code := map[int]bool{}, map[int]bool{}
	for {
		pos, tok, literal := s.Scan()
		first := file.Line(pos)
		last := first + strings.Count(literal, "\n")
		switch {
		case tok == token.EOF:
			for line := range code {
				delete(lines, line)
			}
			return lines
		case tok == token.SEMICOLON && literal == "\n": // inserted at the end of a line
		case tok != token.COMMENT:
			for line := first; line <= last; line++ {
				code[line] = true
			}
		case !strings.HasPrefix(literal, "//go:"):
			for line := first; line <= last; line++ {
				lines[line] = true
			}
		}
	}
}
