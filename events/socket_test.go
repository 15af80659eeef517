// SPDX-License-Identifier: Apache-2.0

package events

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pilebones/go-udev/netlink"
	"golang.org/x/sys/unix"
	"qatplugin/internal/testenv"
)

// socketPair returns two connected sockets. Closing them is up to the caller.
func socketPair(t testing.TB, kind int) (ours, peer int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	return fds[0], fds[1]
}

func send(t testing.TB, fd int, message string) {
	t.Helper()
	if _, err := unix.Write(fd, []byte(message)); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// wantSender receives one message and checks its sender.
func wantSender(t *testing.T, r *receiver, fd int, want sender) {
	t.Helper()
	if _, errno := r.receive(uintptr(fd)); errno != 0 {
		t.Fatalf("receive: %v", errno)
	}
	if got := r.sender(); got != want {
		t.Errorf("sender %+v, want %+v", got, want)
	}
}

func TestIsKernel(t *testing.T) {
	kernel := sender{netlink: true, port: 0, groups: 1, credentials: true, pid: 0, uid: 0}
	if !kernel.isKernel() {
		t.Error("the kernel's own message is rejected")
	}
	for name, change := range map[string]func(*sender){
		"other family":   func(s *sender) { s.netlink = false },
		"other port":     func(s *sender) { s.port = 1 },
		"unicast":        func(s *sender) { s.groups = 0 },
		"udevd's group":  func(s *sender) { s.groups = 2 },
		"groups 1 and 2": func(s *sender) { s.groups = 3 },
		"no credentials": func(s *sender) { s.credentials = false },
		"a process":      func(s *sender) { s.pid = 1 },
		"another user":   func(s *sender) { s.uid = 1000 },
	} {
		s := kernel
		change(&s)
		if s.isKernel() {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestReceiverReportsCredentialsPerMessage(t *testing.T) {
	fd, peer := socketPair(t, unix.SOCK_DGRAM)
	defer unix.Close(fd)
	defer unix.Close(peer)
	r := newReceiver()
	self := sender{credentials: true, pid: int32(os.Getpid()), uid: uint32(os.Getuid())}
	for round := range 4 {
		pass := round % 2
		must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, pass))
		send(t, peer, "add@/x\x00")
		wantSender(t, r, fd, [...]sender{{}, self}[pass])
	}
}

func TestReceiverIgnoresOtherControlMessages(t *testing.T) {
	fd, peer := socketPair(t, unix.SOCK_DGRAM)
	defer unix.Close(fd)
	defer unix.Close(peer)
	// Three descriptors are as long as credentials.
	must(t, unix.Sendmsg(peer, []byte("add@/x\x00"), unix.UnixRights(peer, peer, peer), nil, 0))
	r := newReceiver()
	wantSender(t, r, fd, sender{})
	passed := r.control.cred
	for _, fd := range []int{int(passed.Pid), int(passed.Uid), int(passed.Gid)} {
		must(t, unix.Close(fd))
	}
}

func TestReceiverIgnoresAddressOfOtherFamily(t *testing.T) {
	var fds [2]int
	var names [2]*unix.SockaddrUnix
	for i := range fds {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(fd)
		names[i] = &unix.SockaddrUnix{Name: fmt.Sprintf("@qatplugin-events-test-%d-%d", os.Getpid(), i)}
		must(t, unix.Bind(fd, names[i]))
		fds[i] = fd
	}
	must(t, unix.Sendto(fds[1], []byte("add@/x\x00"), 0, names[0]))
	wantSender(t, newReceiver(), fds[0], sender{})
}

func TestReceiverReportsTruncation(t *testing.T) {
	fd, peer := socketPair(t, unix.SOCK_DGRAM)
	defer unix.Close(fd)
	defer unix.Close(peer)
	r := newReceiver()
	for _, size := range []int{messageSize, messageSize + 1, 1} {
		send(t, peer, strings.Repeat("a", size))
		got, errno := r.receive(uintptr(fd))
		if errno != 0 || got != min(size, messageSize) || r.truncated() != (size > messageSize) {
			t.Errorf("message of %d bytes: got %d, %v, truncated %v", size, got, errno, r.truncated())
		}
	}
	if _, errno := r.receive(uintptr(fd)); errno != unix.EAGAIN {
		t.Errorf("empty queue: %v, want EAGAIN", errno)
	}
}

func TestPrepareSocket(t *testing.T) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, prepareSocket(fd, 1<<16))
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v; want CLOEXEC", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("file flags %#x, %v; want NONBLOCK", flags, err)
	}
	if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED); err != nil || v != 1 {
		t.Errorf("SO_PASSCRED is %d, %v; want 1", v, err)
	}
}

