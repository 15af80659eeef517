// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync"

	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/dynamic-resource-allocation/resourceslice"

	"qatplugin/devtree"
	"qatplugin/test/fleet/helper"
)

// onHelper returns a driver whose slices are written by the controller of upstream's helper
// (k8s.io/dynamic-resource-allocation/kubeletplugin uses it with the same options). A qps of 0 is
// the default of client-go: 5 requests a second after a burst of 10.
func onHelper(qps float32) runDriver {
	return func(ctx context.Context, n *node, config *rest.Config) error {
		config = protobuf(config)
		config.QPS, config.Burst = qps, int(qps)
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		var controller *resourceslice.Controller
		var mu sync.Mutex // guards controller, which starts with the first Tree
		var startErr error
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		err = n.Watch(ctx, func(tree *devtree.Tree) {
			mu.Lock()
			defer mu.Unlock()
			resources := helper.Resources(driverName, n.name, tree)
			if controller != nil {
				controller.Update(resources)
				return
			}
			controller, startErr = resourceslice.StartController(ctx, resourceslice.Options{
				DriverName:   driverName,
				KubeClient:   client,
				Owner:        &resourceslice.Owner{APIVersion: "v1", Kind: "Node", Name: n.name},
				Resources:    resources,
				ErrorHandler: func(context.Context, error, string) {}, // the requests are recorded
			})
			if startErr != nil {
				cancel()
			}
		})
		if startErr != nil {
			return fmt.Errorf("%s: %w", n.name, startErr)
		}
		if controller != nil {
			controller.Stop()
		}
		return err
	}
}

// sliceOf returns the slice of a node, for measurements without a driver.
func sliceOf(n *node) *resourceapi.ResourceSlice {
	tree, _ := n.state()
	s := &resourceapi.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: n.name + "-" + driverName},
		Spec: resourceapi.ResourceSliceSpec{
			Driver: driverName, NodeName: &n.name,
			Pool: resourceapi.ResourcePool{Name: n.name, Generation: 1, ResourceSliceCount: 1},
		},
	}
	for d := range tree.Resource(resource).Devices() {
		s.Spec.Devices = append(s.Spec.Devices, helper.Device(driverName, d))
	}
	return s
}
