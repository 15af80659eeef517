package devtree_test

import (
	"fmt"
	"testing"

	"qatplugin/devtree"
)

// host is a Tree of n VFs, as four resources of as many PFs.
func host(b *testing.B, n int) *devtree.Tree {
	b.Helper()
	builder := new(devtree.Tree).Edit()
	for i := range n {
		mustPut(b, builder, []string{"cy", "dc", "generic", "sym-dc"}[i*4/n], vf(bdf(i)))
	}
	return builder.Build()
}

// One VF turns Unhealthy and Healthy again, in turns: a new Tree each time.
func BenchmarkPutOneDevice(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			tree := host(b, n)
			name := "cy"
			states := []*devtree.Device{sick(bdf(0)), vf(bdf(0))}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				builder := tree.Edit()
				if err := builder.Put(name, states[i%2]); err != nil {
					b.Fatal(err)
				}
				next := builder.Build()
				if next == tree {
					b.Fatal("nothing changed")
				}
				tree = next
			}
		})
	}
}

// An event that changed nothing: the device is read again and put as it was.
func BenchmarkPutTheSameDevice(b *testing.B) {
	tree, same := host(b, 1024), vf(bdf(0))
	b.ReportAllocs()
	for b.Loop() {
		builder := tree.Edit()
		if err := builder.Put("cy", same); err != nil {
			b.Fatal(err)
		}
		if builder.Build() != tree {
			b.Fatal("something changed")
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			old := host(b, n)
			builder := old.Edit()
			mustPut(b, builder, "cy", sick(bdf(0)))
			next := builder.Build()
			b.ReportAllocs()
			for b.Loop() {
				if len(devtree.Diff(old, next)) != 1 {
					b.Fatal("not one change")
				}
			}
		})
	}
}

func BenchmarkPublishToFourStreams(b *testing.B) {
	trees := []*devtree.Tree{host(b, 1024), nil}
	builder := trees[0].Edit()
	mustPut(b, builder, "cy", sick(bdf(0)))
	trees[1] = builder.Build()
	p := &devtree.Publisher{}
	p.Publish(trees[1])
	stream := p.Subscribe("cy")
	for _, name := range []string{"dc", "generic", "sym-dc"} {
		defer p.Subscribe(name).Close()
	}
	defer stream.Close()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.Publish(trees[i%2])
		if _, err := stream.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
