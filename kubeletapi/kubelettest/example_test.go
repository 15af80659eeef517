// SPDX-License-Identifier: Apache-2.0

package kubelettest_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/kubelettest"
)

// brushes is the plugin to test: its devices are brushes that the test sends, and a
// container gets the ID of its brush in an environment variable.
type brushes chan string

func (b brushes) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	all := new(devtree.Tree).Edit()
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-b:
			brush := &devtree.Device{ID: id, Health: devtree.Healthy}
			brush.Env = map[string]string{"BRUSH": id}
			if err := all.Put("brush", brush); err != nil {
				return err
			}
			publish(all.Build())
		}
	}
}

// A test gives the plugin a Kubelet instead of the node's own, and waits for what the
// plugin sends. In a test function, New replaces the first lines.
func Example() {
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	kubelet, err := kubelettest.Start(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer kubelet.Stop()

	ctx, cancel := context.WithTimeout(klog.NewContext(context.Background(), logr.Discard()), 20*time.Second)
	defer cancel()
	plugin, ended := make(brushes), make(chan error, 1)
	manager := kubeletapi.NewManager("paint.example.com", plugin, kubeletapi.WithKubeletDir(dir))
	go func() { ended <- manager.Run(ctx) }()

	const resource = "paint.example.com/brush"
	plugin <- "fine"
	plugin <- "wide"
	list, err := kubelet.WaitDevices(ctx, resource, "fine", "wide")
	fmt.Println("devices:", list.IDs(), list.Health("wide"), err)

	answer, err := kubelet.Allocate(ctx, resource, []string{"wide"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("environment:", answer.ContainerResponses[0].Envs)

	if err := kubelet.Restart(); err != nil {
		fmt.Println(err)
		return
	}
	list, err = kubelet.WaitDevices(ctx, resource, "fine", "wide")
	fmt.Println("after the restart:", list.IDs(), err)
	fmt.Println("registrations:", len(kubelet.Registrations()))

	cancel()
	fmt.Println("the plugin ended:", <-ended)
	// Output:
	// devices: [fine wide] Healthy <nil>
	// environment: map[BRUSH:wide]
	// after the restart: [fine wide] <nil>
	// registrations: 1
	// the plugin ended: <nil>
}
