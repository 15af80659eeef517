// Command qat_demo shows the device plugin at work: on a look-alike host in a temporary directory, with the kubelet's end of the device
// plugin API and the real qat_plugin as a child process. It needs no root, no hardware, no network and no cluster.
//
// VFs and PFs come and go, services change, the kubelet restarts; a timeline says what happened on the host, how long after it the
// kubelet knew, and what its list was. Exit status 1 means that something did not happen within 5 seconds; what, is said.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are the flags' values.
type options struct {
	plugin   string        // path of qat_plugin
	keep     bool          // stay when the acts are over
	verbose  int           // -v of the plugin, whose log is kept
	pace     time.Duration // pause between two acts
	deadline time.Duration // for each act
}

const deadline = 5 * time.Second

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "qat_demo:", err)
		return 2
	}
	if err := perform(ctx, o, stdout); err != nil && ctx.Err() == nil {
		fmt.Fprintln(stderr, "qat_demo:", err)
		return 1
	}
	if ctx.Err() != nil && !o.keep {
		fmt.Fprintln(stderr, "qat_demo: interrupted")
		return 1
	}
	return 0
}

func parse(args []string, stdout io.Writer) (*options, error) {
	o := &options{deadline: deadline}
	flags := flag.NewFlagSet("qat_demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.plugin, "plugin", "./bin/qat_plugin", "`path` of the plugin's program; make demo builds it")
	flags.BoolVar(&o.keep, "keep", false, "stay when the acts are over, and follow what you change on the host until Ctrl-C")
	flags.IntVar(&o.verbose, "v", 2, "the plugin's own -v: `level` of its log, which -keep tells the place of")
	flags.DurationVar(&o.pace, "pace", defaultPace(stdout), "`pause` between two acts, for people who read along")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, `qat_demo shows the QAT device plugin at work, on a directory that looks like a host: no root, no
hardware, no cluster. It ends by itself after some seconds.

  make demo                       build both programs and watch
  qat_demo -plugin PATH -keep     watch, then change things on the host yourself

Flags:
`)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		fmt.Fprint(stdout, "\nColours are used on a terminal, unless NO_COLOR is set.\n")
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%s; see -h", err)
	case flags.NArg() > 0:
		return nil, fmt.Errorf("argument %q: only flags are allowed, see -h", strings.Join(flags.Args(), " "))
	case o.pace < 0:
		return nil, fmt.Errorf("flag -pace, value %s: allowed is a time of 0 or more, such as 300ms", o.pace)
	}
	info, err := os.Stat(o.plugin)
	if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("flag -plugin, value %q: allowed is the path of the program qat_plugin; build it with: go build -o %[1]s ./cmd/qat_plugin", o.plugin)
	}
	return o, nil
}

// perform sets the stage, plays the acts and clears the stage.
func perform(ctx context.Context, o *options, stdout io.Writer) (err error) {
	s, err := newStage(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	t := newTimeline(stdout, s)
	t.opening()
	if err := play(ctx, s, t, acts()); err != nil {
		return err
	}
	t.summary()
	if o.keep {
		follow(ctx, s, t)
		t.say("", "Clearing up.")
	}
	return s.end(t)
}
