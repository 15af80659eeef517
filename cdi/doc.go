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
// When a Tree is published, a file holds exactly the container edits of each device that it
// names. A changed entry is written before its Tree is published, so the previous Tree briefly
// names the new edits. An entry is removed only after a Tree without the device has been
// published, unless another process defines the device too.
//
// A file is replaced atomically: a container runtime reads the old file or the new one. The
// Writer watches the directory. A file that others change or delete is restored at once, and if
// they go on, after growing pauses of at most a minute.
//
// Files stay on disk when Run returns, so that containers can restart while the plugin does.
//
// # Several processes
//
// Any number of processes may have the same directory, vendor and class, and none of them touches
// a file of another one that lives. All devices of a class that a process offers are in one file,
// "<vendor>-<class>_device-plugin.json". If another process owns that file, the name ends in "-2",
// "-3" and so on instead. The owner holds a lock on the file ".<name>.lock" beside it, which also
// works between containers; lslocks(8) shows it. The kernel releases the lock when the process
// ends.
//
// A runtime refuses a device that two files define. So a device belongs to the process that
// defined it first. Another process that has it too publishes it without a CDI name, and logs the
// name of the file. It defines the device as soon as the owner no longer has it. If the owner has
// ended, it replaces the file of the owner, at once or within two seconds if the owner was killed.
// So a device that both have can be resolved all the time. If two processes define a device in the
// same moment, the one whose file has the higher number gives it up.
//
// A process takes over the files of dead processes that define one of its devices. With its first
// Tree, it also takes over all files of the vendor that its own program has left behind, and
// removes their entries that it does not need. Files of other programs may be needed again soon,
// so they stay. It never changes a file with another name or of another kind.
//
// # Failures
//
// A file that cannot be written stops nothing. New and changed devices are published without CDI
// names, the log says how to solve the problem, and the Writer retries. A device that CDI cannot
// describe is published without a CDI name too: one with an ID that is not a valid CDI name, one
// of a resource whose name is not a valid CDI class (if Config.Class is empty), one without
// container edits, and one whose CDI name belongs to a device with other edits. An error with the
// same cause is logged once in ten minutes.
//
// # Limits
//
// The Writer does not read files with other names, so it does not know that one of them defines the
// same device. It does not notice at once that the directory was mounted over, or moved with its
// parent, but with the next Tree.
package cdi
