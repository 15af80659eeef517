package qat

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A share is how many VFs come from each PF.
type share map[Address]int

// shares are all the ways to take size VFs, those of must among them.
func (q *question) shares() (all []share) {
	free, must := q.free(), count(q.must, homeOf)
	pfs := slices.SortedFunc(maps.Keys(free), Address.Compare)
	var extend func(s share, i, rest int)
	extend = func(s share, i, rest int) {
		if i == len(pfs) {
			if rest == 0 {
				all = append(all, maps.Clone(s))
			}
			return
		}
		for n := must[pfs[i]]; n <= min(rest, free[pfs[i]]); n++ {
			s[pfs[i]] = n
			extend(s, i+1, rest-n)
		}
	}
	extend(share{}, 0, q.size)
	return all
}

// judge counts the PFs that a share touches, and those that it opens; spared says that one is opened though a PF in use has a VF left.
func (q *question) judge(s share) (touched, opened int, spared bool) {
	free, must := q.free(), count(q.must, homeOf)
	left := false
	for pf, n := range s {
		used := free[pf] < q.listed[pf] || must[pf] > 0
		if n > 0 {
			touched++
		}
		if n > 0 && !used {
			opened++
		}
		left = left || used && n < free[pf]
	}
	return touched, opened, left && opened > 0
}

// On one NUMA node, against every other way to take as many.
func TestPackedPolicyOpensAndTouchesTheFewestPFs(t *testing.T) {
	fresh := func(banks []bank) []bank { // nothing is handed out yet
		for i := range banks {
			banks[i].used = 0
		}
		return banks
	}
	for name, banks := range map[string]*rapid.Generator[[]bank]{
		"PFs in use": genBanks(0), "fresh PFs": rapid.Map(genBanks(0), fresh),
	} {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			q := ask(t, banks.Draw(t, "banks"), Packed, name != "fresh PFs")
			touched, opened, spared := q.judge(share(count(q.answer, homeOf)))
			if spared {
				t.Fatalf("a PF is opened while one in use has a free VF: %v", q.answer)
			}
			for _, other := range q.shares() {
				otherTouched, otherOpened, spares := q.judge(other)
				if otherOpened < opened {
					t.Fatalf("%d PFs are opened, %v opens %d: %v", opened, other, otherOpened, q.answer)
				}
				// Where PFs are in use, filling them comes first, though it may mean one more PF than to begin with a new one.
				if otherTouched < touched && (!spares || name == "fresh PFs") {
					t.Fatalf("%d PFs are touched, %v touches %d: %v", touched, other, otherTouched, q.answer)
				}
			}
		}))
	}
}
