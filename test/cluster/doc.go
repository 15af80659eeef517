// SPDX-License-Identifier: Apache-2.0

// Package cluster tests the deployments on a real one-node Kubernetes: it installs them
// as users do, and checks the resources of the Node and the devices of its pods.
//
// run.sh starts the node and runs the tests; a plain `go test` runs none. It is a module
// of its own, so that the product does not depend on Kubernetes. gomod.sh updates its
// go.mod.
package cluster
