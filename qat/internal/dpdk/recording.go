// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/policy"
)

// This file is the format of recordings: lines of JSON, of which each has a type. A recording is a
// header, a checkpoint, the steps and events in the order of their times, further checkpoints among
// them, and the Tree after the last step. Several recordings can follow each other.

// recordingVersion is the version of the format. A change that Replay cannot read increases it.
const recordingVersion = 1

// The types of lines.
const (
	lineHeader     = "header"
	lineCheckpoint = "checkpoint"
	lineStep       = "step"
	lineEvent      = "event"
	lineTree       = "tree"
)

type headerLine struct {
	Type       string    `json:"type"`
	Version    int       `json:"version"`
	Mode       string    `json:"mode"`
	Time       time.Time `json:"time"`
	Reason     string    `json:"reason,omitempty"` // "drift", or nothing
	Driver     string    `json:"driver"`
	Served     []string  `json:"served"` // drivers of -kernel-vf-drivers
	Bind       bool      `json:"bind"`
	Steal      bool      `json:"steal"`
	Attributes bool      `json:"attributes,omitempty"` // devices have attributes
	Policy     string    `json:"policy,omitempty"`
	Limit      int       `json:"limit,omitempty"` // device limit
}

type checkpointLine struct {
	Type    string            `json:"type"`
	Listed  []placeJSON       `json:"listed"`
	Waiting []decisionJSON    `json:"waiting,omitempty"`
	InUse   []string          `json:"inUse,omitempty"`
	Links   map[string]string `json:"links,omitempty"` // VF → PF, "" for a VF without a PF
}

type placeJSON struct {
	decisionJSON
	UnhealthySince *time.Time `json:"unhealthySince,omitempty"`
}

type stepLine struct {
	Type      string            `json:"type"`
	Time      time.Time         `json:"time"`
	Cause     string            `json:"cause"`
	Driver    *driverJSON       `json:"driver,omitempty"` // nil: it was not read
	PFs       []pfJSON          `json:"pfs,omitempty"`
	Facts     []factsJSON       `json:"facts"`
	Decisions []decisionJSON    `json:"decisions"`
	Pending   []string          `json:"pending,omitempty"`
	Failed    []string          `json:"failed,omitempty"`
	Blocked   []string          `json:"blocked,omitempty"`
	Links     map[string]string `json:"links,omitempty"`
	Binds     []bindJSON        `json:"binds,omitempty"`
	Changes   []changeJSON      `json:"changes,omitempty"`
}

// driverJSON is a device.DriverState.
type driverJSON struct {
	Loaded     bool `json:"loaded"`
	Denylist   bool `json:"denylist,omitempty"`
	NeedsGroup bool `json:"needsGroup,omitempty"`
}

// pfJSON is what decide uses of a PF, and more for people.
type pfJSON struct {
	Address   string `json:"address"`
	DeviceID  string `json:"deviceID"`
	Driver    string `json:"driver,omitempty"`
	State     string `json:"state,omitempty"`
	Services  string `json:"services,omitempty"`
	Resource  string `json:"resource"`
	VFs       int    `json:"vfs"`
	ReadErr   string `json:"readErr,omitempty"`
	Unhealthy string `json:"unhealthy,omitempty"`
	Class     string `json:"class,omitempty"` // of Unhealthy

	// Only where devices have attributes:
	VFNumbers map[string]int `json:"vfNumbers,omitempty"` // of the VFs in the facts
	Version   string         `json:"version,omitempty"`
}

// vfJSON is what decide uses of a VF.
type vfJSON struct {
	DeviceID    string    `json:"deviceID"`
	Incarnation uint64    `json:"incarnation"`
	Driver      string    `json:"driver,omitempty"`
	NUMANode    int       `json:"numaNode"`
	Group       *int      `json:"group,omitempty"`
	Node        *nodeJSON `json:"node,omitempty"`
	ReadErr     string    `json:"readErr,omitempty"`
	Unhealthy   string    `json:"unhealthy,omitempty"`
	Class       string    `json:"class,omitempty"` // of Unhealthy
	Removing    bool      `json:"removing,omitempty"`
	PCIeRoot    string    `json:"pcieRoot,omitempty"` // only where devices have attributes
}

