// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/pci"
)

// A Recording is a recording that was replayed.
type Recording struct {
	Time    time.Time // when it was written, or kept
	Reason  string    // "drift" if it was kept because of the first drift, or ""
	Config  string    // the configuration on which the decisions depend
	Entries []RecordedEntry
	Tree    *devtree.Tree // what follows from the steps

	// Differences are the places where the replay came to other results than the recorded mode,
	// with the numbers of their lines; none: it came to the same ones.
	Differences []string
}

// A RecordedEntry is an event or a step.
type RecordedEntry struct {
	Event *status.Event // nil: it is a step
	Step  RecordedStep
}

// A RecordedStep is a step of the mode: what it decided after it had read some VFs.
type RecordedStep struct {
	Time      time.Time
	Cause     string // what had these VFs read
	Decisions []RecordedDecision
	Changes   []devtree.Change // of the lists
}

// A RecordedDecision is what the mode decided about a VF.
type RecordedDecision struct {
	Device string
	Text   string // such as "list in cy" or "skip: it is being removed"
}

// maxLine is the length in bytes that no line may exceed. A full read of 1024 VFs has about 2 MiB.
const maxLine = 64 << 20

// Replay reads recordings. It decides again on the recorded facts, applies the decisions to the
// lists, and compares both with what is recorded. An error says that a line cannot be read, or that
// the end of the recordings is missing. Replay then also returns what comes before it.
func Replay(r io.Reader) ([]*Recording, error) {
	var all []*Recording
	p := player{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		p.line++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		recording, err := p.play(lines.Bytes())
		if err != nil {
			return all, fmt.Errorf("line %d: %w", p.line, err)
		}
		if recording != nil {
			all = append(all, recording)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return all, fmt.Errorf("line %d: it is longer than %d MiB", p.line+1, maxLine>>20)
	case err != nil:
		return all, err
	case p.recording != nil && !p.ended:
		return all, errors.New("the recording is cut off: it does not end with the lists")
	}
	if len(all) == 0 {
		return nil, errors.New("the recording is empty")
	}
	return all, nil
}

// A player replays lines.
type player struct {
	line       int
	recording  *Recording // nil: there was no header
	ended      bool       // the line with the Tree, which ends the recording, was read
	settings   settings
	assignment *assignment // nil: there was no checkpoint
	links      map[pci.Address]link
}

// play replays one line. It returns a Recording that begins with the line.
func (p *player) play(text []byte) (*Recording, error) {
	var kind struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(text, &kind); err != nil {
		return nil, err
	}
	if kind.Type != lineHeader && p.recording == nil {
		return nil, errors.New("the recording does not begin with a header")
	}
	d := &decoder{}
	switch kind.Type {
	case lineHeader:
		return p.header(text, d)
	case lineCheckpoint:
		return nil, playLine(text, d, p.checkpoint)
	case lineStep:
		if p.assignment == nil {
			return nil, errors.New("there is no checkpoint before the first step")
		}
		return nil, playLine(text, d, p.step)
	case lineEvent:
		return nil, playLine(text, d, func(line *eventLine, _ *decoder) {
			p.recording.Entries = append(p.recording.Entries, RecordedEntry{Event: &line.Event})
		})
	case lineTree:
		return nil, playLine(text, d, p.tree)
	}
	return nil, fmt.Errorf("unknown type %q", kind.Type)
}

// playLine decodes a line and replays it.
func playLine[L any](text []byte, d *decoder, play func(*L, *decoder)) error {
	line := new(L)
	if err := json.Unmarshal(text, line); err != nil {
		return err
	}
	play(line, d)
	return d.err
}

// differ records that the replay came to another result.
func (p *player) differ(format string, args ...any) {
	text := fmt.Sprintf("line %d: ", p.line) + fmt.Sprintf(format, args...)
	p.recording.Differences = append(p.recording.Differences, text)
}

func (p *player) header(text []byte, d *decoder) (*Recording, error) {
	var h headerLine
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, err
	}
	if p.recording != nil && !p.ended {
		return nil, errors.New("the recording before it is cut off: it does not end with the lists")
	}
	if h.Version != recordingVersion {
		return nil, fmt.Errorf("version %d of the format: only version %d can be read", h.Version, recordingVersion)
	}
	s := d.settings(&h)
	p.recording = &Recording{Time: h.Time, Reason: h.Reason, Config: s.String(), Tree: &devtree.Tree{}}
	p.settings, p.assignment, p.links, p.ended = s, nil, map[pci.Address]link{}, false
	return p.recording, nil
}

// String describes the settings with the flags of the program.
func (s settings) String() string {
	text := fmt.Sprintf("-dpdk-driver=%s -kernel-vf-drivers=%s -bind=%t -steal=%t",
		s.rules.driver, strings.Join(s.rules.served, ","), s.rules.bind, s.rules.steal)
	if s.policy != "" {
		text += fmt.Sprintf(" -allocation-policy=%s", s.policy)
	}
	if s.limit > 0 {
		text += fmt.Sprintf(" -max-num-devices=%d", s.limit)
	}
	return text
}

