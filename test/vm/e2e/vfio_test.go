// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of linux/vfio.h: _IO(';', 100 + n).
const (
	vfioSetIOMMU          = ';'<<8 | 102
	vfioGroupSetContainer = ';'<<8 | 104
	vfioGroupGetDeviceFD  = ';'<<8 | 106
	vfioType1v2           = 3
)

// openVF opens a VF as a workload does. It is closed when the test ends, or by closeVF.
func openVF(t *testing.T, address string) (closeVF func()) {
	t.Helper()
	container, err := os.OpenFile("/dev/vfio/vfio", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	group, err := os.OpenFile("/dev/vfio/"+groupOf(address), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(group.Fd()), vfioGroupSetContainer, int(container.Fd())); err != nil {
		t.Fatalf("set the container of the group of %s: %v", address, err)
	}
	if err := unix.IoctlSetInt(int(container.Fd()), vfioSetIOMMU, vfioType1v2); err != nil {
		t.Fatalf("set the IOMMU type for %s: %v", address, err)
	}
	name, err := unix.BytePtrFromString(address)
	if err != nil {
		t.Fatal(err)
	}
	device, _, errno := unix.Syscall(unix.SYS_IOCTL, group.Fd(), vfioGroupGetDeviceFD, uintptr(unsafe.Pointer(name)))
	if errno != 0 {
		t.Fatalf("open %s: %v", address, errno)
	}
	closeVF = sync.OnceFunc(func() {
		unix.Close(int(device))
		group.Close()
		container.Close()
	})
	t.Cleanup(closeVF) // the module cannot be unloaded before
	return closeVF
}