// nodeJSON is a device.Node.
type nodeJSON struct {
	Name      string `json:"name,omitempty"`
	Missing   string `json:"missing,omitempty"`
	Releasing bool   `json:"releasing,omitempty"`
}

// factsJSON are the facts about a VF. What was read of its PF is in stepLine.PFs.
type factsJSON struct {
	Address     string       `json:"address"`
	VF          *vfJSON      `json:"vf,omitempty"`
	Unreadable  string       `json:"unreadable,omitempty"`
	PF          string       `json:"pf,omitempty"`
	PFReadErr   string       `json:"pfReadErr,omitempty"`
	PFExists    bool         `json:"pfExists,omitempty"`
	Listed      bool         `json:"listed,omitempty"`
	InUse       bool         `json:"inUse,omitempty"`
	Held        bool         `json:"held,omitempty"`
	Withdrawn   string       `json:"withdrawn,omitempty"`
	DriverBound bool         `json:"driverBound,omitempty"`
	Members     []memberJSON `json:"members,omitempty"`
	Shared      bool         `json:"shared,omitempty"`
	GroupErr    string       `json:"groupErr,omitempty"`
}

type memberJSON struct {
	Address  string `json:"address"`
	Driver   string `json:"driver,omitempty"`
	Bindable bool   `json:"bindable,omitempty"`
}

type decisionJSON struct {
	VF          string      `json:"vf"`
	Action      string      `json:"action"`
	Reason      string      `json:"reason,omitempty"`
	Resource    string      `json:"resource,omitempty"`
	Device      *deviceJSON `json:"device,omitempty"`
	Incarnation uint64      `json:"incarnation,omitempty"`
	Group       *int        `json:"group,omitempty"`
	Taken       []string    `json:"taken,omitempty"`
	Unhealthy   bool        `json:"unhealthy,omitempty"`
}

// deviceJSON is a device as newDevice makes it. Its ID is the address of the VF.
type deviceJSON struct {
	Reason    string   `json:"reason,omitempty"` // it is healthy if this is ""
	NUMANodes []int    `json:"numaNodes,omitempty"`
	Nodes     []string `json:"nodes"`            // below /dev
	Mounts    []string `json:"mounts,omitempty"` // paths
	Cause     string   `json:"cause,omitempty"`

	Attributes map[string]attributeJSON `json:"attributes,omitempty"`
}

// attributeJSON is the value of an attribute, in the form of the DRA API. One field is not nil.
type attributeJSON struct {
	String  *string          `json:"string,omitempty"`
	Bool    *bool            `json:"bool,omitempty"`
	Int     *int64           `json:"int,omitempty"`
	Version *devtree.Version `json:"version,omitempty"`
}

type bindJSON struct {
	VF     string `json:"vf"`
	Reason string `json:"reason"`
}

// changeJSON is the entry of a VF after a step. It has no resource if the VF is not listed.
type changeJSON struct {
	VF       string `json:"vf"`
	Resource string `json:"resource,omitempty"`
	Reason   string `json:"reason,omitempty"` // why it is unhealthy
}

type eventLine struct {
	Type string `json:"type"`
	status.Event
}

type treeLine struct {
	Type      string                           `json:"type"`
	Resources map[string]map[string]deviceJSON `json:"resources"` // resource → VF
}

// actionNames are the actions in a recording.
var actionNames = [...]string{
	actionSkip: "skip", actionList: "list", actionBind: "bind", actionAwaitNode: "await-node",
}

func (a action) String() string { return actionNames[a] }

// Write writes the recordings that the Recorder holds to w. A nil Recorder holds none.
func (r *Recorder) Write(w io.Writer) error {
	if r == nil {
		return nil
	}
	buffered := bufio.NewWriter(w)
	e := encoder{started: r.started, json: json.NewEncoder(buffered)}
	e.json.SetEscapeHTML(false)
	for _, recorded := range r.recordings() {
		e.recording(recorded)
	}
	if e.err == nil {
		e.err = buffered.Flush()
	}
	return e.err
}

// An encoder writes the lines of recordings. It keeps the first error.
type encoder struct {
	started time.Time
	json    *json.Encoder
	err     error
}

func (e *encoder) line(v any) {
	if e.err == nil {
		e.err = e.json.Encode(v)
	}
}

