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
		status.KindAllocation, status.KindKubelet, status.KindSlice, status.KindPublished, status.KindClaim,
	}
}

// eventOptions are the values of the flags of events.
type eventOptions struct {
	last   int
	follow bool
	kinds  []string
	device string
	since  string
	until  string
	output string
}

func (a *app) newEvents() *cobra.Command {
	o := &eventOptions{last: 50}
	var from, to time.Time
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what happened: kernel events and what they led to, lists, allocations",
		Long: `Show the journal of the plugin: kernel events and what they led to, changes of devices, lists that
were sent to the kubelet, allocations, full reads, and drift; of a DRA driver, writes of ResourceSlices and
preparations of claims. The oldest event comes first.`,
		Example: `  qatctl events --follow --kind change,list
  qatctl events --since 10m --device 6b:00.1
  qatctl events --since 03:10 --until 03:15`,
		Args: noArgs,
		PreRunE: func(c *cobra.Command, _ []string) (err error) {
			if (o.since != "" || o.until != "") && !c.Flags().Changed("last") {
				o.last = allEvents
			}
			from, to, err = o.check(a.now())
			return err
		},
		RunE: func(c *cobra.Command, _ []string) error { return a.events(c.Context(), o, from, to) },
	}
	flags := c.Flags()
	flags.IntVarP(&o.last, "last", "n", o.last, "show the last `number` of events; all with --since or --until")
	flags.BoolVarP(&o.follow, "follow", "f", false, "continue with new events, until Ctrl-C")
	flags.StringSliceVar(&o.kinds, "kind", nil, "only events of the `kinds`: "+alternatives(eventKinds()))
	flags.StringVar(&o.device, "device", "", "only events of the device at the `address`")
	flags.StringVar(&o.since, "since", "", "only events since a `time`: 10m, 15:04, or 2006-01-02T15:04:05Z")
	flags.StringVar(&o.until, "until", "", "only events until a `time`, without --follow")
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

// check checks the values of the flags, and returns the times of --since and --until.
func (o *eventOptions) check(now time.Time) (from, to time.Time, err error) {
	for _, kind := range o.kinds {
		if !slices.Contains(eventKinds(), kind) {
			return from, to, usageError{fmt.Errorf("--kind: invalid value %q: must be %s",
				kind, alternatives(eventKinds()))}
		}
	}
	if o.last < 0 {
		return from, to, usageError{fmt.Errorf("--last: invalid value %d: must be 0 or more", o.last)}
	}
	if o.until != "" && o.follow {
		return from, to, usageError{errors.New("--until: not with --follow")}
	}
	if from, err = parseTime("--since", o.since, now); err != nil {
		return from, to, err
	}
	to, err = parseTime("--until", o.until, now)
	return from, to, err
}

// parseTime parses the value of a flag: a duration, the last occurrence of a local time of day, or
// a full time. An empty value is the zero time.
func parseTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	now = now.Local()
	for _, layout := range []string{"15:04", "15:04:05"} {
		t, err := time.ParseInLocation(layout, text, time.Local)
		if err != nil {
			continue
		}
		at := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.Local)
		if at.After(now) {
			at = at.AddDate(0, 0, -1)
		}
		return at, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usageError{fmt.Errorf("%s: invalid value %q: must be a duration such as 10m, a time of the last "+
			"24 hours such as 15:04, or a time such as 2006-01-02T15:04:05Z", flag, text)}
	}
	return t, nil
}

// allEvents is more than a journal keeps.
const allEvents = 10_000

func (a *app) events(ctx context.Context, o *eventOptions, from, to time.Time) error {
	wanted := func(e *status.Event) bool {
		return (len(o.kinds) == 0 || slices.Contains(o.kinds, e.Kind)) && !e.Time.Before(from) &&
			(to.IsZero() || !e.Time.After(to)) && (o.device == "" || hasDevice(e, o.device))
	}
	last := max(o.last, 1) // the number of the last event is always needed
	filtered := len(o.kinds) > 0 || o.device != "" || !from.IsZero() || !to.IsZero()
	if filtered {
		last = allEvents // the filters come first
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
	if len(list) > 0 && list[0].Time.After(from) && !from.IsZero() {
		fmt.Fprintf(a.stderr, "The oldest event that the plugin has is from %s.\n", clock(list[0].Time, a.now()))
	}
	list = filter(list, wanted)
	sortByTime(list)
	list = list[max(0, len(list)-o.last):]
	if len(list) == 0 && !o.follow {
		fmt.Fprintln(a.stderr, "No events found.")
	}
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

// sortByTime sorts events by their times. The plugin numbers them in the order in which it has
// completed them.
func sortByTime(list []status.Event) {
	slices.SortStableFunc(list, func(x, y status.Event) int { return x.Time.Compare(y.Time) })
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
		return fmt.Errorf("the plugin at %s ended the stream, because it ends or qatctl read too slowly: "+
			"run the command again", c)
	}
	return a.explain(err)
}

func hasDevice(e *status.Event, address string) bool {
	same := func(device string) bool { return device == address || strings.HasSuffix(device, ":"+address) }
	address = strings.ToLower(address)
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
