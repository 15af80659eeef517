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
)

// helper returns a driver whose slices are written by the controller of upstream's helper
// (k8s.io/dynamic-resource-allocation/kubeletplugin uses it with the same options). A qps of 0 is
// the default of client-go: 5 requests a second after a burst of 10.
func helper(qps float32) runDriver {
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
			resources := resourcesOf(n.name, tree)
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

// resourcesOf returns the Tree as one pool with one slice: a driver on upstream's helper converts
// and splits its devices itself.
func resourcesOf(pool string, tree *devtree.Tree) *resourceslice.DriverResources {
	var slice resourceslice.Slice
	for d := range tree.Resource(resource).Devices() {
		slice.Devices = append(slice.Devices, deviceOf(d))
	}
	return &resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{
		pool: {Slices: []resourceslice.Slice{slice}},
	}}
}

func deviceOf(d *devtree.Device) resourceapi.Device {
	device := resourceapi.Device{
		Name:       deviceName(d.ID),
		Attributes: map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{},
	}
	for name, value := range d.Attributes {
		var a resourceapi.DeviceAttribute
		switch v := value.(type) {
		case string:
			a.StringValue = &v
		case bool:
			a.BoolValue = &v
		case int64:
			a.IntValue = &v
		case devtree.Version:
			a.VersionValue = (*string)(&v)
		}
		device.Attributes[resourceapi.QualifiedName(name)] = a
	}
	if d.Health == devtree.Unhealthy {
		device.Taints = []resourceapi.DeviceTaint{{
			Key: driverName + "/unhealthy", Value: d.Cause, Effect: resourceapi.DeviceTaintEffectNoSchedule,
		}}
	}
	return device
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
		s.Spec.Devices = append(s.Spec.Devices, deviceOf(d))
	}
	return s
}
