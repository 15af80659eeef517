// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// declarations are the functions, methods and types of the product, as
// "package.Function", "package.Type.Method" and "package.Type".
func declarations(t *testing.T) map[string]bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func (?:\(\w+ \*?(\w+)(?:\[\w+\])?\) )?(\w+)`)
	typ := regexp.MustCompile(`(?m)^type (\w+)`)
	declared := map[string]bool{}
	for _, pattern := range []string{"*/*.go", "qat/internal/*/*.go"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Base(filepath.Dir(file))
			for _, m := range function.FindAllStringSubmatch(string(text), -1) {
				declared[strings.ReplaceAll(name+"."+m[1]+"."+m[2], "..", ".")] = true
			}
			for _, m := range typ.FindAllStringSubmatch(string(text), -1) {
				declared[name+"."+m[1]] = true
			}
		}
	}
	return declared
}

func TestFunctionsInArchitectureExist(t *testing.T) {
	declared := declarations(t)
	text, err := os.ReadFile(filepath.Join(root, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("`([a-z]+(?:\\.[A-Za-z]+){1,2})`").FindAllStringSubmatch(string(text), -1)
	if len(found) < 30 {
		t.Fatalf("found only %d names of functions", len(found))
	}
	for _, m := range found {
		if !declared[m[1]] {
			t.Errorf("architecture.md names %s, which does not exist", m[1])
		}
	}
}
