package follow

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/events"
)

// The answer can be lost: a source that broke was closed when it came, and an overflow of the socket drops what comes until all is read. Each ends
// in a Resync, which asks anew. That is no deafness.
func TestAnAnswerThatWasLostIsAskedForAnew(t *testing.T) {
	l := newListening(t, world{})
	l.Ask(l.now)
	lost := l.question(busFile)
	l.pass(hearPatience - time.Second)
	l.Ask(l.now)
	if l.question(busFile) == lost || l.question(loFile) != l.question(busFile) {
		t.Errorf("lo was asked %q and the bus %q, want another question than %q of both", l.question(loFile), l.question(busFile), lost)
	}
	l.pass(2 * time.Second) // the patience with the first is over
	if l.finding.verdict != unasked || l.Limited() {
		t.Errorf("found %+v, limited %v; want an open question", l.finding, l.Limited())
	}
	l.answer(busPath, l.question(busFile))
	l.pass(hearPatience)
	if l.finding.verdict != hears || !l.Due().IsZero() {
		t.Errorf("found %+v, next %v; want hears and no timer", l.finding, l.Due())
	}
}

// What lo answered to one question says nothing of the next: the host's sysfs may have been mounted since.
func TestEachQuestionFindsOutAnewWhoseTheSysfsIs(t *testing.T) {
	l := newListening(t, world{netns: true})
	l.Ask(l.now)
	l.answer(loPath, l.question(loFile))
	l.answer(busPath, l.question(busFile))
	if l.finding != (finding{deaf, deafForeignSysfs}) {
		t.Fatalf("found %+v, want deaf for a sysfs of its own", l.finding)
	}
	l.pass(hearAgain)
	l.answer(busPath, l.question(busFile))
	if l.finding.verdict != hears {
		t.Errorf("found %+v, want hears", l.finding)
	}
}

// The bus's answer is the last word, so lo must have been asked by then.
func TestLoIsAskedFirst(t *testing.T) {
	l := newListening(t, world{})
	var asked []string
	l.write.Note = func(file, _ string) { asked = append(asked, file) }
	l.Ask(l.now)
	if diff := cmp.Diff([]string{loFile, busFile}, asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func TestOnlyAUeventIsAnAnswer(t *testing.T) {
	l := newListening(t, world{})
	l.Ask(l.now)
	question := "SYNTH_UUID=" + l.question(busFile)
	for name, e := range map[string]*events.Event{
		"an event without a UUID":           uevent(t, busPath),
		"another device's with the UUID":    uevent(t, "/devices/pci0000:6b/0000:6b:00.1", question),
		"what inotify tells under its name": uevent(t, busPath, question),
	} {
		if strings.Contains(name, "inotify") {
			e.Origin = events.Inotify
		}
		if l.Hear(e) || l.finding.verdict != unasked {
			t.Errorf("%s is taken for an answer", name)
		}
	}
}

// Any process that may write to sysfs can cause a bus event, with a UUID of its own or without one.
func TestBusEventBeforeTheFirstQuestionIsNoAnswer(t *testing.T) {
	for name, variables := range map[string][]string{
		"without a UUID": nil, "with an empty UUID": {"SYNTH_UUID="}, "with another UUID": {"SYNTH_UUID=" + newUUID()},
	} {
		for _, path := range []string{busPath, loPath} {
			l := newListening(t, world{netns: true})
			if l.Hear(uevent(t, path, variables...)) || l.check() == nil {
				t.Errorf("event of %[2]s %[1]s: taken for an answer", name, path)
			}
			l.Ask(l.now)
			if l.answer(busPath, l.question(busFile)); l.check() != nil {
				t.Errorf("event of %[2]s %[1]s, then the answer: %[3]v", name, path, l.check())
			}
		}
	}
}

// Each event of the host comes by Hear.
func TestHearAllocatesNothing(t *testing.T) {
	l := newListening(t, world{})
	l.Ask(l.now)
	for name, path := range map[string]string{"a function's": "/devices/pci0000:6b/0000:6b:00.1", "the bus's": busPath, "lo's": loPath} {
		e := uevent(t, path, "SYNTH_UUID="+l.question(busFile))
		if n := testing.AllocsPerRun(100, func() { l.Hear(e) }); n > 0 {
			t.Errorf("to hear an event of %s allocates %v times, want 0", name, n)
		}
	}
}
