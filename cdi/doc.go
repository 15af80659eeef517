// SPDX-License-Identifier: Apache-2.0

// Package cdi keeps spec files of the Container Device Interface (CDI) in sync
// with the newest [devtree.Tree].
//
// A [Writer] receives Trees from a plugin, writes spec files for their devices, and
// publishes the same Trees with the CDI names of the devices that a spec file on disk
// describes. A device is the CDI device
// "<vendor>/<class>=<ID>". Its entry in the file injects the device nodes, mounts and
// environment of the device; CDI has no annotations for containers.
//
// A [Spec] is a single file that its owner writes itself, in the same way. What follows is about
// the Writer.
//
// # Guarantees
//
// When a Tree is published, a file holds exactly the container edits of each device that it
// names. A changed entry is written before its Tree is published, so the previous Tree briefly
// names the new edits. An entry is removed only after a Tree without the device has been
// published, unless another process defines the device too.
//
// A file is replaced atomically: a container runtime reads the old file or the new one. The
// Writer watches the directory. When another process changes or deletes a file, the Writer
// restores it at once. If that happens again and again, the Writer waits longer each time, up to a
// minute.
//
// Files stay on disk when Run returns, so that containers can restart while the plugin does.
//
// # Several processes
//
// Any number of processes may use the same directory, vendor and class. A process never changes a
// file that another running process owns. All devices of a class that a process offers are in one
// file, "<vendor>-<class>_device-plugin.json". If another process owns that file, the name ends
// in "-2", "-3" and so on instead. The owner holds a lock on the file ".<name>.lock" beside it,
// which also works between containers; lslocks(8) shows it. The kernel releases the lock when the
// process ends.
//
// A runtime refuses a device that two files define. A device therefore belongs to the process that
// defined it first. Another process that offers the same device publishes it without a CDI name,
// and logs the name of the owner's file. It defines the device as soon as the owner stops offering
// it. When the owner ends, the other process takes over the owner's file: at once, or within two
// seconds if the owner was killed. A device that both processes offer can therefore be resolved at
// any time. If two processes define a device at the same moment, the process whose file has the
// higher number removes its entry.
//
// A process takes over the files of dead processes that define one of its devices. With its first
// Tree, it also takes over all files of the vendor that an earlier process of the same program
// left behind, and removes the entries that it does not need. It leaves the files of other
// programs alone, because those programs may start again. It never changes a file with another
// name or of another kind.
//
// # Failures
//
// If a file cannot be written, the Writer publishes new and changed devices without CDI names,
// logs how to solve the problem, and retries. It also publishes a device without a CDI name if
// CDI cannot describe the device: its ID is not a valid CDI name, its resource is not a valid CDI
// class (if Config.Class is empty), it has no container edits, or a device with other edits has
// the same CDI name. An error with the same cause is logged once in ten minutes.
//
// # Limits
//
// The Writer does not read files with other names, so it does not detect that one of them defines
// the same device. If the directory is mounted over, or moved with its parent, the Writer notices
// only when it gets the next Tree.
package cdi
