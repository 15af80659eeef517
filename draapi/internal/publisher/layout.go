// SPDX-License-Identifier: Apache-2.0

package publisher

import (
	"cmp"
	"slices"
)

// maxDevices is the number of devices in a slice. The API allows 128, but only 64 as soon as one
// device has a taint, and then it refuses the slice as a whole
// (k8s.io/api/resource/v1, ResourceSliceMaxDevicesWithAdvancedFeatures).
const maxDevices = 64

// A layout says which slice each device is in. It does not change.
type layout struct {
	separate int            // groups do not share a slice before there are so many slices
	count    int            // of slices; some may be empty
	number   map[string]int // of the slice, by the name of the device
}

// A member is a device to place.
type member struct {
	name  string
	group string // devices with the same group are placed together; a device without one is alone
}

// place returns the layout of the devices as the successor of l:
//
//   - A group of at most maxDevices is in one slice. A larger one has slices of its own.
//   - A new group gets a slice of its own while there are fewer than separate slices with devices.
//   - A device stays in its slice, unless its group becomes too large for it. The group then moves.
//   - The number of slices never decreases.
func (l layout) place(members []member) layout {
	next := layout{separate: l.separate, count: l.count, number: make(map[string]int, len(members))}
	used := make([]int, l.count) // devices in each slice, where next or else l has them
	groups := map[string]*group{}
	for _, m := range members {
		key := "group/" + m.group
		if m.group == "" {
			key = "device/" + m.name
		}
		g := groups[key]
		if g == nil {
			g = &group{key: key, isNamed: m.group != "", in: map[int]int{}}
			groups[key] = g
		}
		g.names = append(g.names, m.name)
		if s, placed := l.number[m.name]; placed {
			used[s]++
			g.in[s]++
		}
	}
	order := make([]*group, 0, len(groups))
	for _, g := range groups {
		order = append(order, g)
	}
	// Groups with slices of their own come first, then those that are placed, as they may grow
	// where they are, and then new ones.
	slices.SortFunc(order, func(a, b *group) int {
		return cmp.Or(-compareBool(a.isLarge(), b.isLarge()), -compareBool(len(a.in) > 0, len(b.in) > 0),
			cmp.Compare(a.key, b.key))
	})

	closed := map[int]bool{} // slices of large groups
	put := func(name string, s int) {
		for s >= next.count {
			next.count++
			used = append(used, 0)
		}
		if old, placed := l.number[name]; placed {
			used[old]--
		}
		used[s]++
		next.number[name] = s
	}
	for _, g := range order {
		if !g.isLarge() {
			home := g.home(used, closed, l.separate)
			for _, name := range g.names {
				put(name, home)
			}
			continue
		}
		own := 0 // the next slice to look at
		for s, n := range g.in {
			closed[s] = closed[s] || used[s] == n
		}
		var moving []string
		for _, name := range g.names {
			if s, placed := l.number[name]; placed && closed[s] {
				next.number[name] = s
			} else {
				moving = append(moving, name)
			}
		}
		for _, name := range moving {
			for own < len(used) && (used[own] >= maxDevices || used[own] > 0 && (!closed[own] || g.in[own] == 0)) {
				own++
			}
			closed[own] = true
			g.in[own]++
			put(name, own)
		}
	}
	return next
}

// trim returns l without the empty slices at its end.
func (l layout) trim() layout {
	l.count = 0
	for _, s := range l.number {
		l.count = max(l.count, s+1)
	}
	return l
}

// A group is placed together.
type group struct {
	key     string
	isNamed bool // false: of one device that belongs to no group
	names   []string
	in      map[int]int // how many devices are in which slice before
}

func (g *group) isLarge() bool { return len(g.names) > maxDevices }

// home returns the slice for a group that is not large: the one that has most of it, if it has room
// for the rest, or else an empty one while fewer than separate have devices, or else the first one
// that has room. used are the devices in each slice, including those of the group. closed are
// slices that the group must not use.
func (g *group) home(used []int, closed map[int]bool, separate int) int {
	best := -1
	for s, n := range g.in {
		if closed[s] || used[s]-n+len(g.names) > maxDevices {
			continue
		}
		if best < 0 || n > g.in[best] || n == g.in[best] && s < best {
			best = s
		}
	}
	if best >= 0 {
		return best
	}
	if g.isNamed {
		occupied, empty := 0, len(used)
		for s := range used {
			switch {
			case used[s] > g.in[s]:
				occupied++
			case !closed[s]:
				empty = min(empty, s)
			}
		}
		if occupied < separate {
			return empty
		}
	}
	for s := range used {
		if !closed[s] && used[s]-g.in[s]+len(g.names) <= maxDevices {
			return s
		}
	}
	return len(used)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
