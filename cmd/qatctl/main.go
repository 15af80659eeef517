// SPDX-License-Identifier: Apache-2.0

// Command qatctl shows what qat_plugin knows about the QAT devices of a host: which VFs there are,
// which are listed and why others are not, what happened, and how busy the devices are. It changes
// nothing.
//
// It asks the running plugin at its status socket. If no plugin runs, some commands read the host
// themselves and say so on standard error.
//
// The exit status is 0 if all is well, 1 if something is wrong, 2 if the command line is wrong, and
// 3 if neither a plugin nor the host can be asked.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

// version is set by `make image` and by packagers: -ldflags "-X main.version=…".
var version = "devel"

// errInterrupted is the cause of the end of the context after a signal.
var errInterrupted = errors.New("interrupted")

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Stop(signals) // a second signal kills the process
		cancel(errInterrupted)
	}()
	klog.LogToStderr(false) // what the packages of the plugin log is not for the user of qatctl
	klog.SetOutput(io.Discard)
	os.Exit(run(ctx, os.Args[1:], &environment{
		stdout: os.Stdout,
		stderr: os.Stderr,
		getenv: os.Getenv,
		now:    time.Now,
	}))
}

// environment is what surrounds the program.
type environment struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
}

// The exit statuses.
const (
	exitOK     = 0
	exitWrong  = 1 // something is wrong, on the host or with the command
	exitUsage  = 2
	exitNobody = 3 // neither a plugin nor the host can be asked
)

// errWrong ends the program with exitWrong. What is wrong has been printed.
var errWrong = errors.New("something is wrong")

// A usageError is about the command line.
type usageError struct{ error }

// run is main without the process around it. It returns the exit status.
func run(ctx context.Context, args []string, env *environment) int {
	a := &app{environment: env}
	root := a.newRoot()
	root.SetArgs(args)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	command, err := root.ExecuteContextC(ctx)
	nobody, usage := (*nobodyError)(nil), usageError{}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errWrong):
		return exitWrong
	case !a.begun || errors.As(err, &usage):
		fmt.Fprintf(env.stderr, "qatctl: %v; see %s --help\n", err, command.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(env.stderr, "qatctl: %v\n", err)
	if errors.As(err, &nobody) {
		return exitNobody
	}
	return exitWrong
}
