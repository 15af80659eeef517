// SPDX-License-Identifier: Apache-2.0

// Command qat_demo runs the device plugin on a look-alike host in a temporary directory, with a
// small kubelet's end of the device plugin API and the real qat_plugin as a child process. It
// needs no root, no hardware, no network and no cluster.
//
// VFs and PFs appear and disappear, services change, and the kubelet restarts. For each step the
// demo prints what happened on the host, how long it took until the kubelet received the new
// list, and what is in the list. Exit status 1 means that a step failed or did not have its result
// within 5 seconds, in which case the error names the step, or that the demo was interrupted.
// SIGINT, SIGTERM, SIGHUP and a closed standard output end it; it then removes what it made.
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
	// A terminal that closes sends SIGHUP. Under nohup the signal is ignored, and must stay so.
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	// Go ends a program that writes to a closed standard output, unless it asks for SIGPIPE: then
	// the write fails, and the demo can clean up.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
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
	err = runDemo(ctx, o, stdout)
	switch {
	case errors.Is(err, syscall.EPIPE):
		return 1 // such as head, which has seen enough
	case err != nil:
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
		if m := flagError.FindStringSubmatch(err.Error()); m != nil {
			return nil, fmt.Errorf("%s: invalid value %s: must be %s", m[2], m[1], allowed[m[2]])
		}
		return nil, fmt.Errorf("%w; see -h", err)
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q: only flags are allowed, see -h", flags.Arg(0))
	case o.pace < 0:
		return nil, fmt.Errorf("-pace: invalid value %q: must be a time, 0 or more, such as 300ms", o.pace)
	}
	info, err := os.Stat(o.plugin)
	if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("-plugin: invalid value %q: must be the path of qat_plugin; "+
			"build it with: go build -o %[1]s ./cmd/qat_plugin", o.plugin)
	}
	return o, nil
}

// flagError matches the errors of package flag about a value.
var flagError = regexp.MustCompile(`^invalid (?:boolean )?value (".*") for (?:flag )?(-\w+): `)

// allowed says what the flags allow that package flag parses.
var allowed = map[string]string{
	"-keep": "true or false",
	"-v":    "a whole number, such as 2",
	"-pace": "a time, 0 or more, such as 300ms",
}

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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &output{to: stdout, failed: cancel}
	t := newTimeline(out, stdout, f)
	t.opening()
	if err := runSteps(ctx, f, t, steps()); err != nil {
		switch {
		case out.err != nil:
			return out.err
		case ctx.Err() != nil:
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
	t.text("", "After SIGTERM, the plugin removed its sockets and exited with status 0 within "+millis(took)+".")
	return out.err
}
