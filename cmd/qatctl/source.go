// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"qatplugin/internal/status"
	"qatplugin/internal/statusclient"
)

// podCommand runs a command of qatctl in the plugin's pod.
const podCommand = "kubectl exec daemonset/intel-qat-plugin -- qatctl"

// A nobodyError means that nobody can be asked.
type nobodyError struct{ error }

func (e *nobodyError) Unwrap() error { return e.error }

// ask calls f with the client of the plugin, and a context that ends after --timeout. The error
// says what to do if no plugin can be asked.
func (a *app) ask(ctx context.Context, f func(context.Context, *statusclient.Client) error) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.timeout, fmt.Errorf("no answer within %v", a.timeout))
	defer cancel()
	return a.explain(f(ctx, c))
}

// explain adds what to do to the error of a client.
func (a *app) explain(err error) error {
	var dial *net.OpError
	switch {
	case errors.Is(err, statusclient.ErrNotRunning) && a.server != "":
		return &nobodyError{fmt.Errorf("%w: check --server, and that the plugin runs with -http-address", err)}
	case errors.Is(err, statusclient.ErrNotRunning):
		return &nobodyError{fmt.Errorf("%w: start it, name its socket with --socket, or run: %s …", err, podCommand)}
	case errors.Is(err, fs.ErrPermission):
		return &nobodyError{fmt.Errorf("%w: run qatctl as root", err)}
	case errors.As(err, &dial) && dial.Op == "dial":
		return &nobodyError{fmt.Errorf("%w: check --server", err)}
	}
	return err
}

// snapshot returns what the plugin knows. If no plugin listens at the socket, it returns what the
// host shows, and says so on standard error.
func (a *app) snapshot(ctx context.Context) (*status.Snapshot, error) {
	var s *status.Snapshot
	err := a.ask(ctx, func(ctx context.Context, c *statusclient.Client) (err error) {
		s, err = c.Snapshot(ctx)
		return err
	})
	if err == nil {
		a.warn(s)
	}
	if a.server != "" || !errors.Is(err, statusclient.ErrNotRunning) {
		return s, err
	}
	s, hostErr := a.readHost(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case hostErr != nil:
		return nil, &nobodyError{fmt.Errorf("%w; and the host cannot be read: %w", err, hostErr)}
	}
	fmt.Fprintf(a.stderr, "No plugin listens at %s: showing what this host has, as a plugin with -dry-run sees it.\n",
		a.socket)
	return s, nil
}

// warn says on standard error if a snapshot is not the newest state.
func (a *app) warn(s *status.Snapshot) {
	for _, l := range s.Loops {
		switch {
		case l.Err != "":
			fmt.Fprintf(a.stderr, "This is the last known state, because an event loop of the plugin (%s) "+
				"does not answer: %s\n", l.Name, l.Err)
		case !l.Complete:
			fmt.Fprintln(a.stderr, "The plugin has not read the whole host yet. Its log says what is missing.")
		}
	}
}
