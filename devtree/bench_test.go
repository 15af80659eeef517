// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"fmt"
	"testing"

	"qatplugin/devtree"
)

// host returns a Tree of n VFs in four resources.
func host(b *testing.B, n int) *devtree.Tree {
	b.Helper()
	builder := new(devtree.Tree).Edit()
	for i := range n {
		mustPut(b, builder, []string{"cy", "dc", "generic", "sym-dc"}[i*4/n], vf(bdf(i)))
	}
	return builder.Build()
}

// BenchmarkPutChangedDevice makes one VF Unhealthy and Healthy again by turns.
func BenchmarkPutChangedDevice(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			tree := host(b, n)
			states := []*devtree.Device{unhealthy(bdf(0)), vf(bdf(0))}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				builder := tree.Edit()
				if err := builder.Put("cy", states[i%2]); err != nil {
					b.Fatal(err)
				}
				next := builder.Build()
				if next == tree {
					b.Fatal("the Tree did not change")
				}
				tree = next
			}
		})
	}
}

// BenchmarkPutEqualDevice measures an event that changed nothing.
func BenchmarkPutEqualDevice(b *testing.B) {
	tree, same := host(b, 1024), vf(bdf(0))
	b.ReportAllocs()
	for b.Loop() {
		builder := tree.Edit()
		if err := builder.Put("cy", same); err != nil {
			b.Fatal(err)
		}
		if builder.Build() != tree {
			b.Fatal("the Tree changed")
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			old := host(b, n)
			builder := old.Edit()
			mustPut(b, builder, "cy", unhealthy(bdf(0)))
			next := builder.Build()
			b.ReportAllocs()
			for b.Loop() {
				if changes := devtree.Diff(old, next); len(changes) != 1 {
					b.Fatalf("got %d changes, want 1", len(changes))
				}
			}
		})
	}
}

func BenchmarkPublishToFourSubscriptions(b *testing.B) {
	trees := []*devtree.Tree{host(b, 1024), nil}
	builder := trees[0].Edit()
	mustPut(b, builder, "cy", unhealthy(bdf(0)))
	trees[1] = builder.Build()
	p := &devtree.Publisher{}
	p.Publish(trees[1])
	s := p.Subscribe("cy")
	defer s.Close()
	for _, name := range []string{"dc", "generic", "sym-dc"} {
		defer p.Subscribe(name).Close()
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.Publish(trees[i%2])
		if _, err := s.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
