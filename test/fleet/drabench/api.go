// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"qatplugin/test/fleet/controlplane"
)

const (
	nodeName = "node1"
	timeout  = 60 * time.Second
)

// api is the API server with the Node.
type api struct {
	client     kubernetes.Interface
	kubeconfig string
}

// newAPI creates the Node, and a kubeconfig with all rights.
func newAPI(ctx context.Context, c *controlplane.ControlPlane, dir string) (*api, error) {
	config := c.Config()
	a := &api{kubeconfig: filepath.Join(dir, "kubeconfig")}
	text, err := json.Marshal(map[string]any{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{
			"server": config.Host, "certificate-authority": config.CAFile,
		}}},
		"users":           []any{map[string]any{"name": "u", "user": map[string]any{"token": config.BearerToken}}},
		"contexts":        []any{map[string]any{"name": "x", "context": map[string]any{"cluster": "c", "user": "u"}}},
		"current-context": "x",
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(a.kubeconfig, text, 0o600); err != nil {
		return nil, err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	if a.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	_, err = a.client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName},
		Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{
			ContainerRuntimeVersion: "containerd://2.1.0",
		}},
	}, metav1.CreateOptions{})
	return a, err
}

// pool is what a watch shows of the slices of the Node.
type pool struct {
	watch  watch.Interface
	slices map[string]*resourceapi.ResourceSlice
	writes int // events
}

// watchPool deletes all slices and watches for new ones.
func (a *api) watchPool(ctx context.Context) (*pool, error) {
	client := a.client.ResourceV1().ResourceSlices()
	if err := client.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return nil, err
	}
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	if len(list.Items) > 0 {
		return nil, fmt.Errorf("%d slices are left", len(list.Items))
	}
	w, err := client.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	return &pool{watch: w, slices: map[string]*resourceapi.ResourceSlice{}}, err
}

// await reads the watch until the slices are as wanted, and returns when they were.
func (p *pool) await(what string, wanted func(*pool) bool) (time.Time, error) {
	end := time.NewTimer(timeout)
	defer end.Stop()
	for now := time.Now(); !wanted(p); {
		select {
		case event := <-p.watch.ResultChan():
			now = time.Now()
			slice, ok := event.Object.(*resourceapi.ResourceSlice)
			if !ok {
				return now, errors.New("the watch has ended")
			}
			p.apply(event.Type, slice)
			if wanted(p) {
				return now, nil
			}
		case <-end.C:
			return now, fmt.Errorf("no %s within %v", what, timeout)
		}
	}
	return time.Now(), nil
}

// settle reads the watch until there is no event for some time. It returns when the last one came.
func (p *pool) settle(quiet time.Duration) (last time.Time) {
	for {
		select {
		case event := <-p.watch.ResultChan():
			slice, ok := event.Object.(*resourceapi.ResourceSlice)
			if !ok {
				return last
			}
			last = time.Now()
			p.apply(event.Type, slice)
		case <-time.After(quiet):
			return last
		}
	}
}

func (p *pool) apply(change watch.EventType, slice *resourceapi.ResourceSlice) {
	p.writes++
	if change == watch.Deleted {
		delete(p.slices, slice.Name)
		return
	}
	p.slices[slice.Name] = slice
}

// complete returns a condition: that there are all slices of a pool, with so many devices.
func complete(devices int) func(*pool) bool {
	return func(p *pool) bool {
		n, generations := 0, map[int64]bool{}
		for _, s := range p.slices {
			n += len(s.Spec.Devices)
			generations[s.Spec.Pool.Generation] = true
			if s.Spec.Pool.ResourceSliceCount != int64(len(p.slices)) {
				return false
			}
		}
		return n == devices && len(generations) == 1
	}
}

// tainted returns a condition: that a device has a taint, or none.
func tainted(device string, want bool) func(*pool) bool {
	return func(p *pool) bool {
		for _, s := range p.slices {
			i := slices.IndexFunc(s.Spec.Devices, func(d resourceapi.Device) bool { return d.Name == device })
			if i >= 0 {
				return (len(s.Spec.Devices[i].Taints) > 0) == want
			}
		}
		return false
	}
}
