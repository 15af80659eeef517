// SPDX-License-Identifier: Apache-2.0

package kubeletapi_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/kubelettest"
)

// paintShop is a device plugin for two pots of yellow paint.
type paintShop struct{}

// Watch publishes the devices. A real plugin does so again whenever they change.
func (paintShop) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	var before *devtree.Tree
	next := before.Edit()
	for _, id := range []string{"1", "2"} {
		pot := &devtree.Device{ID: id, Health: devtree.Healthy}
		pot.Env = map[string]string{"YELLOW_" + id: "/paint/yellow/" + id}
		if err := next.Put("yellow", pot); err != nil {
			return err
		}
	}
	publish(next.Build())
	<-ctx.Done()
	return nil
}

// PostAllocate makes paintShop a PostAllocator. It annotates a container, for example for
// a hook of the container runtime.
func (paintShop) PostAllocate(
	_ context.Context, resource string, devices []*devtree.Device, edits *devtree.ContainerEdits,
) error {
	var pots []string
	for _, d := range devices {
		pots = append(pots, d.ID)
	}
	edits.Annotations["color.example.com/"+resource] = strings.Join(pots, ",")
	return nil
}

func Example() {
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	kubelet, err := kubelettest.Start(dir) // in place of a real one
	if err != nil {
		fmt.Println(err)
		return
	}
	defer kubelet.Stop()

	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logr.Discard()))
	defer cancel()
	manager := kubeletapi.NewManager("color.example.com", paintShop{}, kubeletapi.WithKubeletDir(dir))
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()

	both := func(l kubelettest.List) bool { return len(l.Devices) == 2 }
	list, err := kubelet.WaitList(ctx, "color.example.com/yellow", both)
	fmt.Println(list.Resource, len(list.Devices), err)
	answer, err := kubelet.Allocate(ctx, "color.example.com/yellow", []string{"2"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.ContainerResponses[0].Envs)
	fmt.Println(answer.ContainerResponses[0].Annotations)

	cancel()
	fmt.Println(<-done)
	// Output:
	// color.example.com/yellow 2 <nil>
	// map[YELLOW_2:/paint/yellow/2]
	// map[color.example.com/yellow:2]
	// <nil>
}