func TestReceiveBufferExceedsRmemMaxIfPermitted(t *testing.T) { wantLargestReceiveBuffer(t) }

func TestReceiveBufferWithoutPermission(t *testing.T) {
	if testenv.InNamespaces(t, unix.CLONE_NEWNET) { // root here lacks CAP_NET_ADMIN in the first user namespace
		wantLargestReceiveBuffer(t)
	}
}

func wantLargestReceiveBuffer(t *testing.T) {
	t.Helper()
	fd, reference := socketPair(t, unix.SOCK_DGRAM)
	defer unix.Close(fd)
	defer unix.Close(reference)
	const size = 64 << 20
	forced := unix.SetsockoptInt(reference, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	if forced != nil {
		must(t, unix.SetsockoptInt(reference, unix.SOL_SOCKET, unix.SO_RCVBUF, size))
	}
	must(t, prepareSocket(fd, size))
	got, want := receiveBuffer(t, fd), receiveBuffer(t, reference)
	if got != want {
		t.Errorf("receive buffer of %d bytes, want %d (SO_RCVBUFFORCE: %v)", got, want, forced)
	}
}

// receiveBuffer returns the receive buffer as it was requested: the kernel doubles it for
// its own use (socket(7)).
func receiveBuffer(t testing.TB, fd int) int {
	t.Helper()
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	must(t, err)
	return size / 2
}

// The two builds open the socket by different code. Whatever the build, the socket must be what
// go-udev opens, but closed in a child process.
func TestUeventSocketIsThatOfGoUdev(t *testing.T) {
	type state struct {
		domain, kind, protocol int
		groups                 uint32
		flags, closeOnExec     int
	}
	stateOf := func(fd int) (s state) {
		t.Helper()
		for option, v := range map[int]*int{
			unix.SO_DOMAIN: &s.domain, unix.SO_TYPE: &s.kind, unix.SO_PROTOCOL: &s.protocol,
		} {
			var err error
			*v, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
			must(t, err)
		}
		name, err := unix.Getsockname(fd)
		must(t, err)
		s.groups = name.(*unix.SockaddrNetlink).Groups
		s.flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		must(t, err)
		s.closeOnExec, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		must(t, err)
		return s
	}
	var conn netlink.UEventConn
	must(t, conn.Connect(netlink.KernelEvent))
	defer unix.Close(conn.Fd)
	want := stateOf(conn.Fd)
	want.closeOnExec = unix.FD_CLOEXEC
	fd, err := openUeventSocket()
	must(t, err)
	defer unix.Close(fd)
	if got := stateOf(fd); got != want {
		t.Errorf("the socket is %+v, want %+v", got, want)
	}
}

// Without a free descriptor there is no socket, and none is left behind.
func TestUeventSocketThatCannotBeOpened(t *testing.T) {
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET) { // other tests of this process open files
		return
	}
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	var none unix.Rlimit
	none.Max = limit.Max
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &none))
	_, err := openUeventSocket()
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if !errors.Is(err, unix.EMFILE) || err.Error() != "open uevent socket: too many open files" {
		t.Errorf("error %v, want that of the operation, and EMFILE", err)
	}
}
