// Package deployments holds no code: its tests read deployments/ as a cluster would, with the libraries of kustomize, Helm and Pod Security,
// and the real qat_plugin. They hold that what is rendered is what testdata/ has, that the chart renders the same objects, that no grant came in
// unnoticed, and that the program takes what it is told and finds it mounted.
//
// Run them with: go test -count=1 . Without -count=1 go may answer from its cache, which does not see files outside of this module. After a
// change of deployments/ that is meant, go test -count=1 . -update writes testdata/ anew, and git diff shows what a cluster would see of it.
//
// It is a module of its own, so that kustomize and Helm are no dependencies of the product.
package deployments
