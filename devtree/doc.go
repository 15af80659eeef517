// SPDX-License-Identifier: Apache-2.0

// Package devtree holds immutable snapshots of the devices that a device plugin offers.
//
// A [Tree] maps resource names to devices. It never changes once it is built, so readers need no
// lock. [Tree.Edit] starts a [Builder], which makes the next Tree; start with new(Tree).Edit().
// The next Tree shares everything that did not change with the previous one, so comparing two
// pointers answers whether a resource, a device or a whole Tree changed. A plugin that rescans
// all devices instead of following single changes builds each Tree from nothing; [Tree.After]
// then makes it the successor of the previous one. [Diff] lists the differences.
//
// A successor keeps all resources of its predecessor, even without devices: the kubelet
// keeps a resource only while the plugin serves it, and for five minutes after that.
//
// A Tree only holds names and devices that Kubernetes accepts. [Builder.Put] and [Builder.Keep]
// return an error that states the broken rule and leave the Builder unchanged, so that a caller
// can skip one bad device and go on. Put stores a copy: the caller may modify its Device
// afterwards. A Device read from a Tree must not be modified.
//
// A [Publisher] distributes the newest Tree to any number of readers. Each [Subscription]
// follows one resource. A slow reader skips intermediate states but never the last one,
// and publishing never waits for a reader.
//
// A Tree and a Publisher may be used from several goroutines, a Builder and a
// Subscription from one at a time. The package starts no goroutines. It does not know
// where devices come from or who receives the Trees.
package devtree
