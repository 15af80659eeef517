// SPDX-License-Identifier: Apache-2.0

// Package draapi offers the devices of a plugin to Kubernetes through Dynamic Resource Allocation
// (DRA, API group resource.k8s.io/v1).
//
// The author of a driver implements [Plugin], whose one method publishes a new [devtree.Tree]
// whenever the devices change. A [Driver] does the rest: it publishes ResourceSlices, registers
// with the kubelet, prepares and unprepares claims, and reports the health of devices.
package draapi
