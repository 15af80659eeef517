// Command devmanager runs the kubelet's own device manager as a program, for tests where no kubelet can run: beside the plugin in a
// virtual machine, or as a process that is killed. See the help text, or devmanager -h.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"k8s.io/klog/v2"
)

const help = `devmanager runs the kubelet's device manager. It makes /var/lib/kubelet/device-plugins/kubelet.sock, lets device
plugins register, and follows their lists. It needs to be root there, and a machine without a kubelet.

It reads commands, one a line, from its input, and from each connection to -listen PATH. Each command is
answered, in order, by one line of JSON: {"reply":COMMAND,...}, with "error" when it failed.

  capacity                         "resources": {NAME: {"capacity": N, "allocatable": N}}; and "removed": [NAME]
  devices RESOURCE                 "devices": [{"id":, "health":, "numa": [N]}], the newest list; all Unhealthy once the plugin is gone
  wait RESOURCE CAPACITY ALLOCATABLE [TIMEOUT]
                                   answers when the resource counts exactly so (TIMEOUT: 30s), with the time of the list that made it
                                   so (none when it was so before); an error after the timeout, with what it counts then
  allocate POD RESOURCE N          admits a pod of one container with N devices and starts it: "ids", "env", "nodes", "mounts",
                                   "annotations", "cdi"
  remove POD                       the pod ends, its devices are free again
  restart, stop, start             of the device manager, as of a kubelet: a start deletes all sockets and waits for registrations;
                                   pods stay
  quit                             ends the program, as do the end of its input (unless -listen is given), SIGTERM and SIGINT

Read the output: the device manager waits for a reader of its events. What plugins do is written to the output when it happens: {"event":E,"resource":NAME,...} with E connected, listed or disconnected.
A listed event has "capacity" and "healthy" (how many devices the list held), and what differs from the list before it:
"added", "removed", "changed" (IDs).
Times are in microseconds: "received_us" when the message was there, "applied_us" when the device manager had taken it in, both of
CLOCK_MONOTONIC, which all processes of a machine share; "unix_us" is received_us as time of day.

Flags:
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, in io.Reader, out, errout io.Writer) int {
	flags := flag.NewFlagSet("devmanager", flag.ContinueOnError)
	flags.SetOutput(errout)
	flags.Usage = func() {
		_, _ = io.WriteString(errout, help)
		flags.PrintDefaults()
	}
	listen := flags.String("listen", "", "take commands from connections to a unix socket at this `path` too")
	klog.InitFlags(flags)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		_, _ = fmt.Fprintf(errout, "devmanager: unexpected argument %q; commands are read from the input (devmanager -h)\n", flags.Arg(0))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, in, out, *listen); err != nil {
		_, _ = fmt.Fprintf(errout, "devmanager: %v\n", err)
		return 1
	}
	return 0
}

// serve runs the device manager until ctx, the input or a quit ends it.
func serve(ctx context.Context, in io.Reader, out io.Writer, listen string) error {
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	s := newSession(&lines{w: out}, quit)
	if err := s.manager.Start(); err != nil {
		return err
	}
	if listen != "" {
		l, err := net.Listen("unix", listen)
		if err != nil {
			return errors.Join(fmt.Errorf("listen for commands: %w", err), s.manager.Stop())
		}
		var connections sync.WaitGroup
		defer connections.Wait()
		defer l.Close() // ends accept; ctx ends the connections
		connections.Go(func() { accept(ctx, l, s, &connections) })
	}
	// A read of the input cannot be interrupted: its goroutine ends with the process.
	go func() {
		s.commands(ctx, in, s.out)
		if listen == "" {
			quit()
		}
	}()
	<-ctx.Done()
	quit()
	return s.manager.Stop()
}

// accept serves the connections to l until l is closed.
func accept(ctx context.Context, l net.Listener, s *session, connections *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		connections.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			s.commands(ctx, c, &lines{w: c})
		})
	}
}

// commands answers the commands of one input until it ends.
func (s *session) commands(ctx context.Context, in io.Reader, out *lines) {
	scanner := bufio.NewScanner(in)
	for scanner.Scan() && ctx.Err() == nil {
		if r := s.command(ctx, scanner.Text()); r != nil {
			out.write(r)
		}
	}
}
