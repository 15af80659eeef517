// SPDX-License-Identifier: Apache-2.0

// Package deployments tests the manifests in deployments/ with the libraries of
// kustomize, Helm and Pod Security, and with the real qat_plugin. The tests check that
//
//   - rendered manifests are those in testdata/, and the Helm chart renders the same objects
//   - every privilege of a pod is listed in the tests, with its reason
//   - the program accepts its arguments and finds the paths in them mounted
//
// Run them with `go test -count=1 .`, because the test cache of go ignores files outside
// of the module. After an intended change of deployments/, `go test -count=1 . -update`
// rewrites testdata/; git diff then shows what changes for a cluster.
//
// It is a module of its own, so that the product does not depend on kustomize and Helm.
package deployments
