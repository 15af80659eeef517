// SPDX-License-Identifier: Apache-2.0

// Command helperdriver is a DRA driver that publishes the same Trees as qat_dra_driver with
// upstream's helper, for measurements. It prepares nothing.
//
//	helperdriver -kubeconfig FILE -node-name NAME [-qps N]
package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/qat"
	"qatplugin/test/fleet/helper"
)

const driverName = "qat.intel.com"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		klog.ErrorS(err, "Driver failed")
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	kubeconfig := flag.String("kubeconfig", "", "`file` that says how to reach the API server")
	node := flag.String("node-name", "", "`name` of the Node")
	qps := flag.Float64("qps", 0, "requests a second at most; 0 is client-go's default")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = float32(*qps), int(*qps)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	data := filepath.Join(kubeletplugin.KubeletPluginsDir, driverName)
	if err := os.MkdirAll(data, 0o750); err != nil {
		return err
	}
	h, err := kubeletplugin.Start(ctx, noClaims{},
		kubeletplugin.DriverName(driverName), kubeletplugin.NodeName(*node), kubeletplugin.KubeClient(client),
		kubeletplugin.PluginDataDirectoryPath(data))
	if err != nil {
		return err
	}
	defer h.Stop()
	plugin, err := qat.New(qat.Config{
		Attributes:  true,
		NodeName:    *node,
		OpenWatcher: func() (qat.Watcher, error) { return events.NewWatcher() },
	})
	if err != nil {
		return err
	}
	// The first PublishResources waits for the API server, so it must not run in publish.
	newest := make(chan *devtree.Tree, 1)
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case tree := <-newest:
				if err := h.PublishResources(ctx, *helper.Resources(driverName, *node, tree)); err != nil {
					klog.ErrorS(err, "Devices not published")
				}
			case <-ctx.Done():
				return
			}
		}
	})
	defer running.Wait()
	defer cancel()
	return plugin.Watch(ctx, func(tree *devtree.Tree) {
		select {
		case <-newest: // replace the one that waits
		default:
		}
		newest <- tree // only this function sends
	})
}

// noClaims refuses all claims.
type noClaims struct{}

var errClaims = errors.New("this driver prepares no claims")

func (noClaims) PrepareResourceClaims(
	context.Context, []*resourceapi.ResourceClaim,
) (map[types.UID]kubeletplugin.PrepareResult, error) {
	return nil, errClaims
}

func (noClaims) UnprepareResourceClaims(
	context.Context, []kubeletplugin.NamespacedObject,
) (map[types.UID]error, error) {
	return nil, errClaims
}

func (noClaims) HandleError(ctx context.Context, err error, message string) {
	klog.FromContext(ctx).Error(err, message)
}
