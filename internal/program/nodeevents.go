// SPDX-License-Identifier: Apache-2.0

package program

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
	node := v.server.Options.QAT.NodeName
	if err == nil && node == "" {
		err = errors.New("the name of the node is unknown: NODE_NAME is not set")
	}
	if err != nil {
		klog.ErrorS(err, "Not reporting Kubernetes Events")
		return
	}
	nodeevents.NewReporter(v, client, node, v.server.Controller).Run(ctx)
}
