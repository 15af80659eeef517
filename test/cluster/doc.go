// Package cluster holds no code: its tests install the project's deployments on a real Kubernetes of one node, as people do, and look at what
// the node, and the pods on it, then have.
//
// run.sh makes the node and runs them; a plain `go test` says that there is none. It is a module of its own, so that Kubernetes is no
// dependency of the product. See gomod.sh for how its go.mod is kept.
package cluster
