// Package kernelmode reports what QAT processes the out-of-tree QAT driver stack of a host is configured for: the plugin's -mode kernel.
//
// There the kernel's own driver keeps the devices, and a container gets no device of its own but the right to be one process of a section of
// the devices' configuration files. Each such right is a unit, and so a device of a Tree. Units follow from four things alone, which are read again
// whenever one of them may have changed:
//
//   - what `adf_ctl status` prints: which devices there are, and which are up
//   - the files <type>_dev<N>.conf: the sections, and how many processes each serves
//   - sysfs: whether there is an IOMMU, and which UIO devices each function has
//   - the nodes in /dev
//
// # What it guarantees
//
//   - No history: which events came, in what order and how often leaves no trace in the Tree. Each Tree shares what did not change with the one before.
//   - A file, a link or a node that changed is seen at once; it does not wait for adf_ctl.
//   - adf_ctl runs at the start, when an event says that the devices may be others, and at the audit; never two at once. However many
//     events come while it runs, it runs once more. It has a deadline, at which its whole process group is killed. When it fails, what
//     it said last stays true of those devices that sysfs still shows, and it is tried again with back-off.
//   - After an event at which status and sysfs contradict each other, as they do in the midst of a device's start or stop, it runs
//     again up to three times within some seconds: the driver announces its last step to nobody.
//   - A device or section that is broken or inconsistent is left out, with its reason in the log once and in [Plugin.LeftOut]. The others stay.
//   - All goroutines and processes that Watch started have ended when it returns.
//
// # What it leaves out
//
// It changes nothing on the host, and does not know which process of a section a container becomes: the QAT library decides that. A configuration
// file counts as it is on disk; whether the device was restarted since is not looked at.
package kernelmode
