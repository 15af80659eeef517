package devtree_test

import (
	"context"
	"fmt"

	"qatplugin/devtree"
)

// A plugin keeps one Builder and publishes a Tree for each change; a reader, such as a ListAndWatch stream, follows one resource.
func Example() {
	publisher := &devtree.Publisher{}
	yellow := publisher.Subscribe("yellow")
	defer yellow.Close()

	builder := publisher.Tree().Edit()
	for _, id := range []string{"/dev/yellow0", "/dev/yellow1"} {
		node := devtree.DeviceNode{HostPath: id, ContainerPath: id, Permissions: "rw"}
		if err := builder.Put("yellow", &devtree.Device{
			ID: id, Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{DeviceNodes: []devtree.DeviceNode{node}},
		}); err != nil {
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
	fmt.Print("before, still:\n", before)
	// Output:
	// yellow 1 <nil>
	// yellow lost /dev/yellow0
	// before, still:
	// yellow: 2
	//   /dev/yellow0 Healthy
	//   /dev/yellow1 Healthy
}
