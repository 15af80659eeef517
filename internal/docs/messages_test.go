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

// constant returns the string of a literal, or of literals that are joined by +.
func constant(e ast.Expr) (text string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		left, isLeft := constant(e.X)
		right, isRight := constant(e.Y)
		return left + right, e.Op == token.ADD && isLeft && isRight
	}
	return "", false
}

func TestMessagesInDocumentsExist(t *testing.T) {
	var texts []string // the string literals of the product
	for _, file := range productFiles(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				if text, ok := constant(e); ok {
					texts = append(texts, text)
				}
			}
			return true
		})
	}
	for _, document := range []struct {
		name string
		min  int
	}{{"troubleshooting.md", 20}, {"provisioning.md", 8}, {"dra-migration.md", 5}, {"dra.md", 12}} {
		text, err := os.ReadFile(filepath.Join(root, "docs", document.name))
		if err != nil {
			t.Fatal(err)
		}
		list := messages(string(text))
		if len(list) < document.min {
			t.Fatalf("%s: found only the messages %q", document.name, list)
		}
		for _, message := range list {
			if !slices.ContainsFunc(texts, func(s string) bool { return strings.HasPrefix(s, message) }) {
				t.Errorf("docs/%s: no message of the product begins with %q", document.name, message)
			}
		}
	}
}
