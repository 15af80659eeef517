// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/qat"
)

func (a *app) newReplay() *cobra.Command {
	var output, device string
	c := &cobra.Command{
		Use:   "replay FILE",
		Short: "Decide again on the facts of a recording, and show each step",
		Long: `Decide again on the facts of a recording that qatctl record has written, and show each step: the
events, what was decided and why, and how the lists changed. FILE is - for standard input. No plugin
and no device is needed.

The exit status is 1 if this version of the program decides differently than the recorded one.`,
		Example: `  qatctl record -o qat.ndjson && qatctl replay qat.ndjson
  qatctl replay --device 6b:00.1 qat.ndjson`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("replay: name one file that qatctl record has written, or -")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return a.replay(c.Context(), args[0], device, output) },
	}
	outputFlag(c, &output, "json", "yaml")
	c.Flags().StringVar(&device, "device", "", "only the events and decisions about the device at the `address`")
	return c
}

// A replayedRecording is the JSON of a recording that was replayed.
type replayedRecording struct {
	Time        time.Time           `json:"time"`             // when it was written
	Reason      string              `json:"reason,omitempty"` // why it was kept
	Config      string              `json:"config"`
	Entries     []replayedEntry     `json:"entries"`
	Lists       map[string][]string `json:"lists"` // resource → devices at the end
	Differences []string            `json:"differences,omitempty"`

	steps int // including those that are not in Entries
}

// A replayedEntry is an event or a step.
type replayedEntry struct {
	Event *status.Event `json:"event,omitempty"`
	Step  *replayedStep `json:"step,omitempty"`
}

type replayedStep struct {
	Time      time.Time          `json:"time"`
	Cause     string             `json:"cause"`
	Decisions []replayedDecision `json:"decisions,omitempty"`
	Changes   []replayedChange   `json:"changes,omitempty"` // of the lists
}

type replayedDecision struct {
	Device   string `json:"device"`
	Decision string `json:"decision"`
}

type replayedChange struct {
	Resource string `json:"resource"`
	Device   string `json:"device"`
	Change   string `json:"change"`
}

func (a *app) replay(ctx context.Context, file, device, output string) error {
	var in io.Reader = os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	replayed, err := qat.Replay(&untilDone{ctx, in})
	if err != nil {
		err = fmt.Errorf("replay %s: %w", file, err)
	}
	if replayed == nil || len(replayed.Recordings) == 0 {
		return err
	}
	list := []replayedRecording{}
	differs := false
	for _, r := range replayed.Recordings {
		list = append(list, convertRecording(r, strings.ToLower(device)))
		differs = differs || len(r.Differences) > 0
	}
	if output != "" {
		if err := a.print(output, list); err != nil {
			return err
		}
	} else {
		for i := range list {
			a.printRecording(&list[i])
		}
	}
	if err == nil && differs {
		return errWrong
	}
	return err
}

// untilDone is a Reader that fails when its context has ended.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}

// convertRecording converts a recording. With a device, it keeps only what is about that device.
func convertRecording(r *qat.Recording, device string) replayedRecording {
	about := func(address string) bool {
		return device == "" || address == device || strings.HasSuffix(address, ":"+device)
	}
	to := replayedRecording{
		Time:        r.Time,
		Reason:      r.Reason,
		Config:      r.Config,
		Entries:     []replayedEntry{},
		Lists:       map[string][]string{},
		Differences: r.Differences,
	}
	for i := range r.Entries {
		from := &r.Entries[i]
		if e := from.Event; e != nil {
			if device == "" || hasDevice(e, device) {
				to.Entries = append(to.Entries, replayedEntry{Event: e})
			}
			continue
		}
		to.steps++
		step := &replayedStep{Time: from.Step.Time, Cause: from.Step.Cause}
		for _, d := range from.Step.Decisions {
			if about(d.Device) {
				step.Decisions = append(step.Decisions, replayedDecision{d.Device, d.Text})
			}
		}
		for _, c := range from.Step.Changes {
			if change := convertChange(c); about(change.Device) {
				step.Changes = append(step.Changes, change)
			}
		}
		if device == "" || len(step.Decisions)+len(step.Changes) > 0 {
			to.Entries = append(to.Entries, replayedEntry{Step: step})
		}
	}
	for resource := range r.Tree.Resources() {
		ids := []string{}
		for d := range resource.Devices() {
			ids = append(ids, d.ID)
		}
		to.Lists[resource.Name()] = ids
	}
	return to
}

func convertChange(c devtree.Change) replayedChange {
	to := replayedChange{Resource: c.Resource}
	switch {
	case c.New == nil:
		to.Device, to.Change = c.Old.ID, "removed"
	case c.Old == nil:
		to.Device, to.Change = c.New.ID, "added"
	default:
		to.Device, to.Change = c.New.ID, "changed"
	}
	if c.New != nil && c.New.Health == devtree.Unhealthy {
		to.Change += ", " + explained("unhealthy", c.New.Reason)
	}
	return to
}

// printRecording prints what happened, and whether the decisions are the recorded ones.
func (a *app) printRecording(r *replayedRecording) {
	a.printf("%s", a.paint(bold, "Recording of "+a.ago(r.Time)))
	if r.Reason != "" {
		a.printf(", kept because of %s", r.Reason)
	}
	a.printf("\n")
	a.fact("Configuration", r.Config, plain)
	a.printf("\n")
	if len(r.Entries) == 0 {
		a.printf("There is no such step or event.\n")
	}
	for i := range r.Entries {
		if e := r.Entries[i].Event; e != nil {
			a.printf("%s\n", a.eventLine(e, r.Time))
			continue
		}
		step := r.Entries[i].Step
		a.printf("%s  %s  %s\n", clock(step.Time, r.Time), a.paint(bold, fmt.Sprintf("%-10s", "step")), step.Cause)
		for _, d := range step.Decisions {
			a.printf("      %s  %s\n", d.Device, d.Decision)
		}
		for _, c := range step.Changes {
			text := fmt.Sprintf("    → %s  %s: %s", c.Device, c.Resource, c.Change)
			a.printf("%s\n", a.paint(changeColor(c.Change), text))
		}
	}
	a.printf("\nLists at the end:\n")
	for _, resource := range slices.Sorted(maps.Keys(r.Lists)) {
		ids := strings.Join(r.Lists[resource], " ")
		a.fact(resource, cmp.Or(ids, "no devices"), plain)
	}
	if len(r.Differences) == 0 {
		text := "The replay came to the recorded decisions and lists in all " + count(r.steps, "step") + "."
		a.printf("\n%s\n", a.paint(green, text))
		return
	}
	a.printf("\n%s\n", a.paint(red, "The replay differs from the recording:"))
	for _, difference := range r.Differences {
		a.printf("  %s\n", difference)
	}
}

func changeColor(change string) color {
	switch {
	case strings.Contains(change, "unhealthy"):
		return red
	case change == "removed":
		return yellow
	}
	return green
}
