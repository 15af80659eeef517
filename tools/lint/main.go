// SPDX-License-Identifier: Apache-2.0

// Command lint checks rules of this project that gofmt, go vet and staticcheck do not know:
//
//   - lines: a line of Go has at most 120 columns; a comment line, and a line of prose in Markdown,
//     at most 100. A tab counts as 4 columns.
//   - headers: every Go and C file starts with the SPDX identifier of its license.
//   - exports: every exported identifier of a product package has a user outside of that package.
//
// Usage:
//
//	go -C tools run ./lint [check...]
//
// Without arguments it runs all checks. It prints one line for each offense and exits with status 1
// if there is any, or with status 2 if the checks could not run.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// An offense is one violation of a rule. Its path is relative to the project's root.
type offense struct {
	path    string
	line    int
	message string
}

func (o offense) String() string { return fmt.Sprintf("%s:%d: %s", o.path, o.line, o.message) }

// checks holds all checks by name. Each returns the offenses below the root directory.
var checks = map[string]func(root string) ([]offense, error){
	"exports": checkExports,
	"headers": func(root string) ([]offense, error) { return eachFile(root, checkHeader) },
	"lines":   func(root string) ([]offense, error) { return eachFile(root, checkLines) },
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("lint", flag.ContinueOnError)
	flags.SetOutput(stderr)
	root := flags.String("root", "..", "`directory` of the checkout")
	if flags.Parse(args) != nil {
		return 2
	}
	names := flags.Args()
	if len(names) == 0 {
		names = []string{"lines", "headers", "exports"}
	}
	var all []offense
	for _, name := range names {
		check := checks[name]
		if check == nil {
			fmt.Fprintf(stderr, "lint: unknown check %q: must be lines, headers or exports\n", name)
			return 2
		}
		found, err := check(*root)
		if err != nil {
			fmt.Fprintf(stderr, "lint: %s: %v\n", name, err)
			return 2
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b offense) int {
		return cmp.Or(strings.Compare(a.path, b.path), a.line-b.line, strings.Compare(a.message, b.message))
	})
	for _, o := range all {
		fmt.Fprintln(stdout, o)
	}
	if len(all) > 0 {
		fmt.Fprintf(stdout, "lint: %d offenses\n", len(all))
		return 1
	}
	return 0
}

// eachFile calls check for every text file of the project. It leaves out what is not written by
// hand: the directories of git and of the build, and test data.
func eachFile(root string, check func(path, text string) []offense) (all []offense, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if rel == "bin" || entry.Name() == ".git" || entry.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() || languageOf(rel) == none {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all = append(all, check(filepath.ToSlash(rel), string(text))...)
		return nil
	})
	return all, err
}
