package follow

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"qatplugin/events"
)

// world is what the test says of where the process runs.
type world struct{ ordinary, parts, old, user, netns bool }

func (w world) isSysfs(string) bool           { return !w.ordinary }
func (w world) whole(string) bool             { return !w.parts }
func (w world) answers() bool                 { return !w.old }
func (w world) inUserNamespace() bool         { return w.user }
func (w world) inFirstNetworkNamespace() bool { return !w.netns }

// A listening is a Hearing on a directory whose two files take what is asked.
type listening struct {
	t *testing.T
	*Hearing
	dir string
	now time.Time
}

func newListening(t *testing.T, w world) *listening {
	t.Helper()
	l := &listening{t: t, dir: t.TempDir(), now: time.Unix(1000, 0)}
	for _, file := range []string{busFile, loFile} {
		if err := os.MkdirAll(filepath.Join(l.dir, filepath.Dir(file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l.dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l.Hearing = NewHearing(l.dir, Writer{Root: l.dir})
	l.world = w
	return l
}

// question is what was written to the file last, without "change ".
func (l *listening) question(file string) string {
	l.t.Helper()
	text, err := os.ReadFile(filepath.Join(l.dir, file))
	if err != nil {
		l.t.Fatal(err)
	}
	question, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "change ")
	if !ok {
		l.t.Fatalf("%s was asked %q, want a change with a UUID", file, text)
	}
	return question
}

// answer is the kernel's event, as it writes it (lib/kobject_uevent.c, kobject_synth_uevent).
func (l *listening) answer(path, question string) bool {
	l.t.Helper()
	e := uevent(l.t, path, "SYNTH_UUID="+question)
	e.Time = l.now
	return l.Hear(e)
}

// uevent is an event of the kernel with these variables besides those that each has.
func uevent(t *testing.T, path string, variables ...string) *events.Event {
	t.Helper()
	e := &events.Event{}
	message := strings.Join(append([]string{"change@" + path, "ACTION=change", "DEVPATH=" + path, "SUBSYSTEM=bus"}, append(variables, "SEQNUM=7", "")...), "\x00")
	if err := events.ParseUevent(e, []byte(message)); err != nil {
		t.Fatal(err)
	}
	return e
}

func (l *listening) pass(d time.Duration) {
	l.now = l.now.Add(d)
	l.Turn(l.now)
}

func TestWhatIsFoundOfTheHearing(t *testing.T) {
	both := func(l *listening) {
		l.answer(loPath, l.question(loFile))
		l.answer(busPath, l.question(busFile))
	}
	bus := func(l *listening) { l.answer(busPath, l.question(busFile)) }
	for name, tt := range map[string]struct {
		world  world
		before func(l *listening) // before the question
		answer func(l *listening)
		want   finding
	}{
		"on the host both answer":                                {answer: both, want: finding{verdict: hears}},
		"in a pod with the host's sysfs only the bus answers":    {world: world{netns: true}, answer: bus, want: finding{verdict: hears}},
		"in a pod with a sysfs of its own both answer":           {world: world{netns: true}, answer: both, want: finding{deaf, deafForeignSysfs}},
		"in a user namespace nothing answers":                    {world: world{user: true}, want: finding{deaf, deafUserNamespace}},
		"nothing answers for a reason that is not known":         {want: finding{deaf, deafUnknown}},
		"only lo answers, which other processes can bring about": {answer: func(l *listening) { l.answer(loPath, l.question(loFile)) }, want: finding{deaf, deafUnknown}},
		"somebody else's question is answered":                   {answer: func(l *listening) { l.answer(busPath, newUUID()) }, want: finding{deaf, deafUnknown}},
		"parts of the host's sysfs":                              {world: world{parts: true}, want: finding{deaf, deafParts}},
		"a kernel that knows no questions":                       {world: world{old: true}, want: finding{unproven, "the kernel cannot be asked for an event: it is older than 4.13"}},
		"such a kernel, in a user namespace":                     {world: world{old: true, user: true}, want: finding{deaf, deafUserNamespace}},
		"an ordinary directory is not asked":                     {world: world{ordinary: true, user: true}, want: finding{verdict: hears}},
		"a dry run asks nothing":                                 {before: func(l *listening) { l.write.Dry = true }, want: finding{unproven, "a dry run does not ask the kernel for an event"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newListening(t, tt.world)
			if tt.before != nil {
				tt.before(l)
			}
			l.Ask(l.now)
			if tt.answer != nil {
				tt.answer(l)
			}
			l.pass(hearPatience)
			if l.finding != tt.want {
				t.Errorf("found %+v, want %+v", l.finding, tt.want)
			}
			wantLimited := tt.want.verdict != hears
			if l.Limited() != wantLimited {
				t.Errorf("limited: %v, want %v", l.Limited(), wantLimited)
			}
			if err := l.check(); (err != nil) != (tt.want.verdict == deaf) {
				t.Errorf("check = %v; want an error only when it is deaf", err)
			}
			if again := l.Due(); again.IsZero() == (wantLimited && !l.write.Dry) {
				t.Errorf("it asks again at %v; want that just when it does not hear, and may ask", again)
			}
		})
	}
}

func TestAKernelThatCannotBeAskedIsNoProof(t *testing.T) {
	l := newListening(t, world{})
	if err := os.Remove(filepath.Join(l.dir, busFile)); err != nil {
		t.Fatal(err)
	}
	l.Ask(l.now)
	if l.finding.verdict != unproven || !strings.Contains(l.finding.reason, busFile) {
		t.Errorf("found %+v, want unproven and the file's name", l.finding)
	}
	l.world = world{user: true}
	l.pass(hearAgain)
	if l.finding != (finding{deaf, deafUserNamespace}) {
		t.Errorf("in a user namespace: found %+v, want deaf", l.finding)
	}
}

func TestNothingIsConcludedBeforePatienceEnds(t *testing.T) {
	l := newListening(t, world{})
	l.Ask(l.now)
	l.pass(hearPatience - time.Nanosecond)
	if l.finding.verdict != unasked || l.Limited() || l.check() == nil {
		t.Errorf("found %+v, limited %v, check %v; want an open question, nothing limited, and not well yet", l.finding, l.Limited(), l.check())
	}
	l.pass(time.Nanosecond)
	if l.finding.verdict != deaf {
		t.Errorf("found %+v, want deaf", l.finding)
	}
}

func TestWakeSaysThatThereIsAVerdict(t *testing.T) {
	l := newListening(t, world{})
	l.Ask(l.now)
	select {
	case <-l.Wake():
		t.Fatal("a signal came without a verdict")
	default:
	}
	l.answer(busPath, l.question(busFile))
	select {
	case <-l.Wake():
	default:
		t.Error("no signal came with the verdict")
	}
}

// Turn is called at each event; what it found it says once.
func TestAVerdictIsLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	state := klog.CaptureState()
	defer state.Restore()
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", &log) // which gets the errors, too
	l := newListening(t, world{})
	said := func() []string {
		klog.Flush()
		defer log.Reset()
		var lines []string
		for line := range strings.Lines(log.String()) {
			_, line, _ = strings.Cut(strings.TrimSpace(line), "] ")
			lines = append(lines, line)
		}
		return lines
	}
	var got [][]string
	for _, do := range []func(){
		func() { l.Ask(l.now); l.pass(0) },
		func() { l.pass(hearPatience) },
		func() { l.pass(time.Second); l.pass(hearAgain); l.pass(hearPatience); l.pass(hearAgain) }, // still deaf
		func() { l.answer(busPath, l.question(busFile)); l.pass(0); l.pass(time.Second) },
		func() { l.Ask(l.now); l.answer(busPath, l.question(busFile)); l.pass(0) },
	} {
		do()
		got = append(got, said())
	}
	want := [][]string{
		nil, {`"Deaf to what happens on the host, looking at everything more often instead" err="` + deafUnknown + `"`}, nil, {`"The kernel's events are heard now"`}, nil,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("logged (-want +got):\n%s", diff)
	}
}

func TestWhoIsDeafAsksAgainAndHearsALateAnswer(t *testing.T) {
	l := newListening(t, world{})
	l.Ask(l.now)
	first := l.question(busFile)
	l.pass(hearPatience)
	if !l.answer(busPath, first) || l.finding.verdict != hears {
		t.Errorf("a late answer: found %+v, want hears", l.finding)
	}
	l.Ask(l.now) // as after a loss
	if l.question(busFile) == first {
		t.Fatal("a new question is the old one")
	}
	l.pass(hearPatience)
	if l.answer(busPath, first) {
		t.Error("the answer to an old question counts")
	}
	before := l.question(busFile)
	l.pass(hearAgain)
	if l.question(busFile) == before {
		t.Error("who is deaf does not ask again")
	}
	l.answer(busPath, l.question(busFile))
	if l.finding.verdict != hears || !l.Due().IsZero() {
		t.Errorf("found %+v, next %v; want hears and no timer", l.finding, l.Due())
	}
}

func TestASourceThatIsNotOpenLimitsTheHearing(t *testing.T) {
	l := newListening(t, world{ordinary: true})
	l.Ask(l.now)
	l.Closed.Add(1)
	if !l.Limited() || l.check() == nil {
		t.Error("all is taken for heard though a source is not open")
	}
	l.Closed.Add(-1)
	if l.Limited() || l.check() != nil {
		t.Errorf("with all sources open: %v", l.check())
	}
}

// The kernel refuses what is not of the form 8-4-4-4-12 (lib/kobject_uevent.c, action_arg_word_end and uuid_is_valid).
func TestAQuestionIsAUUID(t *testing.T) {
	seen := map[string]bool{}
	for range 100 { // of random bits, some would be right by chance
		question := newUUID()
		checkUUID(t, question)
		if seen[question] {
			t.Errorf("question %q comes again", question)
		}
		seen[question] = true
	}
}

func checkUUID(t *testing.T, question string) {
	t.Helper()
	groups := strings.Split(question, "-")
	for i, want := range []int{8, 4, 4, 4, 12} {
		if len(groups) != 5 || len(groups[i]) != want || strings.Trim(groups[i], "0123456789abcdef") != "" {
			t.Fatalf("question %q, want five groups of 8, 4, 4, 4 and 12 hexadecimal digits", groups)
		}
	}
	if groups[2][0] != '4' || !strings.ContainsAny(groups[3][:1], "89ab") {
		t.Errorf("question %q, want version 4 of variant 10", groups)
	}
}
