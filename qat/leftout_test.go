package qat

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
)

func TestALastingReasonNotToListAVFIsToldOnce(t *testing.T) {
	a, b := Address{Bus: 1}, Address{Bus: 2}
	const held, waits, hidden = "driver x holds it", "waiting for vfio-pci to take it", "hidden by -max-num-devices=1"
	start := time.Unix(1000, 0)
	var l leftOut
	for i, step := range []struct {
		after time.Duration
		left  map[Address]string
		want  map[string][]Address
	}{
		{0, map[Address]string{a: waits, b: waits}, nil},
		{leftOutSettle - 1, map[Address]string{a: held, b: waits}, nil},
		{leftOutSettle, map[Address]string{a: held}, map[string][]Address{held: {a}}}, // b was listed in between
		{time.Minute, map[Address]string{a: held}, nil},
		{2 * time.Minute, map[Address]string{a: waits}, nil}, // another try, that comes to nothing
		{2*time.Minute + leftOutSettle, map[Address]string{a: held}, map[string][]Address{}},
		{3 * time.Minute, map[Address]string{a: held, b: hidden}, nil},
		{3*time.Minute + leftOutSettle, map[Address]string{a: held, b: hidden}, map[string][]Address{hidden: {b}}},
		{4 * time.Minute, nil, nil},
		{4*time.Minute + leftOutSettle, nil, map[string][]Address{}},
		{5 * time.Minute, map[Address]string{a: held}, nil},
		{5*time.Minute + leftOutSettle, map[Address]string{a: held}, map[string][]Address{held: {a}}}, // it came back
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
	news := l.left.turn(l.fold.left, now.Add(leftOutSettle))
	if len(news["driver vfio-pci does not hold it, and -bind=false leaves that to others"]) != 1 {
		t.Errorf("told %v, want the VF and that nobody bound it", news)
	}
}
