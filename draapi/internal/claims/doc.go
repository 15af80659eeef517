// SPDX-License-Identifier: Apache-2.0

// Package claims prepares and unprepares ResourceClaims, and knows which claim holds which device.
//
// # State
//
// A prepared claim is a CDI spec file, "<driver>-claim-<UID>.json", which also contains what a
// [Store] knows of the claim. There is no other checkpoint, so the two cannot disagree. The file
// is replaced atomically and before the answer: whenever the process is killed, the next one
// reads the file or finds none, and the kubelet, which has no answer, asks again.
//
// [Store.Refresh] replaces the file of a claim whose devices have other device nodes than before.
// So the file is right when a container restarts, for which the kubelet does not call the driver.
//
// Several processes may share a directory, as the two instances of a rolling update do. Each reads
// the files of the other before it decides, and a lock (flock(2)) makes the decision and the write
// one step.
//
// The kubelet's checkpoint names the claims that it has asked to prepare, before it asks. Claims
// of pods that have disappeared meanwhile, for example because they were deleted by force while
// the node was down, are unprepared within a minute of its start (pkg/kubelet/cm/dra/manager.go,
// prepareResources and reconcileLoop). So a Store does not look for claims that no longer exist.
package claims
