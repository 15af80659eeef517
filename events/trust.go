package events

// Sender is who sent a message, as the kernel says.
type Sender struct {
	Netlink bool   // it came over netlink: Port and Groups are known
	Port    uint32 // nl_pid of the sending socket; 0: the kernel's own
	Groups  uint32 // nl_groups: 1 when it was sent to group 1, 0 when to this socket alone

	Credentials bool   // it carried SCM_CREDENTIALS: PID and UID are known
	PID         int32  // 0: no process, but the kernel
	UID         uint32 // in this process's user namespace
}

// Trust says whether messages of a sender count. It is asked for every message, by the reader: it returns at once.
type Trust func(Sender) bool

// TrustKernel trusts the kernel alone. The port does not suffice: a process with CAP_SYS_ADMIN can have the kernel multicast a message of its own
// (uevent_net_rcv_skb in lib/kobject_uevent.c), which then comes from port 0. Its credentials stay the process's.
func TrustKernel(s Sender) bool {
	return s.Netlink && s.Port == 0 && s.Groups == 1 && s.Credentials && s.PID == 0 && s.UID == 0
}

// TrustAnyone trusts whoever can reach the socket. It is for a socket pair of one's own.
func TrustAnyone(Sender) bool { return true }
