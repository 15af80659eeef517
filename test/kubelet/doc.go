// Package kubelet holds no code: its tests let the project's kubeletapi.Manager and qat_plugin work with the kubelet's own device
// manager (package devicemanager), in a mount namespace of the test's own.
//
// Run them with: go test -race . (and -args -kubelet-logs, to see what both sides log). Compiled for the first time, Kubernetes takes some
// minutes.
//
// It is a module of its own, so that Kubernetes is no dependency of the product. See gomod.sh for how its go.mod is kept.
package kubelet