// time returns a time as it is recorded. Times of the same recording differ by what has passed
// between them, even if the clock was set.
func (e *encoder) time(t time.Time) time.Time { return e.started.Add(t.Sub(e.started)).Round(0).UTC() }

func (e *encoder) recording(r *recording) {
	s := &r.settings
	e.line(headerLine{
		Type:       lineHeader,
		Version:    recordingVersion,
		Mode:       "dpdk",
		Time:       e.time(r.at),
		Reason:     r.reason,
		Driver:     s.rules.driver,
		Served:     s.rules.served,
		Bind:       s.rules.bind,
		Steal:      s.rules.steal,
		Attributes: s.rules.attributes,
		Policy:     string(s.policy),
		Limit:      s.limit,
	})
	events := slices.Clone(r.events)
	slices.SortStableFunc(events, func(a, b status.Event) int { return a.Time.Compare(b.Time) })
	for i := range r.segments {
		if steps := r.segments[i].steps; i == 0 && len(steps) > 0 {
			events = slices.DeleteFunc(events, func(e status.Event) bool {
				return e.Time.Before(steps[0].at.Add(-time.Second)) // they led to what is not recorded
			})
		}
		e.checkpoint(&r.segments[i].checkpoint)
		for _, s := range r.segments[i].steps {
			for len(events) > 0 && !events[0].Time.After(s.at) {
				e.event(events[0])
				events = events[1:]
			}
			e.step(s)
		}
	}
	for _, event := range events {
		e.event(event)
	}
	e.line(encodeTree(r.tree))
}

func (e *encoder) event(event status.Event) {
	event.Time = e.time(event.Time)
	e.line(eventLine{lineEvent, event})
}

func (e *encoder) checkpoint(c *checkpoint) {
	line := checkpointLine{Type: lineCheckpoint, Listed: []placeJSON{}, Links: encodeLinks(c.links)}
	for _, a := range sortedKeys(c.listed) {
		p := c.listed[a]
		encoded := placeJSON{decisionJSON: encodeDecision(&p.decision)}
		if !p.unhealthySince.IsZero() {
			since := e.time(p.unhealthySince)
			encoded.UnhealthySince = &since
		}
		line.Listed = append(line.Listed, encoded)
	}
	for _, a := range sortedKeys(c.waiting) {
		d := c.waiting[a]
		line.Waiting = append(line.Waiting, encodeDecision(&d))
	}
	line.InUse = encodeAddresses(sortedKeys(c.inUse))
	e.line(line)
}

func sortedKeys[V any](m map[pci.Address]V) []pci.Address {
	return slices.SortedFunc(maps.Keys(m), pci.Address.Compare)
}

func (e *encoder) step(s *step) {
	line := stepLine{
		Type:      lineStep,
		Time:      e.time(s.at),
		Cause:     s.cause.String(),
		Facts:     []factsJSON{},
		Decisions: []decisionJSON{},
		Pending:   encodeAddresses(s.pending),
		Failed:    encodeAddresses(s.failed),
		Blocked:   encodeAddresses(s.blocked),
		Links:     encodeLinks(s.links),
		Changes:   encodeChanges(s.changes),
	}
	pfs := map[pci.Address]int{} // PF → its index in line.PFs
	for i := range s.facts {
		f := &s.facts[i]
		if f.driver != (device.DriverState{}) {
			line.Driver = &driverJSON{f.driver.Loaded, f.driver.Denylist, f.driver.NeedsGroup}
		}
		if f.pf != nil {
			k, known := pfs[f.pf.Address]
			if !known {
				k = len(line.PFs)
				pfs[f.pf.Address] = k
				line.PFs = append(line.PFs, encodePF(f.pf))
			}
			line.PFs[k].addNumber(f)
		}
		line.Facts = append(line.Facts, encodeFacts(f))
		line.Decisions = append(line.Decisions, encodeDecision(&s.decisions[i]))
	}
	for _, b := range s.binds {
		line.Binds = append(line.Binds, bindJSON{b.vf.String(), b.reason})
	}
	e.line(line)
}

// String describes the cause of a step.
func (c cause) String() string {
	var words []string
	if c.all {
		words = append(words, "full read")
	}
	if c.audit {
		words = append(words, "audit")
	}
	for _, key := range c.keys {
		words = append(words, key.String())
	}
	return cmp.Or(strings.Join(words, ", "), "timer")
}