// checkpoint compares the lists with a checkpoint, unless it is the first one, and continues from
// there.
func (p *player) checkpoint(line *checkpointLine, d *decoder) {
	c := d.checkpoint(line)
	if d.err != nil {
		return
	}
	a := &assignment{
		limit:   p.settings.limit,
		policy:  p.settings.policy,
		inUse:   c.inUse,
		listed:  c.listed,
		waiting: c.waiting,
		skipped: map[string]string{},
		classes: map[pci.Address]string{},
	}
	builder := (&devtree.Tree{}).Edit()
	for vf, place := range a.listed {
		if err := builder.Put(place.decision.resource, place.decision.device); err != nil {
			d.fail("list %s: %w", vf, err)
			return
		}
	}
	a.tree = builder.Build()
	if p.assignment != nil {
		p.compareTrees(p.assignment.tree, a.tree)
		a.tree = a.tree.After(p.assignment.tree)
	}
	p.assignment, p.links, p.recording.Tree = a, c.links, a.tree
}

// step decides on the facts of a step, and applies the decisions.
func (p *player) step(line *stepLine, d *decoder) {
	vfs, links := d.facts(line), d.links(line.Links)
	asked := recordedBindings{d.addresses(line.Pending), d.set(line.Failed), d.set(line.Blocked)}
	if d.err != nil {
		return
	}
	decisions := decideAll(vfs, &p.settings.rules)
	p.compareDecisions(decisions, line.Decisions)
	maps.Copy(p.links, links)
	pfOf := func(vf pci.Address) (pci.Address, bool) {
		l := p.links[vf]
		return l.pf, l.hasPF
	}
	before := p.assignment.tree
	p.compareBinds(p.assignment.apply(decisions, asked, pfOf, line.Time), line.Binds)
	changes := encodeChanges(p.assignment.entries())
	if !slices.Equal(changes, line.Changes) {
		p.differ("the lists changed by %+v, recorded is %+v", changes, line.Changes)
	}
	p.recording.Tree = p.assignment.tree
	p.recording.Entries = append(p.recording.Entries, RecordedEntry{Step: RecordedStep{
		Time:      line.Time,
		Cause:     line.Cause,
		Decisions: describe(decisions, line.Binds),
		Changes:   devtree.Diff(before, p.assignment.tree),
	}})
}

// recordedBindings are the answers that an assignment got when it was recorded.
type recordedBindings struct {
	pending         []pci.Address
	failed, blocked map[pci.Address]bool
}

func (b recordedBindings) Pending() []pci.Address                  { return b.pending }
func (b recordedBindings) HasFailed(vf pci.Address, _ uint64) bool { return b.failed[vf] }
func (b recordedBindings) IsBlocked(pf pci.Address) bool           { return b.blocked[pf] }

// compareDecisions compares decisions with those that are recorded.
func (p *player) compareDecisions(decisions []decision, recorded []decisionJSON) {
	if len(decisions) != len(recorded) {
		p.differ("there are %d decisions, and facts about %d VFs", len(recorded), len(decisions))
		return
	}
	for i := range decisions {
		if now := encodeDecision(&decisions[i]); !reflect.DeepEqual(now, recorded[i]) {
			p.differ("%s: decided to %s, recorded is %s", decisions[i].vf, asText(now), asText(recorded[i]))
		}
	}
}

// compareBinds compares the VFs that must be bound with those that are recorded.
func (p *player) compareBinds(chosen []decision, recorded []bindJSON) {
	var now, before []string
	for _, d := range chosen {
		now = append(now, d.vf.String())
	}
	for _, b := range recorded {
		before = append(before, b.VF)
	}
	slices.Sort(now)
	slices.Sort(before)
	if !slices.Equal(now, before) {
		p.differ("the VFs to bind are %v, recorded is %v", now, before)
	}
}

// asText returns a decision for people who compare two of them.
func asText(d decisionJSON) string {
	text, err := json.Marshal(d)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// tree compares the Tree with the recorded one.
func (p *player) tree(line *treeLine, d *decoder) {
	builder := (&devtree.Tree{}).Edit()
	for resource, devices := range line.Resources {
		for id, e := range devices {
			if err := builder.Put(resource, decodeDevice(id, &e)); err != nil {
				d.fail("list %s: %w", id, err)
				return
			}
		}
	}
	p.compareTrees(p.recording.Tree, builder.Build())
	p.ended = true
}

func (p *player) compareTrees(got, recorded *devtree.Tree) {
	for _, c := range devtree.Diff(recorded, got) {
		switch {
		case c.Old == nil:
			p.differ("%s is listed in %s, and is not in the recording", c.New.ID, c.Resource)
		case c.New == nil:
			p.differ("%s is not listed in %s, as it is in the recording", c.Old.ID, c.Resource)
		default:
			p.differ("%s in %s is %+v, recorded is %+v", c.New.ID, c.Resource, *c.New, *c.Old)
		}
	}
}

// describe describes decisions. binds has the reasons why VFs are not bound yet.
func describe(decisions []decision, binds []bindJSON) []RecordedDecision {
	waits := map[string]string{}
	for _, b := range binds {
		waits[b.VF] = b.Reason
	}
	list := make([]RecordedDecision, len(decisions))
	for i := range decisions {
		d := &decisions[i]
		list[i] = RecordedDecision{Device: d.vf.String(), Text: d.String()}
		if wait := waits[list[i].Device]; wait != "" {
			list[i].Text += ": " + wait
		}
	}
	return list
}

// String describes a decision.
func (d *decision) String() string {
	switch {
	case d.action == actionSkip && d.reason.Text == "":
		return "no VF there"
	case d.action == actionList && d.device.Health == devtree.Unhealthy:
		return fmt.Sprintf("list in %s, unhealthy: %s", d.resource, d.device.Reason)
	case d.action == actionList:
		return "list in " + d.resource
	case d.reason.Text != "":
		return d.action.String() + ": " + d.reason.Text
	}
	return d.action.String()
}
