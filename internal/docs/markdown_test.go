package docs

import (
	"regexp"
	"slices"
	"strings"
)

// A page is one Markdown file: what of it can be checked.
type page struct {
	path   string
	lines  []shellLine // of its ```sh blocks
	makes  []mention   // targets of `make …`, in blocks and in the text
	flags  []mention   // first cells of tables whose first heading is "flag"
	tables int         // how many of them there are
}

type shellLine struct {
	number int
	words  []string // of one command
}

type mention struct {
	number int
	name   string
}

var (
	inlineMake = regexp.MustCompile("`make ([^`]*)`")
	flagName   = regexp.MustCompile("`-([a-zA-Z][-_a-zA-Z0-9]*)")
	assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	separators = regexp.MustCompile(`&&|\|\||[;|]`)
)

func parse(path, text string) *page {
	p := &page{path: path}
	fence, inTable := "", false
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
			if info := strings.Fields(strings.TrimPrefix(fence, "```")); len(info) > 0 && slices.Contains([]string{"sh", "bash", "shell"}, info[0]) {
				p.shell(number, line)
			}
			continue
		}
		for _, found := range inlineMake.FindAllStringSubmatch(line, -1) {
			p.targets(number, strings.Fields(found[1]))
		}
		inTable = p.table(number, line, inTable)
	}
	return p
}

// shell takes one line of a block: a prompt, comments, variables and sudo before the command are left out.
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

// targets takes the arguments of make: neither its options nor variables are targets.
func (p *page) targets(number int, words []string) {
	for _, word := range words {
		if !strings.HasPrefix(word, "-") && !strings.Contains(word, "=") && !strings.HasPrefix(word, "…") && word != "..." {
			p.makes = append(p.makes, mention{number, word})
		}
	}
}

// table takes one line of the text, and tells whether the next one may go on with a table of flags.
func (p *page) table(number int, line string, inside bool) bool {
	if !strings.HasPrefix(line, "|") {
		return false
	}
	first := strings.TrimSpace(strings.Split(line, "|")[1])
	if !inside {
		if heading := strings.ToLower(first); heading != "flag" && heading != "flags" {
			return false
		}
		p.tables++
		return true
	}
	for _, found := range flagName.FindAllStringSubmatch(first, -1) {
		p.flags = append(p.flags, mention{number, found[1]})
	}
	return true
}
