package kubeletapi_test

import (
	"context"
	"fmt"
	"time"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
)

// shelf is a plugin of the polling kind: it looks every five seconds at everything.
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

	// kubeletapi.NewManager("color.example.com", plugin).Run(ctx) does what follows here by hand.
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
