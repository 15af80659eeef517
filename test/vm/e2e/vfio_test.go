package e2e

import (
	"os"
	"path/filepath"
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

// hold opens a VF as a workload does and returns what lets go of it.
func hold(t *testing.T, address string) (release func()) {
	t.Helper()
	container, err := os.OpenFile("/dev/vfio/vfio", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	group, err := os.OpenFile("/dev/vfio/"+base(filepath.Join(pciDevices, address, "iommu_group")), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(group.Fd()), vfioGroupSetContainer, int(container.Fd())); err != nil {
		t.Fatalf("give the group of %s a container: %v", address, err)
	}
	if err := unix.IoctlSetInt(int(container.Fd()), vfioSetIOMMU, vfioType1v2); err != nil {
		t.Fatalf("choose the IOMMU of %s: %v", address, err)
	}
	name, err := unix.BytePtrFromString(address)
	if err != nil {
		t.Fatal(err)
	}
	device, _, errno := unix.Syscall(unix.SYS_IOCTL, group.Fd(), vfioGroupGetDeviceFD, uintptr(unsafe.Pointer(name)))
	if errno != 0 {
		t.Fatalf("open %s: %v", address, errno)
	}
	release = sync.OnceFunc(func() {
		unix.Close(int(device))
		group.Close()
		container.Close()
	})
	t.Cleanup(release) // the module cannot be unloaded before
	return release
}
