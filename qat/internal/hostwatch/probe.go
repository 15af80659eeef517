// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
)

const (
	// probeTimeout is how long the kernel may take to answer. It takes
	// microseconds; a machine under full load takes longer.
	probeTimeout = 5 * time.Second

	// probeRetry is the pause before the next probe after one that did not
	// prove that uevents arrive.
	probeRetry = 30 * time.Second
)

// The uevent files that a probe writes to, and the DEVPATHs of the answers. The bus's event
// reaches every network namespace of the initial user namespace. That of lo reaches only the
// network namespace that the sysfs belongs to (lib/kobject_uevent.c,
// kobject_uevent_net_broadcast). Nothing else on a host reacts to either of them.
const (
	busFile, busPath = "bus/pci/uevent", "/bus/pci"
	loFile, loPath   = "class/net/lo/uevent", "/devices/virtual/net/lo"
)

// Reasons why uevents do not arrive, each with the remedy.
const (
	reasonUserNamespace = "this process runs in a user namespace, which kernel uevents do not reach: " +
		"do not set hostUsers: false for the pod"
	reasonForeignSysfs = "the mounted sysfs belongs to this pod's network namespace, so writes made on the host " +
		"are not reported: mount the host's /sys"
	reasonPartialSysfs = "only parts of the host's sysfs are mounted, so writes to devices are not reported: " +
		"mount the host's whole /sys"
	reasonNoAnswer = "the kernel did not answer with the uevent that was requested"
	cannotAsk      = "cannot request a uevent from the kernel: "
)

// A Writer writes to the attributes of sysfs. [sysfs.Writer] implements it.
type Writer interface {
	Write(name, value string) error
	DryRun() bool
}

// A probe finds out whether uevents reach this process. That a socket can be opened proves
// nothing: in a user namespace it stays silent, and a sysfs that is not the host's reports no
// writes. So the probe asks the kernel for a synthetic uevent and waits for it
// (Documentation/ABI/testing/sysfs-uevent). On an ordinary directory tree (a look-alike host)
// there is nothing to ask: inotify reports everything.
//
// send and turn are for the goroutine of the loop, isAnswer for those of the sources, and check
// and mayMissEvents for any.
type probe struct {
	sysfs       string
	writer      Writer
	environment environment
	ownNetwork  bool // this process is not in the initial network namespace

	mu      sync.Mutex // guards all following fields
	uuid    string     // SYNTH_UUID of the latest request; "" before the first
	waiting bool       // for the answer
	due     time.Time  // when to stop waiting, or else to send again; zero: never
	loSeen  bool       // lo answered: the sysfs belongs to this process's network namespace
	result  probeResult
	logged  probeResult // the result that was logged last
	wakes   []func()    // called when the result has changed
}

type probeResult struct {
	status probeStatus
	reason string // why uevents do not arrive, or may not
}

type probeStatus uint8

const (
	probePending probeStatus = iota // no answer yet
	receiving                       // the answer came, or none is needed
	unproven                        // the kernel could not be asked
	notReceiving                    // no uevents arrive, or not all of them
)

func newProbe(sysfs string, writer Writer, env environment) *probe {
	return &probe{sysfs: sysfs, writer: writer, environment: env, ownNetwork: !env.inInitialNetworkNamespace()}
}

// send asks the kernel for a uevent. The sources must be open by then, or the answer is missed. A
// request is repeated after events were lost, the answer perhaps among them, so the answer to an
// earlier request no longer counts.
func (p *probe) send(now time.Time) {
	uuid := newUUID()
	p.mu.Lock()
	p.uuid, p.loSeen, p.waiting, p.due = uuid, false, true, now.Add(probeTimeout)
	p.mu.Unlock() // the answer comes during the write
	if r := p.request("change " + uuid); r.status != probePending {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.finish(r, now)
	}
}

