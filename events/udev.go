package events

import (
	"fmt"
	"syscall"

	"github.com/pilebones/go-udev/netlink"
)

// openUeventSocket opens a netlink socket that is joined to the kernel's uevents, group 1.
//
// This is all that is used of go-udev, whose licence is the GPL; to exchange it, exchange this file. Its Monitor and Close are never called: they
// do not end a blocked read, and Close leaves the reader on a descriptor number that may by then be another file's. So the caller
// owns the descriptor.
func openUeventSocket() (fd int, err error) {
	// go-udev opens the socket without CLOEXEC. Under this lock no child of ours can start before the flag is set.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var conn netlink.UEventConn
	if err := conn.Connect(netlink.KernelEvent); err != nil {
		return -1, fmt.Errorf("open uevent socket: %w", err) // Connect has closed what it opened
	}
	syscall.CloseOnExec(conn.Fd)
	return conn.Fd, nil
}
