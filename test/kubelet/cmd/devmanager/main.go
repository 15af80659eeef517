// SPDX-License-Identifier: Apache-2.0

// Command devmanager runs the kubelet's own device manager as a program, for tests that cannot run
// a kubelet: in a virtual machine, or as a process that is killed. devmanager -h describes its
// protocol.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"
)

const help = `devmanager runs the kubelet's device manager. It creates the socket
/var/lib/kubelet/device-plugins/kubelet.sock, lets device plugins register, and
follows their lists. It must run as root, on a machine without a kubelet.

It reads commands, one per line, from standard input, and replies to each with a
line of JSON: {"reply": COMMAND, ...}, with "error" if the command failed.

  capacity
        "resources": {NAME: {"capacity": N, "allocatable": N}}, "removed": [NAME]
  devices RESOURCE
        "devices": [{"id":, "health":, "numa": [N]}] of the newest list; all are
        Unhealthy once the plugin is gone
  wait RESOURCE CAPACITY ALLOCATABLE [TIMEOUT]
        waits until the resource has exactly these counts; "received_us" is when
        the list with these counts was received, absent if the resource had them
        before; fails after TIMEOUT (default 30s)
  allocate POD RESOURCE N
        admits a pod of one container with N devices, and starts it: "ids", "env",
        "nodes", "mounts", "annotations", "cdi"
  remove POD
        ends the pod, which frees its devices
  restart, stop, start
        stops or starts the device manager like a kubelet: a start deletes all
        sockets and waits for registrations; pods stay
  quit
        ends the program, as do the end of standard input, SIGTERM and SIGINT

What plugins do is written to standard output as it happens:
{"event": E, "resource": NAME, ...}, where E is connected, listed or disconnected.
A listed event has the number of devices of the list, "capacity" and "healthy",
and the IDs that differ from the list before: "added", "removed", "changed".
Standard output must be read, because the device manager waits for it.

Times are in microseconds. "received_us" is when the message arrived, "applied_us"
when the device manager had handled it, both on CLOCK_MONOTONIC, which all processes
of a machine share. "unix_us" is received_us as Unix time.

Flags:
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("devmanager", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		_, _ = io.WriteString(stderr, help)
		flags.PrintDefaults()
	}
	klog.InitFlags(flags)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		_, _ = fmt.Fprintf(stderr, "devmanager: unexpected argument %q: only flags are allowed, see -h\n", flags.Arg(0))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, stdin, stdout); err != nil {
		_, _ = fmt.Fprintf(stderr, "devmanager: %v\n", err)
		return 1
	}
	return 0
}

// serve runs the device manager until ctx ends, the input ends, or a command quits.
func serve(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	s := newSession(&lineWriter{w: out})
	if err := s.manager.Start(); err != nil {
		return err
	}
	// Nothing interrupts a read of standard input. The goroutine ends with the process.
	go func() {
		defer quit()
		s.runCommands(ctx, in)
	}()
	<-ctx.Done()
	return s.manager.Stop()
}
