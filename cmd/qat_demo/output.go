// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	defaultWidth = 100 // of an output that has no width, such as a file
	minWidth     = 40  // of a narrower terminal lines are broken by the terminal
	maxWidth     = 120 // longer lines are hard to read
)

// output passes on what is written to it, until that fails.
type output struct {
	to     io.Writer
	failed func(error) // called with the first error
	err    error
}

func (o *output) Write(text []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.to.Write(text)
	if err != nil {
		o.err = err
		o.failed(err)
	}
	return n, err
}

// widthOf returns the width of the lines of an output: that of the terminal, else the value of
// COLUMNS, which a shell sets but usually does not export.
func widthOf(out io.Writer, columns string) int {
	width := 0
	if f, ok := out.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			width = int(size.Col)
		}
	}
	if width == 0 {
		width, _ = strconv.Atoi(columns)
	}
	if width <= 0 {
		return defaultWidth
	}
	return min(max(width, minWidth), maxWidth)
}
