package qat

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
)

func TestALastingReasonNotToListAVFIsToldOnce(t *testing.T) {
	a, b := Address{Bus: 1}, Address{Bus: 2}
	const held, hidden = "driver x holds it", "hidden by -max-num-devices=1"
	const told = leftOutSettle + leftOutGather
	start := time.Unix(1000, 0)
	l := leftOut{vfs: map[Address]omission{}}
	for i, step := range []struct {
		after time.Duration
		left  map[Address]string
		want  map[string][]Address
	}{
		{0, map[Address]string{a: "waits", b: "waits"}, nil},
		{time.Second, map[Address]string{a: held, b: "waits"}, nil},
		{told - 1, map[Address]string{a: held}, nil}, // b is listed
		{told, map[Address]string{a: held}, nil},     // that is not how long a is held
		{time.Second + told - 1, map[Address]string{a: held}, nil},
		{time.Second + told, map[Address]string{a: held}, map[string][]Address{held: {a}}},
		{time.Minute, map[Address]string{a: held}, nil},
		{2 * time.Minute, map[Address]string{a: held, b: hidden}, nil},
		{2*time.Minute + told - leftOutSettle + 1, map[Address]string{a: "for a moment", b: hidden}, nil},
		{2*time.Minute + told, map[Address]string{a: "for a moment", b: hidden}, map[string][]Address{hidden: {b}}},
		{2*time.Minute + told + 1, map[Address]string{a: held, b: hidden}, nil},
		{3 * time.Minute, nil, nil},
		{4 * time.Minute, map[Address]string{a: held}, nil}, // it came back
		{4*time.Minute + told, map[Address]string{a: held}, map[string][]Address{held: {a}}},
	} {
		got := l.turn(step.left, start.Add(step.after))
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
	if !l.at.IsZero() {
		t.Errorf("a timer is left for %v though nothing is to be told", l.at)
	}
}

// VFs that no driver takes are bound again and again, each in its own time, and wait for the driver meanwhile. The log is told that they cannot be
// bound, and nothing of the tries.
func TestFurtherTriesToBindAreNotTold(t *testing.T) {
	tried := bindPatience // how long one takes that comes to nothing
	for _, wait := range askAgain {
		tried += wait
	}
	const waits, refused = "waiting for vfio-pci to take it", "bind to vfio-pci: refused"
	start, now := time.Unix(1000, 0), time.Unix(1000, 0)
	l := leftOut{vfs: map[Address]omission{}}
	told := map[string]int{} // reason → VFs
	lines := 0
	for now.Before(start.Add(20 * time.Minute)) {
		left := map[Address]string{}
		for i := range 16 {
			at, wait := start.Add(time.Duration(i)*100*time.Millisecond), bindBackOff // when a try begins, and how long after it the next
			for now.After(at.Add(tried + wait)) {
				at, wait = at.Add(tried+wait), min(2*wait, bindBackOffMax)
			}
			left[Address{Function: uint8(i)}] = refused
			if now.Before(at.Add(tried)) {
				left[Address{Function: uint8(i)}] = waits
			}
		}
		for why, vfs := range l.turn(left, now) {
			told[why] += len(vfs)
			lines++
		}
		now = now.Add(100 * time.Millisecond)
	}
	if diff := cmp.Diff(map[string]int{refused: 16}, told); diff != "" {
		t.Errorf("told of so many VFs (-want +got):\n%s", diff)
	}
	if lines > 4 {
		t.Errorf("%d lines, want those of a PF's VFs gathered", lines)
	}
}

func TestTheLoopWakesToTellWhatIsNotListed(t *testing.T) {
	h := lookalike.Start(t)
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.AddVF(lookalike.VF{Address: "0000:6b:00.1", PF: pfA}))
	p, err := New(Config{SysfsRoot: h.Sysfs(), DevRoot: h.Dev(), ObserveOnly: true, HealthInterval: -1, AuditInterval: -1})
	must(t, err)
	l := newLoop(p, nil)
	l.fold, l.seen = newFoldOf(h, 0), nil
	l.fold.binder.observe = true
	now := time.Unix(1000, 0)
	l.lookAtAll(now)
	if news := l.left.turn(l.fold.left, now); news != nil || l.left.at.IsZero() || !l.next().Equal(l.left.at) {
		t.Fatalf("told %v at once; next turn at %v, to tell at %v", news, l.next(), l.left.at)
	}
	news := l.left.turn(l.fold.left, l.left.at)
	if len(news["driver vfio-pci does not hold it, and -bind=false leaves that to others"]) != 1 {
		t.Errorf("told %v, want the VF and that nobody bound it", news)
	}
}
