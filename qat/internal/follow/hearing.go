package follow

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
)

const (
	// hearPatience is how long the kernel's answer may take. It takes microseconds; on a machine that is busy to the limit, longer.
	hearPatience = 5 * time.Second
	// hearAgain is when who does not hear asks again.
	hearAgain = 30 * time.Second
)

// What is asked, and the DEVPATH of what answers. The bus's event goes to every network namespace of the first user namespace; that of lo goes
// only to the network namespace that the sysfs belongs to (lib/kobject_uevent.c, kobject_uevent_net_broadcast). Neither is a device that
// anybody does something about.
const (
	busFile, busPath = "bus/pci/uevent", "/bus/pci"
	loFile, loPath   = "class/net/lo/uevent", "/devices/virtual/net/lo"
)

// Reasons for deafness, each with what to do about it.
const (
	deafUserNamespace = "this process is in a user namespace, which the kernel's events do not reach: leave the pod's hostUsers on"
	deafForeignSysfs  = "the sysfs is not the host's but that of this network namespace, where nothing is heard of what is written on the host: mount the host's /sys"
	deafParts         = "only parts of the host's sysfs are mounted, so that nothing is heard of what is written to the devices: mount the host's /sys, whole"
	deafUnknown       = "the kernel did not answer with the event that it was asked for"
)

// Hearing tells whether what happens on the host reaches this process. A socket that opens proves nothing: in a user namespace it stays
// silent for good, and a sysfs that is not the host's tells of no write. So the kernel is asked for an event that must come back
// (Documentation/ABI/testing/sysfs-uevent). On an ordinary directory, a look-alike host, there is nothing to ask: inotify tells everything.
//
// Ask and Turn are for the goroutine of the loop, Hear is for those of the sources, and everything else for any.
type Hearing struct {
	Closed atomic.Int32 // sources that are not open

	sysfs string
	write Writer
	world surroundings
	wake  chan struct{} // holds a signal when there is a new verdict

	mu       sync.Mutex
	question string    // SYNTH_UUID of the newest one
	patience time.Time // when silence becomes deafness; zero: no answer is awaited
	again    time.Time // when to ask again; zero: never
	own      bool      // lo answered: the sysfs belongs to this process's network namespace
	finding  finding
	said     finding // what the log was told last
}

// finding is what is known of the hearing.
type finding struct {
	verdict verdict
	reason  string // why it does not hear, or may not
}

type verdict uint8

const (
	unasked  verdict = iota // there was no answer yet
	hears                   // the answer came, or none is needed
	unproven                // the kernel could not be asked
	deaf                    // nothing is heard, or not all
)

// NewHearing asks nothing yet.
func NewHearing(sysfs string, write Writer) *Hearing {
	return &Hearing{sysfs: sysfs, write: write, world: process{}, wake: make(chan struct{}, 1)}
}

// Ask asks the kernel for an event. The sources must be open, or the answer will be missed. The answer to an older question counts no longer,
// nor is it waited for: who asks again has reason to, as after a loss, which may have been that of the answer.
func (h *Hearing) Ask(now time.Time) {
	question := newUUID()
	h.mu.Lock()
	h.question, h.own, h.again, h.patience = question, false, time.Time{}, now.Add(hearPatience)
	h.mu.Unlock()
	if f := h.ask("change " + question); f.verdict != unasked { // without the lock: the answer comes while it is written
		h.mu.Lock()
		defer h.mu.Unlock()
		h.conclude(f, now)
	}
}

// ask writes the question. What it finds is final, but for unasked: then the answer decides.
func (h *Hearing) ask(question string) finding {
	switch {
	case !h.world.isSysfs(h.sysfs):
		return finding{verdict: hears}
	case !h.world.whole(h.sysfs):
		return finding{deaf, deafParts}
	case !h.world.answers():
		return h.unaskable("it is older than 4.13")
	}
	if err := h.write.Write(loFile, question); err != nil {
		klog.V(2).InfoS("Cannot ask whose the sysfs is", "err", err)
	}
	err := h.write.Write(busFile, question)
	switch {
	case h.write.Dry:
		return finding{unproven, "a dry run does not ask the kernel for an event"}
	case err == nil:
		return finding{}
	}
	return h.unaskable(err.Error())
}

// unaskable is what is known when the kernel cannot be asked.
func (h *Hearing) unaskable(why string) finding {
	if h.world.inUserNamespace() {
		return finding{deaf, deafUserNamespace}
	}
	return finding{unproven, "the kernel cannot be asked for an event: " + why}
}

// Hear tells whether the event is an answer. It is called by the readers of sockets and does not make them wait.
func (h *Hearing) Hear(e *events.Event) bool {
	isBus := string(e.Path) == busPath
	if e.Origin != events.Uevent || !isBus && string(e.Path) != loPath {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.question == "" || string(e.Get("SYNTH_UUID")) != h.question {
		return false
	}
	switch {
	case !isBus:
		h.own = true
	case h.own && !h.world.inFirstNetworkNamespace():
		h.conclude(finding{deaf, deafForeignSysfs}, e.Time)
	default:
		h.conclude(finding{verdict: hears}, e.Time)
	}
	return true
}

// conclude ends the wait for an answer. The lock is held.
func (h *Hearing) conclude(f finding, now time.Time) {
	h.finding, h.patience, h.again = f, time.Time{}, time.Time{}
	if f.verdict != hears && !h.write.Dry { // a dry run says once what it would ask
		h.again = now.Add(hearAgain)
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Wake holds a signal when Turn has something to say.
func (h *Hearing) Wake() <-chan struct{} { return h.wake }

// Due is when Turn has something to do; zero: never.
func (h *Hearing) Due() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.patience.IsZero() {
		return h.patience
	}
	return h.again
}

// Turn does what is due, and logs what is new.
func (h *Hearing) Turn(now time.Time) {
	h.mu.Lock()
	if !h.patience.IsZero() && !now.Before(h.patience) {
		reason := deafUnknown
		if h.world.inUserNamespace() {
			reason = deafUserNamespace
		}
		h.conclude(finding{deaf, reason}, now)
	}
	ask := !h.again.IsZero() && !now.Before(h.again)
	before, f := h.said, h.finding
	h.said = f
	h.mu.Unlock()
	if f != before {
		f.log(before.verdict)
	}
	if ask {
		h.Ask(now)
	}
}

func (f finding) log(before verdict) {
	switch f.verdict {
	case hears:
		if before == deaf || before == unproven {
			klog.InfoS("The kernel's events are heard now")
			return
		}
		klog.V(1).InfoS("The kernel's events are heard")
	case unproven:
		klog.InfoS("It is not proven that the kernel's events are heard, looking at everything more often meanwhile", "reason", f.reason)
	case deaf:
		klog.ErrorS(errors.New(f.reason), "Deaf to what happens on the host, looking at everything more often instead")
	}
}

// Limited tells whether something may happen unheard. Until the first answer it is taken for heard.
func (h *Hearing) Limited() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.Closed.Load() > 0 || h.finding.verdict == deaf || h.finding.verdict == unproven
}

// check is an error while something is known to happen unheard, or before that is known.
func (h *Hearing) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.Closed.Load() > 0:
		return errors.New("a source of events cannot be opened; the log says why")
	case h.finding.verdict == unasked:
		return errors.New("the kernel has not answered yet")
	case h.finding.verdict == deaf:
		return errors.New(h.finding.reason)
	}
	return nil
}

// newUUID makes one of version 4 (RFC 9562), the form that the kernel asks for.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
