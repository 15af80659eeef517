// SPDX-License-Identifier: Apache-2.0

package cdi_test

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"qatplugin/cdi"
	"qatplugin/devtree"
)

func ExampleWriter() {
	dir, err := os.MkdirTemp("", "cdi") // on a node: /var/run/cdi
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	published := make(chan *devtree.Tree)
	publish := func(tree *devtree.Tree) { published <- tree }
	writer, err := cdi.NewWriter(cdi.Config{Dir: dir, Vendor: "color.example.com", Class: "paint"}, publish)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logr.Discard()))
	var running sync.WaitGroup
	running.Go(func() { writer.Run(ctx) })
	defer running.Wait()
	defer cancel()

	pot := &devtree.Device{ID: "1", Health: devtree.Healthy}
	pot.Env = map[string]string{"PAINT": "yellow"}
	tree := new(devtree.Tree).Edit()
	if err := tree.Put("yellow", pot); err != nil {
		fmt.Println(err)
		return
	}
	writer.Update(tree.Build())
	fmt.Println((<-published).Resource("yellow").Device("1").CDINames)
	// Output: [color.example.com/paint=1]
}