func encodePF(f *function) pfJSON {
	return pfJSON{
		Address:   f.Address.String(),
		DeviceID:  fmt.Sprintf("%04x", f.Family.PF),
		Driver:    f.Driver,
		State:     f.State,
		Services:  f.Services,
		Resource:  f.Resource,
		VFs:       len(f.VFs),
		ReadErr:   f.readErr,
		Unhealthy: f.unhealthy.Text,
		Class:     f.unhealthy.Class,
		Version:   f.DriverVersion,
	}
}

// addNumber adds the number of a VF of the PF.
func (e *pfJSON) addNumber(f *facts) {
	if n, ok := f.number(); ok {
		if e.VFNumbers == nil {
			e.VFNumbers = map[string]int{}
		}
		e.VFNumbers[f.address.String()] = n
	}
}

func encodeFacts(f *facts) factsJSON {
	encoded := factsJSON{
		Address:     f.address.String(),
		Unreadable:  f.unreadable,
		PFReadErr:   f.pfReadErr,
		PFExists:    f.pfExists,
		Listed:      f.listed,
		InUse:       f.inUse,
		Held:        f.held,
		Withdrawn:   f.withdrawn,
		DriverBound: f.driverBound,
		Shared:      f.shared,
		GroupErr:    f.groupErr,
	}
	if f.pfAddress != nil {
		encoded.PF = f.pfAddress.String()
	}
	for _, m := range f.members {
		encoded.Members = append(encoded.Members, memberJSON{m.address.String(), m.driver, m.bindable})
	}
	if vf := f.vf; vf != nil {
		encoded.VF = &vfJSON{
			DeviceID:    fmt.Sprintf("%04x", vf.Family.VF),
			Incarnation: vf.Incarnation,
			Driver:      vf.Driver,
			NUMANode:    vf.NUMANode,
			Group:       vf.Group,
			ReadErr:     vf.readErr,
			Unhealthy:   vf.unhealthy.Text,
			Class:       vf.unhealthy.Class,
			Removing:    vf.removing,
			PCIeRoot:    vf.PCIeRoot,
		}
		if vf.Node != (device.Node{}) {
			encoded.VF.Node = &nodeJSON{vf.Node.Name, vf.Node.Missing, vf.Node.Releasing}
		}
	}
	return encoded
}

func encodeDecision(d *decision) decisionJSON {
	encoded := decisionJSON{
		VF:        d.vf.String(),
		Action:    d.action.String(),
		Reason:    d.reason.Text,
		Resource:  d.resource,
		Group:     d.group,
		Taken:     encodeAddresses(d.taken),
		Unhealthy: d.unhealthy,
	}
	if d.function != nil {
		encoded.Incarnation = d.function.Incarnation
	}
	if d.device != nil {
		device := encodeDevice(d.device)
		encoded.Device = &device
	}
	return encoded
}

func encodeDevice(d *devtree.Device) deviceJSON {
	encoded := deviceJSON{Reason: d.Reason, NUMANodes: d.NUMANodes, Nodes: []string{}, Cause: d.Cause}
	for _, n := range d.DeviceNodes {
		encoded.Nodes = append(encoded.Nodes, strings.TrimPrefix(n.HostPath, "/dev/"))
	}
	for _, m := range d.Mounts {
		encoded.Mounts = append(encoded.Mounts, m.HostPath)
	}
	for name, value := range d.Attributes {
		if encoded.Attributes == nil {
			encoded.Attributes = map[string]attributeJSON{}
		}
		encoded.Attributes[name] = encodeAttribute(value)
	}
	return encoded
}

func encodeAttribute(value any) (e attributeJSON) {
	switch v := value.(type) {
	case string:
		e.String = &v
	case bool:
		e.Bool = &v
	case int64:
		e.Int = &v
	case devtree.Version:
		e.Version = &v
	}
	return e
}

func encodeAddresses(list []pci.Address) (names []string) {
	for _, a := range list {
		names = append(names, a.String())
	}
	return names
}

func encodeLinks(links map[pci.Address]link) map[string]string {
	encoded := map[string]string{}
	for vf, l := range links {
		encoded[vf.String()] = ""
		if l.hasPF {
			encoded[vf.String()] = l.pf.String()
		}
	}
	return encoded
}

