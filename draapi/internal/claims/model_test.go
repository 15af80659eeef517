// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/draapi/internal/inventory"
)

// TestTwoProcessesAgreeOnClaims makes two processes prepare and unprepare claims in any order,
// while devices come and go, claims are allocated again, and the processes restart. A model says
// what each call must do, and what both know after they have read the files.
func TestTwoProcessesAgreeOnClaims(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "claims")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		var (
			all       = []string{"1", "2", "3", "4"}
			present   = slices.Clone(all)
			stores    = []*testStore{newStore(t, dir, all...), newStore(t, dir, all...)}
			allocated = map[string][]string{} // what the API server says, by claim
			prepared  = map[string][]string{} // what must be prepared
		)
		allocate := func(name string) {
			devices := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 1, 2, rapid.ID).Draw(rt, "devices")
			allocated[name] = devices
			for _, s := range stores {
				s.allocate(name, "uid-"+name, devices...)
			}
		}
		for _, name := range []string{"a", "b", "c"} {
			allocate(name)
		}
		steps := rapid.SampledFrom([]string{"prepare", "prepare", "unprepare", "allocate", "devices", "restart"})
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "claim")
			k := rapid.IntRange(0, 1).Draw(rt, "process")
			ref := Ref{"default", name, "uid-" + name}
			switch steps.Draw(rt, "step") {
			case "prepare":
				want := canPrepare(name, allocated, prepared, present)
				c, err := stores[k].Prepare(t.Context(), ref)
				if (err == nil) != want {
					rt.Fatalf("prepare %s with %v: %v, want success %t; prepared %v, devices %v",
						name, allocated[name], err, want, prepared, present)
				}
				if err != nil {
					break
				}
				var got []string
				for i := range c.Devices {
					got = append(got, c.Devices[i].ID)
				}
				if diff := cmp.Diff(allocated[name], got); diff != "" {
					rt.Fatalf("devices of the answer (-want +got):\n%s", diff)
				}
				prepared[name] = allocated[name]
			case "unprepare":
				if _, err := stores[k].Unprepare(t.Context(), ref); err != nil {
					rt.Fatal(err)
				}
				delete(prepared, name)
			case "allocate":
				allocate(name)
			case "devices":
				present = rapid.SliceOfDistinct(rapid.SampledFrom(all), rapid.ID).Draw(rt, "present")
				for _, s := range stores {
					s.setDevices(present...)
				}
			case "restart":
				objects := stores[k].objects
				stores[k] = newStore(t, dir, present...)
				stores[k].objects = objects
			}
			want := map[string]string{}
			for name, devices := range prepared {
				for _, d := range devices {
					want[d] = "default/" + name
				}
			}
			for _, s := range stores {
				if err := s.Load(); err != nil {
					rt.Fatal(err)
				}
				holders, err := s.Holders()
				if diff := cmp.Diff(want, holders); diff != "" || err != nil {
					rt.Fatalf("holders (-want +got):\n%s%v", diff, err)
				}
				if held := slices.Sorted(maps.Keys(s.Held())); !slices.Equal(held, slices.Sorted(maps.Keys(want))) {
					rt.Fatalf("held %v, want %v", held, want)
				}
			}
		}
	})
}

// canPrepare reports whether the model allows the claim to be prepared.
func canPrepare(name string, allocated, prepared map[string][]string, present []string) bool {
	if slices.Equal(allocated[name], prepared[name]) {
		return true // even if the devices have gone
	}
	for _, d := range allocated[name] {
		if !slices.Contains(present, d) {
			return false
		}
		for other, devices := range prepared {
			if other != name && slices.Contains(devices, d) {
				return false
			}
		}
	}
	return true
}

// FuzzFileOfAClaim reads files that other programs have written.
func FuzzFileOfAClaim(f *testing.F) {
	dir := f.TempDir()
	s := newStore(f, dir, "1")
	s.mustPrepare(s.allocate("a", "uid-a", "1"))
	written, err := os.ReadFile(s.path("uid-a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(written)
	f.Add([]byte(`{"annotations":{"color.example.com/claim":"{\"uid\":\"uid-a\",\"devices\":[{}]}"}}`))
	f.Add([]byte(`{"annotations":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, driver+"-claim-uid-a.json"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		s := newStore(t, dir, "1")
		if err := s.Load(); err != nil {
			t.Fatal(err)
		}
		for _, c := range s.List() {
			if c.UID != "uid-a" || len(c.Devices) == 0 {
				t.Errorf("claim %+v", c)
			}
		}
		inventory.New(nil, nil, s.Held())
		if _, err := s.Holders(); err != nil {
			t.Error(err)
		}
		s.mustUnprepare(Ref{"default", "a", "uid-a"})
		if len(s.List()) > 0 {
			t.Errorf("claims after unprepare: %v", s.List())
		}
	})
}

// BenchmarkPrepare prepares and unprepares a claim on a node with other prepared claims. Most of
// the time is the write of the file.
func BenchmarkPrepare(b *testing.B) {
	for _, others := range []int{0, 100} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			var devices []string
			for i := range others + 1 {
				devices = append(devices, fmt.Sprint(i))
			}
			s := newStore(b, b.TempDir(), devices...)
			for i := range others {
				name := fmt.Sprintf("other-%d", i)
				s.mustPrepare(s.allocate(name, name, devices[i]))
			}
			ref := s.allocate("a", "uid-a", devices[others])
			for b.Loop() {
				s.mustPrepare(ref)
				s.mustUnprepare(ref)
			}
		})
	}
}
