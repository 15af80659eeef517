// SPDX-License-Identifier: Apache-2.0

package kubeletapi_test

import (
	"context"
	"fmt"
	"os"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/kubelettest"
)

// usage reports the containers that get devices. It has a buffer, so that the Manager never waits.
type usage chan string

// Allocated is called once for each container.
func (u usage) Allocated(resource string, devices []string, err error) {
	text := fmt.Sprintf("%s %q allocated", resource, devices)
	if err != nil {
		text = fmt.Sprintf("%s %q refused", resource, devices)
	}
	select {
	case u <- text:
	default: // nobody reads them
	}
}

func (usage) StreamOpened(string)                          {}
func (usage) StreamClosed(string, error)                   {}
func (usage) ListSent(string, *devtree.Resource, int, int) {}
func (usage) ListUnchanged(string, *devtree.Resource)      {}
func (usage) Registered(string, error)                     {}

func ExampleWithObserver() {
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
	u := make(usage, 10)
	manager := kubeletapi.NewManager("color.example.com", paintShop{},
		kubeletapi.WithKubeletDir(dir), kubeletapi.WithObserver(u))
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()

	const yellow = "color.example.com/yellow"
	if _, err := kubelet.WaitDevices(ctx, yellow, "1", "2"); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := kubelet.Allocate(ctx, yellow, []string{"1"}); err != nil {
		fmt.Println(err)
		return
	}
	_, err = kubelet.Allocate(ctx, yellow, []string{"3"}) // which does not exist
	fmt.Println(err != nil)
	fmt.Println(<-u)
	fmt.Println(<-u)

	for _, r := range manager.Resources() {
		fmt.Println(r.Name, r.Phase == kubeletapi.PhaseFailed, r.Devices, r.Healthy, r.Allocated, r.Failed)
	}

	cancel()
	fmt.Println(<-done)
	// Output:
	// true
	// color.example.com/yellow ["1"] allocated
	// color.example.com/yellow ["3"] refused
	// color.example.com/yellow false 2 2 1 1
	// <nil>
}
