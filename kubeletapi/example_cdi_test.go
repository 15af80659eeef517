// SPDX-License-Identifier: Apache-2.0

package kubeletapi_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/kubelettest"
)

func ExampleWithCDI() {
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

	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logr.Discard()))
	manager := kubeletapi.NewManager("color.example.com", paintShop{},
		kubeletapi.WithKubeletDir(dir),
		kubeletapi.WithCDI(filepath.Join(dir, "cdi"), "")) // on a node: /var/run/cdi
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()
	defer func() { cancel(); <-done }()

	if _, err := kubelet.WaitDevices(ctx, "color.example.com/yellow", "1", "2"); err != nil {
		fmt.Println(err)
		return
	}
	answer, err := kubelet.Allocate(ctx, "color.example.com/yellow", []string{"1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.ContainerResponses[0].CdiDevices[0].Name)
	spec, err := os.ReadFile(filepath.Join(dir, "cdi/color.example.com-yellow_device-plugin.json"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(spec))
	// Output:
	// color.example.com/yellow=1
	// {"cdiVersion":"0.5.0","kind":"color.example.com/yellow","devices":[
	// {"name":"1","containerEdits":{"env":["YELLOW_1=/paint/yellow/1"]}},
	// {"name":"2","containerEdits":{"env":["YELLOW_2=/paint/yellow/2"]}}
	// ],"containerEdits":{}}
}
