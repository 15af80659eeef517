package events

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// messageSize is more than any uevent needs: the kernel puts at most 2 KiB of variables into one (UEVENT_BUFFER_SIZE), behind one path.
const messageSize = 16 << 10

// receiver reads messages and who sent them, without allocating: unix.Recvmsg makes an address for each call, and
// unix.ParseSocketControlMessage a slice. It must stay where it is (its parts point at each other), so it is used by pointer only.
type receiver struct {
	message [messageSize]byte
	from    unix.RawSockaddrNetlink // longer addresses of other families are cut by the kernel
	control struct {                // laid out as the kernel fills it: CMSG_DATA follows the header on every architecture
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

// receive reads one message into r.message, without waiting.
func (r *receiver) receive(fd uintptr) (n int, errno unix.Errno) {
	for {
		r.from.Family, r.control.header.Type = 0, 0
		r.hdr.Namelen = uint32(unsafe.Sizeof(r.from))
		r.hdr.SetControllen(int(unsafe.Sizeof(r.control)))
		r.hdr.Flags = 0
		size, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.hdr)), unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(size), 0
	}
}

// truncated says whether the message was longer than there was room.
func (r *receiver) truncated() bool { return r.hdr.Flags&unix.MSG_TRUNC != 0 }

// sender says who sent the message.
func (r *receiver) sender() Sender {
	var s Sender
	if r.hdr.Namelen >= uint32(unsafe.Sizeof(r.from)) && r.from.Family == unix.AF_NETLINK {
		s.Netlink, s.Port, s.Groups = true, r.from.Pid, r.from.Groups
	}
	h := &r.control.header
	if int(r.hdr.Controllen) >= unix.CmsgLen(unix.SizeofUcred) && h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_CREDENTIALS &&
		int(h.Len) == unix.CmsgLen(unix.SizeofUcred) {
		s.Credentials, s.PID, s.UID = true, r.control.cred.Pid, r.control.cred.Uid
	}
	return s
}

// meminfoDrops is SK_MEMINFO_DROPS of linux/sock_diag.h: an index into what SO_MEMINFO returns.
const meminfoDrops = 8

// socketDrops is how many messages the kernel had no room for in the socket.
func socketDrops(fd uintptr) (uint32, error) {
	var info [meminfoDrops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return info[meminfoDrops], nil
}
