// SPDX-License-Identifier: Apache-2.0

// Package telemetry reads what the drivers of PFs show about their work, and switches the telemetry
// of the devices on.
//
// The files are in debugfs and sysfs, and each of them is absent with some drivers and kernels:
//
//   - kernel/debug/qat_<driver>_<PF>/telemetry/ of 4xxx and 420xx since Linux 6.8, and of 6xxx:
//     utilization, bandwidth and latency. The device measures them only while telemetry/control is
//     not 0 (Documentation/ABI/testing/debugfs-driver-qat_telemetry).
//   - fw_counters since Linux 6.6: messages to and from each engine. cnv_errors since Linux 6.7:
//     errors that compress-and-verify found (Documentation/ABI/testing/debugfs-driver-qat).
//   - qat_ras/ in the directory of the PF, of 4xxx, 420xx and 6xxx since Linux 6.7: hardware errors
//     (Documentation/ABI/testing/sysfs-driver-qat_ras).
//   - aer_dev_* in the directory of the PF, of any PCIe function: errors of the link and of
//     transactions (Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats).
//
// The kernel can block each access for as long as it likes: to read the counters of an engine,
// the driver sends a message to the firmware and waits for the answer. Each PF therefore has at
// most one goroutine that reads and one that writes. If one does not return, it affects no other
// PF, and no second one starts.
package telemetry
