// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"slices"
	"testing"

	"qatplugin/devtree"
)

// wrapper is a Plugin that implements no optional interface itself.
type wrapper struct{ Plugin }

func (w *wrapper) Unwrap() Plugin { return w.Plugin }

// counter is a wrapper that counts the calls of PostAllocate.
type counter struct {
	wrapper
	calls int
}

func (c *counter) PostAllocate(
	ctx context.Context, resource string, devices []*devtree.Device, edits *devtree.ContainerEdits,
) error {
	c.calls++
	return find[PostAllocator](c.Unwrap()).PostAllocate(ctx, resource, devices, edits)
}

// wrappedScanner is a Scanner that implements no optional interface itself.
type wrappedScanner struct{ Scanner }

func (w wrappedScanner) Unwrap() Scanner { return w.Scanner }

// fullScanner is a Scanner with the optional interfaces of a fullPlugin.
type fullScanner struct{ *fullPlugin }

func (fullScanner) Scan(n Notifier) error {
	b := new(devtree.Tree).Edit()
	for _, id := range []string{"1", "2"} {
		if err := b.Put("yellow", device(id)); err != nil {
			return err
		}
	}
	n.Notify(b.Build())
	<-n.Done()
	return nil
}

func TestWrappedPluginKeepsItsOptionalInterfaces(t *testing.T) {
	full := &fullPlugin{
		fakePlugin: newFakePlugin(),
		allocate:   func(string, []*devtree.Device) (*devtree.ContainerEdits, error) { return nil, ErrUseDefault },
		post: func(_ []*devtree.Device, edits *devtree.ContainerEdits) error {
			edits.Env["POST"] = "1"
			return nil
		},
		prefer:   func(available, _ []string, size int) ([]string, error) { return available[:size], nil },
		preStart: func([]string) error { return nil },
	}
	scanner := FromScanner(fullScanner{full})
	counting := &counter{wrapper: wrapper{&wrapper{FromScanner(wrappedScanner{fullScanner{full}})}}}
	for name, plugin := range map[string]Plugin{
		"scanner":                          scanner,
		"wrapped":                          &wrapper{scanner},
		"wrapped twice":                    &wrapper{&wrapper{scanner}},
		"wrapped scanner":                  FromScanner(wrappedScanner{wrappedScanner{fullScanner{full}}}),
		"wrapper with a method of its own": counting,
	} {
		t.Run(name, func(t *testing.T) {
			dir := kubeletDir(t)
			k := startKubelet(t, dir)
			run(t, dir, plugin)
			waitIDs(t, k, yellow, "1", "2")
			if o := k.Options(yellow); !o.PreStartRequired || !o.GetPreferredAllocationAvailable {
				t.Errorf("options %v, want both", o)
			}
			if err := k.PreStartContainer(t.Context(), yellow, []string{"1"}); err != nil {
				t.Error(err)
			}
			ids, err := k.GetPreferredAllocation(t.Context(), yellow, []string{"2", "1"}, nil, 1)
			if err != nil || !slices.Equal(ids, []string{"2"}) {
				t.Errorf("preferred %q, %v, want 2", ids, err)
			}
			answer, err := k.Allocate(t.Context(), yellow, []string{"1"})
			if err != nil || answer.ContainerResponses[0].Envs["POST"] != "1" {
				t.Errorf("Allocate = %v, %v, want the variable of PostAllocate", answer, err)
			}
		})
	}
	if counting.calls != 1 {
		t.Errorf("PostAllocate of the wrapper was called %d times, want once", counting.calls)
	}
}

func TestWrapperOfNothingHasNoOptionalInterfaces(t *testing.T) {
	for _, plugin := range []Plugin{nil, &wrapper{}, &wrapper{newFakePlugin()}, FromScanner(nil)} {
		if got := methodsOf(plugin); got != (methods{}) {
			t.Errorf("%T has the optional interfaces %v", plugin, got)
		}
	}
}
