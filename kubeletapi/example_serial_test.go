// SPDX-License-Identifier: Apache-2.0

package kubeletapi_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/kubelettest"
)

// serial reports serial ports, each with the NUMA node of its card.
type serial struct{ ports map[string]int }

// port returns the device of a serial port. If busy is not empty, the device is unhealthy, with
// busy as the reason.
func port(name string, numaNode int, busy string) *devtree.Device {
	d := &devtree.Device{ID: name, Health: devtree.Healthy}
	if busy != "" {
		d.Health, d.Reason = devtree.Unhealthy, busy
	}
	if numaNode >= 0 { // the kernel writes -1 if the platform does not say
		d.NUMANodes = []int{numaNode}
	}
	path := "/dev/" + name
	d.DeviceNodes = []devtree.DeviceNode{{HostPath: path, ContainerPath: path, Permissions: "rw"}}
	return d
}

func (s serial) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	next := new(devtree.Tree).Edit()
	for name, numaNode := range s.ports {
		if err := next.Put("port", port(name, numaNode, "")); err != nil {
			return err
		}
	}
	publish(next.Build())
	<-ctx.Done()
	return nil
}

// PreferredAllocation prefers ports of the NUMA node that has the fewest available ports. Other
// nodes remain complete for containers that need many ports.
func (s serial) PreferredAllocation(
	_ context.Context, _ string, available, mustInclude []*devtree.Device, size int,
) ([]string, error) {
	left := map[int]int{}
	for _, d := range available {
		left[s.ports[d.ID]]++
	}
	slices.SortStableFunc(available, func(a, b *devtree.Device) int {
		return left[s.ports[a.ID]] - left[s.ports[b.ID]]
	})
	var ids []string
	for _, d := range append(mustInclude, available...) {
		if len(ids) < size && !slices.Contains(ids, d.ID) {
			ids = append(ids, d.ID)
		}
	}
	return ids, nil
}

// metered is a plugin that wraps another one and counts the allocations.
type metered struct {
	kubeletapi.Plugin
	allocations atomic.Int64
}

// Unwrap returns the wrapped plugin, so that the Manager detects its optional interfaces.
func (m *metered) Unwrap() kubeletapi.Plugin { return m.Plugin }

// PostAllocate counts the allocation, and calls PostAllocate of the wrapped plugin if there is one.
func (m *metered) PostAllocate(
	ctx context.Context, resource string, devices []*devtree.Device, edits *devtree.ContainerEdits,
) error {
	m.allocations.Add(1)
	if p, ok := m.Plugin.(kubeletapi.PostAllocator); ok {
		return p.PostAllocate(ctx, resource, devices, edits)
	}
	return nil
}

func ExamplePreferredAllocator() {
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

	plugin := &metered{Plugin: serial{map[string]int{"ttyS0": 0, "ttyS1": 0, "ttyS2": 1, "ttyS3": -1}}}
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logr.Discard()))
	done := make(chan error, 1)
	go func() {
		done <- kubeletapi.NewManager("serial.example.com", plugin, kubeletapi.WithKubeletDir(dir)).Run(ctx)
	}()
	defer func() { cancel(); <-done }()

	const resource = "serial.example.com/port"
	list, err := kubelet.WaitDevices(ctx, resource, "ttyS0", "ttyS1", "ttyS2", "ttyS3")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range list.Devices {
		fmt.Print(d.ID, " ", d.Health)
		for _, n := range d.GetTopology().GetNodes() {
			fmt.Print(", NUMA node ", n.ID)
		}
		fmt.Println()
	}
	ids, err := kubelet.GetPreferredAllocation(ctx, resource, []string{"ttyS0", "ttyS1", "ttyS2"}, nil, 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := kubelet.Allocate(ctx, resource, ids)
	if err != nil {
		fmt.Println(err)
		return
	}
	node := answer.ContainerResponses[0].Devices[0]
	fmt.Println(ids, node.HostPath, node.Permissions, plugin.allocations.Load())
	// Output:
	// ttyS0 Healthy, NUMA node 0
	// ttyS1 Healthy, NUMA node 0
	// ttyS2 Healthy, NUMA node 1
	// ttyS3 Healthy
	// [ttyS2] /dev/ttyS2 rw 1
}
