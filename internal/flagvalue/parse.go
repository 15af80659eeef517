// SPDX-License-Identifier: Apache-2.0

package flagvalue

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Parse parses a command line that has only flags. The error is [flag.ErrHelp] after -h, for which
// Parse prints about and the flags to out, or one line that names the flag, the value and what is
// allowed. Parse also explains the errors of klog's flags.
func Parse(flags *flag.FlagSet, args []string, about string, out io.Writer) error {
	flags.SetOutput(io.Discard)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, about, "\n\nFlags:\n")
		flags.SetOutput(out)
		flags.PrintDefaults()
		return err
	case err != nil:
		return explain(flags, err)
	case flags.NArg() > 0:
		return unexpected(flags, args)
	}
	return nil
}

// explain turns an error of package flag, which has the form
// `invalid value "x" for flag -name: cause` or, for a boolean flag,
// `invalid boolean value "x" for -name: cause`, into `-name: invalid value "x": must be …`.
func explain(flags *flag.FlagSet, err error) error {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "invalid boolean value "), "invalid value ")
	value, quoteErr := strconv.QuotedPrefix(text)
	rest, ok := strings.CutPrefix(strings.TrimPrefix(text, value), " for ")
	if quoteErr != nil || !ok {
		return fmt.Errorf("%w; see -h for the flags", err)
	}
	name, cause, _ := strings.Cut(strings.TrimPrefix(rest, "flag "), ": ")
	if f := flags.Lookup(strings.TrimPrefix(name, "-")); f != nil && !strings.HasPrefix(cause, mustBe) {
		allowed := klogValues[f.Name]
		if isBool(f) {
			allowed = "true or false"
		}
		if allowed != "" {
			cause = mustBe + allowed
		}
	}
	return fmt.Errorf("%s: invalid value %s: %s", name, value, cause)
}

// klogValues says what klog's flags allow, as far as they refuse anything. Their own errors do not.
var klogValues = map[string]string{
	"v":                        "a whole number, such as 2",
	"vmodule":                  "a comma-separated list of PATTERN=N, such as controller=4",
	"stderrthreshold":          "INFO, WARNING, ERROR or FATAL",
	"alsologtostderrthreshold": "INFO, WARNING, ERROR or FATAL",
	"log_backtrace_at":         "FILE:LINE, such as main.go:42, or empty",
	"log_file_max_size":        "a whole number of megabytes, 0 (no limit) or more",
}

// unexpected returns the error for the first argument that is not a flag. A value that belongs to a
// boolean flag must follow an equals sign.
func unexpected(flags *flag.FlagSet, args []string) error {
	argument := flags.Arg(0)
	if i := len(args) - flags.NArg() - 1; i >= 0 {
		f := flags.Lookup(strings.TrimLeft(args[i], "-"))
		if _, err := strconv.ParseBool(argument); err == nil && f != nil && isBool(f) {
			return fmt.Errorf("unexpected argument %q: write -%s=%s", argument, f.Name, argument)
		}
	}
	return fmt.Errorf("unexpected argument %q: only flags are allowed, see -h", argument)
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}