// request writes the request. With probePending the answer decides; any other result is final.
func (p *probe) request(text string) probeResult {
	switch {
	case !p.environment.isSysfs(p.sysfs):
		return probeResult{status: receiving}
	case !p.environment.isWhole(p.sysfs):
		return probeResult{notReceiving, reasonPartialSysfs}
	case !p.environment.hasSyntheticEvents():
		return p.unanswered(unproven, cannotAsk+"it is older than 4.13")
	}
	if err := p.writer.Write(loFile, text); err != nil {
		klog.V(2).InfoS("Cannot probe which network namespace the sysfs belongs to", "err", err)
	}
	err := p.writer.Write(busFile, text)
	switch {
	case p.writer.DryRun():
		return probeResult{unproven, "a dry run does not request a uevent"}
	case err == nil:
		return probeResult{}
	}
	return p.unanswered(unproven, cannotAsk+err.Error())
}

// unanswered is the result without an answer. In a user namespace the reason is always the same.
func (p *probe) unanswered(status probeStatus, reason string) probeResult {
	if p.environment.inUserNamespace() {
		return probeResult{notReceiving, reasonUserNamespace}
	}
	return probeResult{status, reason}
}

// isAnswer reports whether the event answers the latest request, and takes note of it. It does not
// block.
func (p *probe) isAnswer(e *events.Event) bool {
	isBus := string(e.Path) == busPath
	if e.Origin != events.Uevent || !isBus && string(e.Path) != loPath {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.uuid == "" || string(e.Get("SYNTH_UUID")) != p.uuid {
		return false
	}
	switch {
	case !isBus:
		p.loSeen = true
	case p.loSeen && p.ownNetwork:
		p.finish(probeResult{notReceiving, reasonForeignSysfs}, e.Time)
	default:
		p.finish(probeResult{status: receiving}, e.Time)
	}
	return true
}

// finish ends the wait for an answer. p.mu is held.
func (p *probe) finish(r probeResult, now time.Time) {
	p.result, p.waiting, p.due = r, false, time.Time{}
	if r.status != receiving && !p.writer.DryRun() { // a dry run logs its requests once
		p.due = now.Add(probeRetry)
	}
}

// next is when turn has something to do; zero: never.
func (p *probe) next() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.due
}

// follow makes turn call wake when the result has changed. wake must not block.
func (p *probe) follow(wake func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakes = append(p.wakes, wake)
}

// turn does what is due, logs a new result, and wakes the loops that depend on it.
func (p *probe) turn(now time.Time) {
	p.mu.Lock()
	due := !p.due.IsZero() && !now.Before(p.due)
	send := due && !p.waiting
	if due && p.waiting {
		p.finish(p.unanswered(notReceiving, reasonNoAnswer), now)
	}
	before, r, wakes := p.logged, p.result, p.wakes
	p.logged = r
	p.mu.Unlock()
	if r != before {
		r.log(before.status)
		for _, wake := range wakes {
			wake()
		}
	}
	if send {
		p.send(now)
	}
}

func (r probeResult) log(before probeStatus) {
	switch r.status {
	case receiving:
		if before == notReceiving || before == unproven {
			klog.InfoS("Receiving kernel uevents now")
			return
		}
		klog.V(1).InfoS("Receiving kernel uevents")
	case unproven:
		klog.InfoS("Cannot verify that kernel uevents arrive, auditing the host more often meanwhile",
			"reason", r.reason)
	case notReceiving:
		klog.ErrorS(errors.New(r.reason), "Not receiving kernel uevents, auditing the host more often instead")
	}
}

// mayMissEvents reports whether uevents may be missed. Before the first answer it assumes not.
func (p *probe) mayMissEvents() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.result.status == notReceiving || p.result.status == unproven
}

// check returns an error while uevents are known to be missed, or before that is known.
func (p *probe) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.result.status {
	case probePending:
		return errors.New("the kernel has not answered with the requested uevent yet")
	case notReceiving:
		return errors.New(p.result.reason)
	}
	return nil
}

// newUUID makes a version 4 UUID (RFC 9562), the form that the kernel expects.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
