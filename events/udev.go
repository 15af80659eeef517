// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"syscall"

	"github.com/pilebones/go-udev/netlink"
)

// openUeventSocket opens a netlink socket that is a member of group 1, the kernel's uevents.
//
// This file contains the only use of go-udev, whose licence is the GPL; to replace
// go-udev, replace this file. Its Monitor and Close must not be used: they do not end a
// blocked read, and Close leaves the reader with a descriptor number that may soon
// belong to another file. The caller owns the descriptor instead.
func openUeventSocket() (fd int, err error) {
	// go-udev opens the socket without CLOEXEC. While this lock is held, no child
	// process can start and inherit it.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var conn netlink.UEventConn
	if err := conn.Connect(netlink.KernelEvent); err != nil { // on error it has closed the socket
		return -1, fmt.Errorf("open uevent socket: %w", err)
	}
	syscall.CloseOnExec(conn.Fd)
	return conn.Fd, nil
}
