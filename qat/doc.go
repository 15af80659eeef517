// SPDX-License-Identifier: Apache-2.0

// Package qat reports the Intel QuickAssist (QAT) devices of a host as
// [devtree.Tree] snapshots, for the Manager of package kubeletapi.
//
// A [Plugin] runs in one of two modes. ModeDPDK lists the virtual functions (VFs) that user space
// can drive through VFIO or UIO, and binds VFs to the driver that user space needs for it.
// ModeKernel lists the processes that Intel's out-of-tree QAT driver is configured for.
//
// The Plugin subscribes to its event sources, reads the host once, and from then on reads only
// what an event names. Events say where to look; sysfs says what is true there. So the Tree does
// not depend on the order of events, and after a loss, which the sources report, everything is
// read again. A slow audit checks that nothing was missed.
//
// With a Config.ProvisioningDir, the Plugin also gives PFs the services and VFs that an
// administrator wants them to have. That runs beside the mode, which sees VFs come and go as
// always.
//
// The package knows nothing of gRPC or the kubelet.
package qat
