// SPDX-License-Identifier: Apache-2.0

// Package kernelmode is the plugin's mode kernel, for hosts with the out-of-tree QAT driver stack.
//
// With that stack, the out-of-tree driver keeps the devices. A container does not get a device of
// its own. It gets the right to be one process of a section of the devices' configuration files.
// Each such right is a unit, which is a device of a Tree. The units depend only on the following,
// which the mode reads again whenever it may have changed:
//
//   - the output of `adf_ctl status`: which devices exist and which are up
//   - the files <type>_dev<N>.conf: the sections and their number of processes
//   - sysfs: whether there is an IOMMU, and each function's UIO devices
//   - the device nodes in /dev
//
// # Guarantees
//
//   - The Tree does not depend on the order, number and kind of past events, with one exception:
//     while a configuration file cannot be parsed, its last valid content stays in effect. A Tree
//     shares what did not change with the Tree before it.
//   - A changed link or node takes effect at once. A configuration file that was written, created
//     or removed takes effect when it has stayed the same for 100 ms, so that a partly written
//     file has no effect. Neither waits for adf_ctl. At the start, files take effect at once.
//   - adf_ctl runs at the start, when an event suggests that the devices have changed, and at
//     each audit. Two runs never overlap. All events that arrive during a run lead to one more
//     run. At its timeout, or after 1 MiB of output, the program is killed with its process
//     group. When a run fails, or its output cannot be parsed, the last answer stays in effect
//     for those devices that sysfs still shows, and the run is repeated with back-off.
//   - adf_ctl and sysfs contradict each other while a device starts or stops. After an event,
//     adf_ctl then runs up to three more times within seconds, because no event reports the last
//     step of the driver.
//   - A device or section that is broken or inconsistent is skipped, with its reason. It does not
//     affect the others.
//   - When Close returns, the goroutines and processes of the mode have ended. The one exception is
//     an adf_ctl that cannot be killed because the kernel blocks it. Close waits two seconds for
//     it.
//
// # Limits
//
// The mode changes nothing on the host. It skips the devices of Gen4 and later: containers use
// their VFs through qatlib, in mode dpdk. It does not know which process of a section a container
// becomes, because the QAT library decides that. A configuration file takes effect here as soon as
// it is written, even if the device has not been restarted with it.
package kernelmode
