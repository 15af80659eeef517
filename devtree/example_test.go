// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"context"
	"fmt"

	"qatplugin/devtree"
)

// A plugin keeps one Builder and publishes a Tree for each change. A reader, such as a
// ListAndWatch stream, follows one resource.
func Example() {
	publisher := &devtree.Publisher{}
	yellow := publisher.Subscribe("yellow")
	defer yellow.Close()

	builder := publisher.Tree().Edit()
	for _, id := range []string{"/dev/yellow0", "/dev/yellow1"} {
		device := &devtree.Device{ID: id, Health: devtree.Healthy}
		device.DeviceNodes = []devtree.DeviceNode{{HostPath: id, ContainerPath: id, Permissions: "rw"}}
		if err := builder.Put("yellow", device); err != nil {
			fmt.Println(err)
		}
	}
	before := builder.Build()
	publisher.Publish(before)
	builder.Remove("yellow", "/dev/yellow0")
	publisher.Publish(builder.Build())

	newest, err := yellow.Next(context.Background())
	fmt.Println(newest.Name(), newest.Len(), err)
	for _, change := range devtree.Diff(before, publisher.Tree()) {
		fmt.Println(change.Resource, "lost", change.Old.ID)
	}
	fmt.Print("the first Tree is unchanged:\n", before)
	// Output:
	// yellow 1 <nil>
	// yellow lost /dev/yellow0
	// the first Tree is unchanged:
	// yellow: 2
	//   /dev/yellow0 Healthy
	//   /dev/yellow1 Healthy
}
