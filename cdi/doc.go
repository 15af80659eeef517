// SPDX-License-Identifier: Apache-2.0

// Package cdi keeps spec files of the Container Device Interface (CDI) in line
// with the newest [devtree.Tree].
//
// A [Writer] stands between a plugin that reports devices and whoever offers
// them to containers: Trees go in, and the same Trees come out with the CDI names
// of the devices that a spec file on disk describes. A device is the CDI device
// "<vendor>/<class>=<ID>". Its entry in the file injects the device nodes, mounts and
// environment of the device; CDI has no annotations for containers.
//
// # Guarantees
//
// When a Tree is published, the file holds exactly the container edits of each device that it
// names. A changed entry is written before its Tree is published, so the previous Tree briefly
// names the new edits. An entry of this Run is removed only after a Tree without the device has
// been published; those of earlier runs may be removed with the first write.
//
// All devices of a class are in one file, "<vendor>-<class>_device-plugin.json",
// which is replaced atomically: a container runtime reads the old file or the new
// one. The Writer looks at its files only when a Tree arrives or a retry is due; it
// then replaces a file that others have changed or deleted.
//
// Files stay on disk when Run returns, so that containers can restart while the
// plugin does. With its first Tree, the next Writer takes over the files of its
// vendor, and removes those of classes without devices. It never changes a file with
// another name, and never removes one of another kind.
//
// A file that cannot be written stops nothing. New and changed devices are published without CDI
// names, the log says how to solve the problem, and the Writer retries. A device that CDI cannot
// describe is published without a CDI name too: one with an ID that is not a valid CDI name, one
// of a resource whose name is not a valid CDI class (if Config.Class is empty), one without
// container edits, and one whose CDI name belongs to a device with other edits.
package cdi