// encodeChanges encodes entries, each VF once, in ascending order.
func encodeChanges(changes []entry) (encoded []changeJSON) {
	for _, c := range changes {
		e := changeJSON{VF: c.vf.String()}
		if c.place != nil {
			e.Resource, e.Reason = c.place.decision.resource, c.place.decision.device.Reason
		}
		encoded = append(encoded, e)
	}
	slices.SortStableFunc(encoded, func(a, b changeJSON) int { return cmp.Compare(a.VF, b.VF) })
	return slices.CompactFunc(encoded, func(a, b changeJSON) bool { return a.VF == b.VF })
}

func encodeTree(tree *devtree.Tree) treeLine {
	line := treeLine{Type: lineTree, Resources: map[string]map[string]deviceJSON{}}
	for r := range tree.Resources() {
		devices := map[string]deviceJSON{}
		for d := range r.Devices() {
			devices[d.ID] = encodeDevice(d)
		}
		line.Resources[r.Name()] = devices
	}
	return line
}

// A decoder turns the parts of lines back into values. It keeps the first error.
type decoder struct{ err error }

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *decoder) address(text string) pci.Address {
	a, ok := pci.Parse(text)
	if !ok {
		d.fail("%q is not a PCI address", text)
	}
	return a
}

func (d *decoder) addresses(names []string) (list []pci.Address) {
	for _, name := range names {
		list = append(list, d.address(name))
	}
	return list
}

func (d *decoder) set(names []string) map[pci.Address]bool {
	set := map[pci.Address]bool{}
	for _, a := range d.addresses(names) {
		set[a] = true
	}
	return set
}

func (d *decoder) family(id string) *device.Family {
	n, err := strconv.ParseUint(id, 16, 16)
	for _, f := range device.Families() {
		if err == nil && (f.PF == uint16(n) || f.VF == uint16(n)) {
			return f
		}
	}
	d.fail("%q is not the device ID of a QAT device", id)
	return nil
}

func (d *decoder) settings(h *headerLine) settings {
	return settings{
		rules:  rules{driver: h.Driver, served: h.Served, bind: h.Bind, steal: h.Steal, attributes: h.Attributes},
		policy: policy.Policy(h.Policy),
		limit:  h.Limit,
	}
}

func (d *decoder) checkpoint(line *checkpointLine) checkpoint {
	c := checkpoint{
		listed:  map[pci.Address]*place{},
		waiting: map[pci.Address]decision{},
		inUse:   map[pci.Address]bool{},
		links:   d.links(line.Links),
	}
	for i := range line.Listed {
		p := &place{decision: d.decision(&line.Listed[i].decisionJSON)}
		if since := line.Listed[i].UnhealthySince; since != nil {
			p.unhealthySince = *since
		}
		if p.decision.device == nil {
			d.fail("listed VF %s has no device", p.decision.vf)
		}
		c.listed[p.decision.vf] = p
	}
	for i := range line.Waiting {
		waiting := d.decision(&line.Waiting[i])
		c.waiting[waiting.vf] = waiting
	}
	for _, a := range d.addresses(line.InUse) {
		c.inUse[a] = true
	}
	return c
}

func (d *decoder) links(encoded map[string]string) map[pci.Address]link {
	links := map[pci.Address]link{}
	for vf, pf := range encoded {
		l := link{hasPF: pf != ""}
		if l.hasPF {
			l.pf = d.address(pf)
		}
		links[d.address(vf)] = l
	}
	return links
}

