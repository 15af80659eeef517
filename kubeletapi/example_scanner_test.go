// SPDX-License-Identifier: Apache-2.0

package kubeletapi_test

import (
	"context"
	"fmt"
	"time"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
)

// shelf is a plugin that polls: it scans all devices every five seconds.
type shelf struct{ pots []string }

func (s *shelf) Scan(notifier kubeletapi.Notifier) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		found := new(devtree.Tree).Edit()
		for _, pot := range s.pots {
			if err := found.Put("yellow", &devtree.Device{ID: pot, Health: devtree.Healthy}); err != nil {
				return err
			}
		}
		notifier.Notify(found.Build())
		select {
		case <-tick.C:
		case <-notifier.Done():
			return nil
		}
	}
}

func ExampleFromScanner() {
	plugin := kubeletapi.FromScanner(&shelf{pots: []string{"1", "2"}})

	// A Manager calls Watch: kubeletapi.NewManager("color.example.com", plugin).Run(ctx)
	ctx, cancel := context.WithCancel(context.Background())
	err := plugin.Watch(ctx, func(tree *devtree.Tree) {
		fmt.Print(tree)
		cancel()
	})
	fmt.Println(err)
	// Output:
	// yellow: 2
	//   1 Healthy
	//   2 Healthy
	// <nil>
}
