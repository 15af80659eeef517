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

// fpga reports regions of FPGAs. A hook of the container runtime programs them before a
// container starts. It acts on containers with its annotation and reads from the
// environment which function belongs in which region.
type fpga struct{}

func (fpga) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	next := new(devtree.Tree).Edit()
	for _, region := range []string{"region-a", "region-b"} {
		d := &devtree.Device{ID: region, Health: devtree.Healthy}
		node := "/dev/" + region
		d.DeviceNodes = []devtree.DeviceNode{{HostPath: node, ContainerPath: node, Permissions: "rw"}}
		if err := next.Put("af-compress", d); err != nil {
			return err
		}
	}
	publish(next.Build())
	<-ctx.Done()
	return nil
}

// PostAllocate numbers the regions within the container, and sets the annotation that makes the
// hook of the runtime act.
func (fpga) PostAllocate(
	_ context.Context, resource string, devices []*devtree.Device, edits *devtree.ContainerEdits,
) error {
	for i, d := range devices {
		edits.Env[fmt.Sprintf("FPGA_REGION_%d", i)] = d.ID
		edits.Env[fmt.Sprintf("FPGA_AFU_%d", i)] = resource
	}
	edits.Annotations["com.intel.fpga.mode"] = "fpga.intel.com/region"
	return nil
}

func ExamplePostAllocator() {
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
	done := make(chan error, 1)
	go func() {
		done <- kubeletapi.NewManager("fpga.example.com", fpga{}, kubeletapi.WithKubeletDir(dir)).Run(ctx)
	}()
	defer func() { cancel(); <-done }()

	const resource = "fpga.example.com/af-compress"
	both := func(l kubelettest.List) bool { return len(l.Devices) == 2 }
	if _, err := kubelet.WaitList(ctx, resource, both); err != nil {
		fmt.Println(err)
		return
	}
	// The regions of each container are numbered separately.
	answer, err := kubelet.Allocate(ctx, resource, []string{"region-b"}, []string{"region-a"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, container := range answer.ContainerResponses {
		fmt.Println(container.Devices[0].HostPath, container.Envs)
		fmt.Println(container.Annotations)
	}
	// Output:
	// /dev/region-b map[FPGA_AFU_0:af-compress FPGA_REGION_0:region-b]
	// map[com.intel.fpga.mode:fpga.intel.com/region]
	// /dev/region-a map[FPGA_AFU_0:af-compress FPGA_REGION_0:region-a]
	// map[com.intel.fpga.mode:fpga.intel.com/region]
}
