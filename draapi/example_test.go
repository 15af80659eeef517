// SPDX-License-Identifier: Apache-2.0

package draapi_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"

	"qatplugin/devtree"
	"qatplugin/draapi"
	"qatplugin/draapi/kubelettest"
	"qatplugin/internal/apitest"
)

// paintShop is a DRA driver's plugin for two pots of paint.
type paintShop struct{}

// Watch publishes the devices. A real plugin does so again whenever they change.
func (paintShop) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	next := new(devtree.Tree).Edit()
	for id, color := range map[string]string{"1": "yellow", "2": "blue"} {
		pot := &devtree.Device{ID: id, Health: devtree.Healthy}
		pot.Env = map[string]string{"POT_" + id: "/paint/" + color}
		pot.Attributes = map[string]any{"color": color, "liters": int64(5)}
		if err := next.Put("paint", pot); err != nil {
			return err
		}
	}
	publish(next.Build())
	<-ctx.Done()
	return nil
}

// Prepare makes paintShop a Preparer. It tells containers which claim their pots are from.
func (paintShop) Prepare(_ context.Context, claim *draapi.Claim) error {
	for _, pot := range claim.Devices {
		pot.Edits.Env["POT_"+pot.Device.ID+"_CLAIM"] = claim.String()
	}
	return nil
}

var _ draapi.Preparer = paintShop{}

func Example() {
	root, err := os.MkdirTemp("", "k")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(root)
	kubelet, err := kubelettest.Start(root) // in place of a real one
	if err != nil {
		fmt.Println(err)
		return
	}
	defer kubelet.Stop()
	server := apitest.New() // in place of a real one
	server.AddNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}})

	ctx, cancel := context.WithTimeout(klog.NewContext(context.Background(), logr.Discard()), time.Minute)
	defer cancel()
	driver := draapi.NewDriver("color.example.com", paintShop{},
		draapi.WithNodeName("node-1"),
		draapi.WithRESTConfig(server.Config()),
		draapi.WithKubeletRoot(root),
		draapi.WithCDIDir(filepath.Join(root, "cdi")),
	)
	done := make(chan error, 1)
	go func() { done <- driver.Run(ctx) }()
	if err := kubelet.WaitRegistered(ctx, "color.example.com", 1); err != nil {
		fmt.Println(err)
		return
	}

	// The scheduler allocates a device to a claim.
	claim := server.AddClaim(&resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "wall", UID: "1234"},
		Status: resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{
			Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
				{Request: "pot", Driver: "color.example.com", Pool: "node-1", Device: "2"},
			}},
		}},
	})
	devices, err := kubelet.Prepare(ctx, "color.example.com", &dra.Claim{
		Namespace: claim.Namespace, Name: claim.Name, Uid: string(claim.UID),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(devices[0].CdiDeviceIds)
	for _, c := range driver.Claims() {
		fmt.Println(c.String(), "has device", c.Devices[0].ID)
	}

	cancel()
	fmt.Println(<-done)
	// Output:
	// [color.example.com/claim=1234-2]
	// default/wall has device 2
	// <nil>
}
