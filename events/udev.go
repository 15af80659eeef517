// SPDX-License-Identifier: Apache-2.0

//go:build !nogpl

package events

import (
	"fmt"
	"syscall"

	"github.com/pilebones/go-udev/netlink"
)

// openUeventSocket opens a netlink socket that is a member of group 1, the kernel's uevents.
//
// The use of go-udev is the project's choice: it opens and binds the socket. The caller
// owns the descriptor and adds the buffer size, the sender check, reading and parsing.
// Never use Monitor and Close of go-udev: they do not end a blocked read, and Close frees
// a descriptor number that the reader goes on using. The licence is the GPL: this file is
// the only user of go-udev, and udev_nogpl.go replaces it in a build with -tags nogpl.
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
