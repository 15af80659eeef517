// SPDX-License-Identifier: Apache-2.0

//go:build nogpl

package events

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// openUeventSocket opens a netlink socket that is a member of group 1, the kernel's uevents
// (netlink(7); lib/kobject_uevent.c, uevent_net_broadcast_untagged). It replaces go-udev in a build
// without code under the GPL.
func openUeventSocket() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, fmt.Errorf("open uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("open uevent socket: %w", err)
	}
	return fd, nil
}
