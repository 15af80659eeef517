// SPDX-License-Identifier: Apache-2.0

package nodelock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"
)

// wantHeld fails the test unless the error says that the other front has the lock.
func wantHeld(t *testing.T, err error, want string) {
	t.Helper()
	if !errors.Is(err, errHeld) || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestFrontsOfTwoProcessesExcludeEachOther(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first Front
		text  string
	}{
		{"the device plugin is first", DevicePlugin, "the device plugin has locked "},
		{"the DRA driver is first", DRADriver, "the DRA driver has locked "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.lock")
			second, _ := tt.first.other()
			want := tt.text + path + ": it must end first"
			holder := startProcess(t, path, tt.first)
			if holder.err != "<nil>" {
				t.Fatalf("the first process: %s", holder.err)
			}
			if refused := startProcess(t, path, second); refused.err != want {
				t.Errorf("the second process: %s, want %s", refused.err, want)
			}
			wantHeld(t, look(path, second), want)
			_, err := acquire(path, second)
			wantHeld(t, err, want)

			holder.kill()
			if err := look(path, second); err != nil {
				t.Errorf("after SIGKILL, look: %v", err)
			}
			lock, err := acquire(path, second)
			if err != nil {
				t.Fatalf("after SIGKILL of the first process: %v", err)
			}
			lock.Close()
		})
	}
}

// During a rolling update, two instances of a front run. The lock ends with the last one.
func TestInstancesOfOneFrontShareTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.lock")
	older, newer := startProcess(t, path, DRADriver), startProcess(t, path, DRADriver)
	if older.err != "<nil>" || newer.err != "<nil>" {
		t.Fatalf("two DRA drivers: %s and %s", older.err, newer.err)
	}
	want := "the DRA driver has locked " + path + ": it must end first"
	older.end()
	wantHeld(t, look(path, DevicePlugin), want)
	newer.end()
	if err := look(path, DevicePlugin); err != nil {
		t.Errorf("after the end of both: %v", err)
	}
}

// A device plugin that starts waits while a DRA driver is between its look at the lock and taking
// it.
func TestStartsDoNotInterleave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x.lock")
		driver, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer driver.Close()
		if err := lock(driver, unix.F_WRLCK, claimByte); err != nil {
			t.Fatal(err)
		}
		if err := checkFree(driver, DRADriver); err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		go func() {
			_, err := acquire(path, DevicePlugin)
			result <- err
		}()
		synctest.Wait()
		err = errors.Join(lock(driver, unix.F_RDLCK, DRADriver), lock(driver, unix.F_UNLCK, claimByte))
		if err != nil {
			t.Fatal(err)
		}
		wantHeld(t, <-result, "the DRA driver has locked "+path+": it must end first")
	})
}

// A process that is frozen while it starts does not stop others forever, and is not mistaken for a
// free lock.
func TestFrozenStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x.lock")
		frozen, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer frozen.Close()
		if err := lock(frozen, unix.F_WRLCK, claimByte); err != nil {
			t.Fatal(err)
		}
		_, err = acquire(path, DevicePlugin)
		wantHeld(t, err, "another process has been starting for 1s, see /proc/locks for "+path+": it must end first")
	})
}

func TestSymbolicLinkIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.lock")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), path); err != nil {
		t.Fatal(err)
	}
	if _, err := acquire(path, DevicePlugin); !errors.Is(err, unix.ELOOP) {
		t.Errorf("error %v, want %v", err, unix.ELOOP)
	}
}

func BenchmarkAcquire(b *testing.B) {
	path := filepath.Join(b.TempDir(), "x.lock")
	for b.Loop() {
		lock, err := acquire(path, DevicePlugin)
		if err != nil {
			b.Fatal(err)
		}
		lock.Close()
	}
}
