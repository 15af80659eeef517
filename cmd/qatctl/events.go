// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"qatplugin/internal/status"
	"qatplugin/internal/statusclient"
)

// eventKinds are the kinds of events.
func eventKinds() []string {
	return []string{
		status.KindUevent, status.KindInotify, status.KindResync, status.KindDrift, status.KindChange, status.KindList,
		status.KindAllocation, status.KindKubelet,
	}
}

// eventOptions are the values of the flags of events.
type eventOptions struct {
	last   int
	follow bool
	kinds  []string
	device string
	since  string
	output string
}

func (a *app) newEvents() *cobra.Command {
	o := &eventOptions{last: 50}
	var from time.Time
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what happened: kernel events and what they led to, lists, allocations",
		Long: `Show the journal of the plugin: kernel events and what they led to, changes of devices, lists that
were sent to the kubelet, allocations, full reads, and drift. The oldest event comes first.`,
		Example: `  qatctl events --follow --kind change,list
  qatctl events --since 10m --device 6b:00.1`,
		Args: noArgs,
		PreRunE: func(*cobra.Command, []string) (err error) {
			from, err = o.check(a.now())
			return err
		},
		RunE: func(c *cobra.Command, _ []string) error { return a.events(c.Context(), o, from) },
	}
	flags := c.Flags()
	flags.IntVarP(&o.last, "last", "n", o.last, "show the last `number` of events")
	flags.BoolVarP(&o.follow, "follow", "f", false, "continue with new events, until Ctrl-C")
	flags.StringSliceVar(&o.kinds, "kind", nil, "only events of the `kinds`: "+alternatives(eventKinds()))
	flags.StringVar(&o.device, "device", "", "only events of the device at the `address`")
	flags.StringVar(&o.since, "since", "", "only events since a `time`: 10m, 15:04, or 2006-01-02T15:04:05Z")
	outputFlag(c, &o.output, "json")
	complete(c, "kind", cobra.FixedCompletions(eventKinds(), cobra.ShellCompDirectiveNoFileComp))
	complete(c, "device", a.completeDevices)
	return c
}

// noArgs is cobra.NoArgs with an error that says what is wrong.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s: unexpected argument %q", c.Name(), args[0])
	}
	return nil
}

// check checks the values of the flags, and returns the time of --since.
func (o *eventOptions) check(now time.Time) (from time.Time, err error) {
	for _, kind := range o.kinds {
		if !slices.Contains(eventKinds(), kind) {
			return from, usageError{fmt.Errorf("--kind: invalid value %q: must be %s",
				kind, alternatives(eventKinds()))}
		}
	}
	if o.last < 0 {
		return from, usageError{fmt.Errorf("--last: invalid value %d: must be 0 or more", o.last)}
	}
	if o.since == "" {
		return from, nil
	}
	from, err = parseSince(o.since, now)
	if err != nil {
		return from, usageError{fmt.Errorf("--since: invalid value %q: must be a duration such as 10m, a time of "+
			"today such as 15:04, or a time such as 2006-01-02T15:04:05Z", o.since)}
	}
	return from, nil
}

// parseSince parses a time of the past: a duration, a local time of today, or a full time.
func parseSince(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	now = now.Local()
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.Local), nil
		}
	}
	return time.Parse(time.RFC3339, text)
}

func (a *app) events(ctx context.Context, o *eventOptions, from time.Time) error {
	wanted := func(e *status.Event) bool {
		return (len(o.kinds) == 0 || slices.Contains(o.kinds, e.Kind)) && !e.Time.Before(from) &&
			(o.device == "" || hasDevice(e, o.device))
	}
	const all = 10_000 // more than a journal keeps
	last := o.last
	filtered := len(o.kinds) > 0 || o.device != "" || !from.IsZero()
	if filtered {
		last = all // the filters come first
	}
	var list []status.Event
	err := a.ask(ctx, func(ctx context.Context, c *statusclient.Client) (err error) {
		list, err = c.Events(ctx, last)
		return err
	})
	if err != nil {
		return err
	}
	seen := uint64(0)
	if len(list) > 0 {
		seen = list[len(list)-1].Seq
	}
	list = filter(list, wanted)
	list = list[max(0, len(list)-o.last):]
	for i := range list {
		if err := a.printEvent(&list[i], o.output); err != nil {
			return err
		}
	}
	if !o.follow {
		return nil
	}
	return a.follow(ctx, []string{status.MessageEvent}, func(m *statusclient.Message) error {
		var e status.Event
		if err := m.Decode(&e); err != nil {
			return err
		}
		if e.Seq <= seen || !wanted(&e) {
			return nil
		}
		return a.printEvent(&e, o.output)
	})
}

// follow follows the stream of the plugin until a signal. If the plugin ends the stream, that is an
// error.
func (a *app) follow(ctx context.Context, types []string, handle func(*statusclient.Message) error) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	const backlog = 1000 // of events that happened between two requests
	err = c.Follow(ctx, types, backlog, handle)
	switch {
	case errors.Is(context.Cause(ctx), errInterrupted):
		return nil
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the plugin at %s has ended the stream: it stops, or this client was too slow", c)
	}
	return a.explain(err)
}

func hasDevice(e *status.Event, address string) bool {
	same := func(device string) bool { return device == address || strings.HasSuffix(device, ":"+address) }
	return same(e.Device) || slices.ContainsFunc(e.Devices, same)
}

func (a *app) printEvent(e *status.Event, output string) error {
	if output == "json" {
		return a.printLine(e)
	}
	a.printf("%s\n", a.eventLine(e, a.now()))
	return nil
}

// eventLine returns an event in one line. Its time has the date unless it is of today.
func (a *app) eventLine(e *status.Event, today time.Time) string {
	c := plain
	switch {
	case e.Err != "" || e.Kind == status.KindDrift:
		c = red
	case e.Kind == status.KindResync:
		c = yellow
	}
	return fmt.Sprintf("%s  %s  %s", clock(e.Time, today), a.paint(c, fmt.Sprintf("%-10s", e.Kind)), eventText(e))
}

// eventText returns what an event says apart from its time and kind.
func eventText(e *status.Event) string {
	var parts []string
	add := func(text string) {
		if text != "" {
			parts = append(parts, text)
		}
	}
	add(e.Action)
	add(e.Resource)
	add(e.Device)
	add(strings.Join(e.Devices, " "))
	if e.Device == "" && (e.Kind == status.KindUevent || e.Kind == status.KindInotify) {
		add(e.Path)
	}
	text := strings.Join(parts, " ")
	for _, more := range []string{e.Text, e.Err} {
		if text != "" && more != "" {
			text += ": "
		}
		text += more
	}
	if e.Seconds > 0 {
		text += fmt.Sprintf(" (%s)", shortDuration(e.Seconds))
	}
	return text
}

// shortDuration returns seconds with three significant digits.
func shortDuration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	for unit := time.Duration(1); unit < time.Hour; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
	return d.String()
}
