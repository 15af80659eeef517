// SPDX-License-Identifier: Apache-2.0

// Package kernelmode is the plugin's mode kernel, for hosts with the out-of-tree QAT driver stack.
//
// With that stack the kernel's own driver keeps the devices. A container gets no device of its
// own but the right to be one process of a section of the devices' configuration files. Each
// such right is a unit: a device of a Tree. The units follow from four things alone, which are
// read again whenever one of them may have changed:
//
//   - the output of `adf_ctl status`: which devices exist and which are up
//   - the files <type>_dev<N>.conf: the sections and their number of processes
//   - sysfs: whether there is an IOMMU, and each function's UIO devices
//   - the device nodes in /dev
//
// # Guarantees
//
//   - The order, number and kind of past events leave no trace in the Tree, with one exception:
//     a configuration file that cannot be parsed counts as it was before. A Tree shares what did
//     not change with the Tree before it.
//   - A changed link or node takes effect at once. A configuration file that was written, made or
//     removed takes effect when it has stayed the same for 100 ms, so that a file that is half
//     written never counts. Neither waits for adf_ctl. At the start, files count as they are.
//   - adf_ctl runs at the start, when an event says that the devices may have changed, and at
//     each audit. Two runs never overlap. However many events arrive during a run, they lead to
//     one more run. At its timeout, or after 1 MiB of output, the program is killed with its
//     process group. When a run fails, or its output makes no sense, the last answer stays valid
//     for those devices that sysfs still shows, and the run is repeated with back-off.
//   - When adf_ctl and sysfs contradict each other after an event, as they do while a device
//     starts or stops, adf_ctl runs up to three more times within seconds: no event reports the
//     last step of the driver.
//   - A device or section that is broken or inconsistent is skipped, with its reason. It does not
//     affect the others.
//   - When Close returns, the goroutines and processes of the mode have ended. The one exception is
//     an adf_ctl that the kernel blocks, so that it cannot be killed: Close does not wait for it
//     longer than two seconds.
//
// # Limits
//
// The mode changes nothing on the host. It leaves out the devices of Gen4 and later, whose VFs
// containers use through qatlib, in mode dpdk. It does not know which process of a section a
// container becomes: the QAT library decides that. A configuration file counts as it is on disk,
// even if the device was not restarted since it was written.
package kernelmode
