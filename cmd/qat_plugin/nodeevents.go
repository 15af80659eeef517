// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"k8s.io/klog/v2"

	"qatplugin/internal/nodeevents"
)

// reportEvents reports problems as Kubernetes Events of the Node until ctx ends. Without what it
// needs for that it logs why, and returns.
func reportEvents(ctx context.Context, v *view, getenv func(string) string) {
	client, err := nodeevents.InCluster(getenv)
	if err == nil && v.node == "" {
		err = errors.New("the name of the node is unknown: NODE_NAME is not set")
	}
	if err != nil {
		klog.ErrorS(err, "Not reporting Kubernetes Events")
		return
	}
	nodeevents.NewReporter(v, client, v.node).Run(ctx)
}
