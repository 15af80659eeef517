// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"regexp"
	"slices"
	"strings"
)

// A page holds what the tests check of a Markdown file.
type page struct {
	path  string
	lines []shellLine // commands in ```sh blocks
	makes []mention   // targets of `make …`, in blocks and in the text

	// The first cells of the tables whose first heading is in flagHeadings, by program.
	flags map[string][]mention
}

// A shellLine is one command. A line of a block may hold several.
type shellLine struct {
	number int
	words  []string
}

// A mention is a name that a page mentions.
type mention struct {
	number    int
	name      string
	value     string // of a flag: its default, if the table shows it as code
	isDefault bool
}

var (
	inlineMake = regexp.MustCompile("`make ([^`]*)`")
	flagName   = regexp.MustCompile("`-([a-zA-Z][-_a-zA-Z0-9]*)")
	assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	separators = regexp.MustCompile(`&&|\|\||[;|]`)
)

// flagHeadings are the first headings of tables of flags, in lower case, and the program of each.
var flagHeadings = map[string]string{"flag": "qat_plugin", "flag of the dra driver": "qat_dra_driver"}

func parse(path, text string) *page {
	p := &page{path: path, flags: map[string][]mention{}}
	fence, program := "", ""
	for i, line := range strings.Split(text, "\n") {
		number, line := i+1, strings.TrimSpace(line)
		if language, isFence := strings.CutPrefix(line, "```"); isFence {
			if fence == "" {
				fence = "```" + language
			} else {
				fence = ""
			}
			continue
		}
		if fence != "" {
			info := strings.Fields(strings.TrimPrefix(fence, "```"))
			if len(info) > 0 && slices.Contains([]string{"sh", "bash", "shell"}, info[0]) {
				p.shell(number, line)
			}
			continue
		}
		for _, found := range inlineMake.FindAllStringSubmatch(line, -1) {
			p.targets(number, strings.Fields(found[1]))
		}
		program = p.table(number, line, program)
	}
	return p
}

// shell parses a line of a block. It ignores a prompt, comments, and variables and sudo before the
// command.
func (p *page) shell(number int, line string) {
	line = strings.TrimPrefix(line, "$ ")
	if strings.HasPrefix(line, "#") {
		return
	}
	line, _, _ = strings.Cut(line, " #")
	for _, command := range separators.Split(line, -1) {
		words := strings.Fields(command)
		for len(words) > 0 && (words[0] == "sudo" || assignment.MatchString(words[0])) {
			words = words[1:]
		}
		if len(words) == 0 {
			continue
		}
		p.lines = append(p.lines, shellLine{number, words})
		if words[0] == "make" {
			p.targets(number, words[1:])
		}
	}
}

// targets parses the arguments of make and ignores its options and variables.
func (p *page) targets(number int, words []string) {
	for _, word := range words {
		if !strings.HasPrefix(word, "-") && !strings.Contains(word, "=") &&
			!strings.HasPrefix(word, "…") && word != "..." {
			p.makes = append(p.makes, mention{number: number, name: word})
		}
	}
}

// table parses a line of the text. program is that of the table of flags to which the line before
// belongs, or "". table returns that of the line.
func (p *page) table(number int, line, program string) string {
	if !strings.HasPrefix(line, "|") {
		return ""
	}
	cells := strings.Split(line, "|")[1:]
	first := strings.TrimSpace(cells[0])
	if program == "" {
		return flagHeadings[strings.ToLower(first)]
	}
	for _, found := range flagName.FindAllStringSubmatch(first, -1) {
		m := mention{number: number, name: found[1]}
		if value := strings.TrimSpace(cells[1]); len(value) > 2 && value[0] == '`' {
			m.value, m.isDefault = strings.Trim(value, "`"), true
		}
		p.flags[program] = append(p.flags[program], m)
	}
	return program
}