// facts decodes the facts of a step.
func (d *decoder) facts(line *stepLine) []facts {
	pfs := map[string]*function{}
	for i := range line.PFs {
		pfs[line.PFs[i].Address] = d.pf(&line.PFs[i])
	}
	var driver device.DriverState
	if s := line.Driver; s != nil {
		driver = device.DriverState{Loaded: s.Loaded, Denylist: s.Denylist, NeedsGroup: s.NeedsGroup}
	}
	list := make([]facts, len(line.Facts))
	for i := range line.Facts {
		e := &line.Facts[i]
		list[i] = facts{
			address:     d.address(e.Address),
			unreadable:  e.Unreadable,
			pf:          pfs[e.PF],
			pfReadErr:   e.PFReadErr,
			pfExists:    e.PFExists,
			listed:      e.Listed,
			inUse:       e.InUse,
			held:        e.Held,
			withdrawn:   e.Withdrawn,
			driverBound: e.DriverBound,
			driver:      driver,
			shared:      e.Shared,
			groupErr:    e.GroupErr,
		}
		if e.PF != "" {
			pf := d.address(e.PF)
			list[i].pfAddress = &pf
		}
		for _, m := range e.Members {
			list[i].members = append(list[i].members, member{d.address(m.Address), m.Driver, m.Bindable})
		}
		if e.VF != nil {
			list[i].vf = d.vf(list[i].address, e.VF)
		}
		if (e.GroupErr != "" || e.Shared || len(e.Members) > 0) && (e.VF == nil || e.VF.Group == nil) {
			d.fail("VF %s without an IOMMU group has members", e.Address)
		}
	}
	return list
}

func (d *decoder) pf(e *pfJSON) *function {
	pf := &function{
		Function: &device.Function{
			Address:       d.address(e.Address),
			Family:        d.family(e.DeviceID),
			Driver:        e.Driver,
			State:         e.State,
			Services:      e.Services,
			Resource:      e.Resource,
			DriverVersion: e.Version,
		},
		readErr:   e.ReadErr,
		unhealthy: status.Reason{Class: e.Class, Text: e.Unhealthy},
	}
	for _, vf := range slices.Sorted(maps.Keys(e.VFNumbers)) {
		pf.VFs = append(pf.VFs, d.address(vf))
		pf.VFNumbers = append(pf.VFNumbers, e.VFNumbers[vf])
	}
	return pf
}

func (d *decoder) vf(a pci.Address, e *vfJSON) *function {
	vf := &function{
		Function: &device.Function{
			Address:     a,
			Family:      d.family(e.DeviceID),
			IsVF:        true,
			Incarnation: e.Incarnation,
			Driver:      e.Driver,
			NUMANode:    e.NUMANode,
			Group:       e.Group,
			PCIeRoot:    e.PCIeRoot,
		},
		readErr:   e.ReadErr,
		unhealthy: status.Reason{Class: e.Class, Text: e.Unhealthy},
		removing:  e.Removing,
	}
	if e.Node != nil {
		vf.Node = device.Node{Name: e.Node.Name, Missing: e.Node.Missing, Releasing: e.Node.Releasing}
	}
	return vf
}

func (d *decoder) decision(e *decisionJSON) decision {
	a := d.address(e.VF)
	decoded := decision{
		vf:        a,
		function:  &function{Function: &device.Function{Address: a, IsVF: true, Incarnation: e.Incarnation}},
		reason:    status.Reason{Text: e.Reason},
		resource:  e.Resource,
		group:     e.Group,
		taken:     d.addresses(e.Taken),
		unhealthy: e.Unhealthy,
	}
	i := slices.Index(actionNames[:], e.Action)
	if i < 0 {
		d.fail("unknown action %q", e.Action)
		i = 0
	}
	decoded.action = action(i)
	if e.Device != nil {
		decoded.device = decodeDevice(e.VF, e.Device)
	}
	return decoded
}

func decodeDevice(id string, e *deviceJSON) *devtree.Device {
	d := &devtree.Device{ID: id, Health: devtree.Healthy, Reason: e.Reason, NUMANodes: e.NUMANodes, Cause: e.Cause}
	if e.Reason != "" {
		d.Health = devtree.Unhealthy
	}
	for _, name := range e.Nodes {
		d.DeviceNodes = append(d.DeviceNodes, deviceNode(name))
	}
	for _, path := range e.Mounts {
		d.Mounts = append(d.Mounts, devtree.Mount{HostPath: path, ContainerPath: path})
	}
	for name, value := range e.Attributes {
		if d.Attributes == nil {
			d.Attributes = map[string]any{}
		}
		d.Attributes[name] = value.decode()
	}
	return d
}

// decode returns the value of an attribute, or nil, which a Tree rejects, if it has none.
func (e *attributeJSON) decode() any {
	switch {
	case e.String != nil:
		return *e.String
	case e.Bool != nil:
		return *e.Bool
	case e.Int != nil:
		return *e.Int
	case e.Version != nil:
		return *e.Version
	}
	return nil
}
