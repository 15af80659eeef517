// SPDX-License-Identifier: Apache-2.0

// Command qat_demo runs the device plugin on a look-alike host in a temporary directory, with a
// small kubelet's end of the device plugin API and the real qat_plugin as a child process. It
// needs no root, no hardware, no network and no cluster.
//
// VFs and PFs appear and disappear, services change, and the kubelet restarts. For each step the
// demo prints what happened on the host, how long it took until the kubelet received the new
// list, and what is in the list. Exit status 1 means that a step failed or did not have its result
// within 5 seconds; the error names the step.
//
// The demo is a program of its own so that neither the look-alike host nor the small kubelet is
// part of qat_plugin.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const usage = `qat_demo runs the QAT device plugin on a directory that looks like a host: no root, no
hardware, no cluster. It takes a few seconds.

  make demo                       build both programs and watch
  qat_demo -plugin PATH -keep     watch, then change the host yourself

Flags:
`

// options are the values of the flags.
type options struct {
	plugin  string        // path of qat_plugin
	keep    bool          // continue after the last step
	verbose int           // -v of the plugin
	pace    time.Duration // pause between two steps
	timeout time.Duration // of a step
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "qat_demo:", err)
		return 2
	}
	if err := runDemo(ctx, o, stdout); err != nil {
		fmt.Fprintln(stderr, "qat_demo:", err)
		return 1
	}
	return 0
}

func parse(args []string, stdout io.Writer) (*options, error) {
	o := &options{timeout: 5 * time.Second}
	flags := flag.NewFlagSet("qat_demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.plugin, "plugin", "./bin/qat_plugin", "`path` of qat_plugin, which make demo builds")
	flags.BoolVar(&o.keep, "keep", false,
		"continue after the last step, and print what you change on the host, until Ctrl-C")
	flags.IntVar(&o.verbose, "v", 2, "`level` of the plugin's log; -keep prints the path of the log")
	flags.DurationVar(&o.pace, "pace", defaultPace(stdout), "`pause` between two steps, to read along")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		fmt.Fprint(stdout, "\nThe output is coloured on a terminal, unless NO_COLOR is set.\n")
		return nil, err
	case err != nil:
		text := flagError.ReplaceAllString(err.Error(), "$2: invalid value $1: $3")
		return nil, fmt.Errorf("%s; see -h", text)
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q: only flags are allowed, see -h", flags.Arg(0))
	case o.pace < 0:
		return nil, fmt.Errorf("-pace: invalid value %q: must be 0 or more, such as 300ms", o.pace)
	}
	info, err := os.Stat(o.plugin)
	if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("-plugin: invalid value %q: must be the path of qat_plugin; "+
			"build it with: go build -o %[1]s ./cmd/qat_plugin", o.plugin)
	}
	return o, nil
}

// flagError matches the errors of package flag about a value.
var flagError = regexp.MustCompile(`^invalid (?:boolean )?value (".*") for (?:flag )?(-\w+): (.*)$`)

func defaultPace(out io.Writer) time.Duration {
	if isTerminal(out) {
		return 350 * time.Millisecond
	}
	return 0
}

// runDemo sets up the fixture, runs the steps and removes the fixture.
func runDemo(ctx context.Context, o *options, stdout io.Writer) (err error) {
	f, err := newFixture(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	t := newTimeline(stdout, f)
	t.opening()
	if err := runSteps(ctx, f, t, steps()); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		return err
	}
	t.summary()
	if o.keep {
		printChanges(ctx, f, t)
		t.println("", "Cleaning up.")
	}
	took, err := f.endPlugin()
	if err != nil {
		t.log()
		return err
	}
	t.printf("After SIGTERM, the plugin removed its sockets and exited with status 0 within %s.\n", millis(took))
	return nil
}
