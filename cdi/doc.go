// SPDX-License-Identifier: Apache-2.0

// Package cdi keeps spec files of the Container Device Interface (CDI) in line
// with the newest [devtree.Tree].
//
// A [Writer] stands between a plugin that reports devices and whoever offers
// them to containers: Trees go in, and the same Trees come out with the CDI names
// of the devices whose specs are on disk. A device is the CDI device
// "<vendor>/<class>=<ID>". Its spec injects the device nodes, mounts and
// environment of the device; CDI has no annotations for containers.
//
// # Guarantees
//
// A spec is on disk before a Tree names it, and is removed only after a Tree
// without the device has been published. A Tree names a device only if the file holds
// exactly its container edits.
//
// All devices of a class are in one file, "<vendor>-<class>_device-plugin.json",
// which is replaced atomically: a container runtime reads the old file or the new
// one. One file is cheaper than one per device because a runtime reads every file
// again when one changes: if 16 of 1024 devices change at once, it spends 14 ms with
// one file, and 16 times 44 ms with one file per device (BenchmarkRuntimeReadsSpecs).
// Writing the larger file costs about 0.3 ms more (BenchmarkOneChange and
// BenchmarkFilePerDevice, on tmpfs).
//
// Files stay on disk when Run returns, so that containers can restart while the
// plugin does. With its first Tree, the next Writer takes over the files of its
// vendor, and removes those of classes without devices. It never changes a file with
// another name, and never removes one of another kind.
//
// A file that cannot be written stops nothing. Its new devices are published without
// CDI names, the log says how to solve the problem, and the Writer retries. A device
// that CDI cannot describe is published without a CDI name too: one with an ID that
// is not a valid CDI name, one without container edits, and one whose CDI name
// belongs to a device with other edits.
package cdi
