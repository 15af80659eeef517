// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// messageSize exceeds every uevent: the kernel limits the variables to 2 KiB
// (UEVENT_BUFFER_SIZE), and one path precedes them.
const messageSize = 16 << 10

// prepareSocket sets up fd for a receiver and for Go's poller, and asks for bufferSize
// bytes of receive buffer.
func prepareSocket(fd, bufferSize int) error {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("set O_NONBLOCK: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return fmt.Errorf("set SO_PASSCRED: %w", err)
	}
	// SO_RCVBUFFORCE ignores net.core.rmem_max, but needs CAP_NET_ADMIN.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferSize) == nil {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bufferSize); err != nil {
		return fmt.Errorf("set SO_RCVBUF: %w", err)
	}
	return nil
}

// sender identifies the sender of a message, as the kernel reports it.
type sender struct {
	netlink bool   // port and groups are valid
	port    uint32 // nl_pid of the sending socket, 0 for the kernel
	groups  uint32 // nl_groups: 1 for a message to group 1, 0 for one to this socket only

	credentials bool   // pid and uid are valid (SCM_CREDENTIALS)
	pid         int32  // 0 for the kernel
	uid         uint32 // in the user namespace of this process
}

// isKernel reports whether the kernel itself sent the message to group 1. Port 0 does
// not prove it: with CAP_SYS_ADMIN, a process can have the kernel multicast its message
// from port 0 (uevent_net_rcv_skb in lib/kobject_uevent.c). Only the credentials remain
// those of the process.
func (s sender) isKernel() bool { return s == sender{netlink: true, groups: 1, credentials: true} }

// receiver reads messages and their senders without allocating: unix.Recvmsg allocates
// an address for each call, unix.ParseSocketControlMessage a slice. Its fields point at
// each other, so it must not be copied.
type receiver struct {
	message [messageSize]byte
	from    unix.RawSockaddrNetlink // the kernel truncates longer addresses of other families
	control struct {                // CMSG_DATA follows the header directly on every architecture
		header unix.Cmsghdr
		cred   unix.Ucred
	}
	iov unix.Iovec
	hdr unix.Msghdr
}

func newReceiver() *receiver {
	r := new(receiver)
	r.iov.Base = &r.message[0]
	r.iov.SetLen(len(r.message))
	r.hdr.Name = (*byte)(unsafe.Pointer(&r.from))
	r.hdr.Control = (*byte)(unsafe.Pointer(&r.control))
	r.hdr.Iov = &r.iov
	r.hdr.SetIovlen(1)
	return r
}

// receive reads one message into r.message without waiting. The size is valid if errno is 0.
func (r *receiver) receive(fd uintptr) (size int, errno unix.Errno) {
	for {
		// The kernel overwrites both with what it stored, and sets the flags.
		r.hdr.Namelen = uint32(unsafe.Sizeof(r.from))
		r.hdr.SetControllen(int(unsafe.Sizeof(r.control)))
		n, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.hdr)),
			unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// truncated reports whether the last message did not fit into r.message.
func (r *receiver) truncated() bool { return r.hdr.Flags&unix.MSG_TRUNC != 0 }

// sender returns the sender of the last message.
func (r *receiver) sender() sender {
	var s sender
	if r.hdr.Namelen >= uint32(unsafe.Sizeof(r.from)) && r.from.Family == unix.AF_NETLINK {
		s.netlink, s.port, s.groups = true, r.from.Pid, r.from.Groups
	}
	h, size := &r.control.header, unix.CmsgLen(unix.SizeofUcred)
	if int(r.hdr.Controllen) >= size && int(h.Len) == size &&
		h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_CREDENTIALS {
		s.credentials, s.pid, s.uid = true, r.control.cred.Pid, r.control.cred.Uid
	}
	return s
}

// socketDrops returns the number of messages that the kernel dropped because the
// socket's buffer was full.
func socketDrops(fd uintptr) (uint32, unix.Errno) {
	const drops = 8 // SK_MEMINFO_DROPS in linux/sock_diag.h
	var info [drops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	return info[drops], errno
}
