// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var codeSpan = regexp.MustCompile("`([^`]+)`")

// messages returns the messages in the first cells of the tables whose first heading is "message".
// A message may be cut off with "…".
func messages(text string) (list []string) {
	inTable := false
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		switch {
		case len(cells) < 3:
			inTable = false
		case strings.TrimSpace(cells[1]) == "message":
			inTable = true
		case inTable:
			for _, found := range codeSpan.FindAllStringSubmatch(cells[1], -1) {
				list = append(list, strings.TrimSuffix(found[1], "…"))
			}
		}
	}
	return list
}

func TestMessagesInTroubleshootingExist(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	var texts []string // the string literals of the product
	for _, file := range productFiles(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					texts = append(texts, text)
				}
			}
			return true
		})
	}
	list := messages(string(text))
	if len(list) < 20 {
		t.Fatalf("found only the messages %q", list)
	}
	for _, message := range list {
		if !slices.ContainsFunc(texts, func(s string) bool { return strings.HasPrefix(s, message) }) {
			t.Errorf("docs/troubleshooting.md: no message of the product begins with %q", message)
		}
	}
}
