// SPDX-License-Identifier: Apache-2.0

// Package kubelet tests kubeletapi.Manager and qat_plugin with the kubelet's own device manager
// (package devicemanager), and draapi.Driver with the kubelet's own managers of plugins and of
// claims. It contains only tests. They run in a mount namespace of their own.
//
// Run them with
//
//	go test -race .
//
// and with -args -kubelet-logs to see the logs of both sides. Compiling Kubernetes takes some
// minutes the first time.
//
// The package is in a module of its own, so that the product does not depend on Kubernetes.
// gomod.sh maintains its go.mod.
package kubelet
