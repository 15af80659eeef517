// SPDX-License-Identifier: Apache-2.0

package bind

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestWritesOfABind(t *testing.T) {
	setOverride := "vfio-pci > " + override
	otherUnbind := testAddress + " > bus/pci/drivers/uio_pci_generic/unbind"
	probeVF := testAddress + " > " + probe
	for _, test := range []struct {
		driver string
		want   []string
	}{
		{"", []string{setOverride, probeVF}},
		{"c6xxvf", []string{setOverride, testAddress + " > " + unbind, probeVF}},
		{"uio_pci_generic", []string{setOverride, otherUnbind, probeVF}},
	} {
		t.Run("from driver "+test.driver, func(t *testing.T) {
			inBubble(t, func(b *testBinder) {
				b.vf.Driver = test.driver
				if got := b.bind(); got != waiting {
					t.Errorf("pending %q, want %q", got, waiting)
				}
				if diff := cmp.Diff(test.want, b.sysfs.take()); diff != "" {
					t.Errorf("writes (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestRefusedWriteIsUndoneAndTriedAgain(t *testing.T) {
	undone := " > " + override // was not set
	for _, test := range []struct {
		name string
		file string
		undo []string
	}{
		{"driver_override", override, nil},
		{"unbind", unbind, []string{undone}},
		{"probe", probe, []string{undone, testAddress + " > " + giveBack}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(b *testBinder) {
				b.sysfs.setFailure(test.file, unix.EIO)
				want := "bind to vfio-pci: write " + test.file + ": input/output error"
				if got := b.bind(); got != want {
					t.Errorf("pending %q, want %q", got, want)
				}
				writes := b.sysfs.take()
				failed := 0
				for !strings.HasSuffix(writes[failed], test.file) {
					failed++
				}
				if diff := cmp.Diff(append([]string{}, test.undo...), writes[failed+1:]); diff != "" {
					t.Errorf("undone by (-want +got):\n%s", diff)
				}
				b.sysfs.setFailure(test.file, nil)
				time.Sleep(minBackOff - 1)
				if got := b.bind(); got != want {
					t.Errorf("pending %q during the back-off, want %q", got, want)
				}
				time.Sleep(time.Nanosecond)
				if got := b.bind(); got != waiting {
					t.Errorf("pending %q after the back-off, want %q", got, waiting)
				}
			})
		})
	}
}

func TestRefusedRepeatedProbeIsUndone(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.bind()
		b.vf.Driver = ""
		b.bindWhenDue()
		b.sysfs.take()
		b.sysfs.setFailure(probe, unix.EIO)
		b.bindWhenDue()
		want := []string{testAddress + " > " + probe, " > " + override, testAddress + " > " + giveBack}
		if diff := cmp.Diff(want, b.sysfs.take()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
	})
}

func TestDriverThatLetGoByItselfIsNoFailure(t *testing.T) {
	for _, err := range []error{unix.ENODEV, unix.ENOENT} {
		inBubble(t, func(b *testBinder) {
			b.sysfs.setFailure(unbind, err)
			if got := b.bind(); got != waiting {
				t.Errorf("%v: pending %q, want %q", err, got, waiting)
			}
		})
	}
}

func TestDriverOverrideIsRestored(t *testing.T) {
	for _, test := range []struct{ before, after string }{
		{"(null)", ""},
		{"", ""},
		{"uio_pci_generic", "uio_pci_generic"},
		{"vfio-pci", ""}, // left by an earlier run
	} {
		t.Run(test.before, func(t *testing.T) {
			inBubble(t, func(b *testBinder) {
				b.sysfs.put(override, test.before)
				b.bind()
				if got := b.sysfs.override(); got != vfioPCI {
					t.Errorf("driver_override is %q during the try, want vfio-pci", got)
				}
				for try := range 2 {
					b.bindUntilGivenUp()
					if got := b.sysfs.override(); got != test.after {
						t.Errorf("driver_override is %q after try %d, want %q", got, try, test.after)
					}
				}
			})
		})
	}
}

func TestVFIsGivenBackToTheDriverThatHadIt(t *testing.T) {
	for _, driver := range []string{"c6xxvf", ""} {
		t.Run(driver, func(t *testing.T) {
			inBubble(t, func(b *testBinder) {
				b.vf.Driver = driver
				b.bind()
				b.vf.Driver = "" // unbound, and not bound to vfio-pci
				b.sysfs.take()
				b.bindUntilGivenUp()
				probeVF := testAddress + " > " + probe
				want := []string{probeVF, probeVF, probeVF, " > " + override}
				if driver != "" {
					want = append(want, testAddress+" > "+giveBack)
				}
				if diff := cmp.Diff(want, b.sysfs.take()); diff != "" {
					t.Errorf("writes (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestVFIsNotGivenBackWithoutItsOverride(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.bind()
		b.sysfs.take()
		b.sysfs.setFailure(override, unix.EIO)
		b.bindUntilGivenUp()
		writes := b.sysfs.take()
		if last := writes[len(writes)-1]; last != " > "+override {
			t.Errorf("last write %q: vfio-pci is still the only driver for the VF", last)
		}
	})
}

func TestReasonOfADriverThatDoesNotAppear(t *testing.T) {
	const denied = "bind to vfio-pci: vfio-pci refuses C62x devices unless it is loaded with " +
		"disable_denylist=1 (modprobe vfio-pci disable_denylist=1)"
	const refused = "bind to %s: the kernel accepted the request but %[1]s did not bind to the device; " +
		"see the kernel log"
	for _, test := range []struct {
		name     string
		denylist string // disable_denylist; "": no such file
		allowed  bool   // the family is not on the denylist
		driver   string
		want     string
	}{
		{name: "denylist enabled", denylist: "N", driver: vfioPCI, want: denied},
		{name: "no such parameter", driver: vfioPCI, want: denied},
		{name: "denylist disabled", denylist: "Y", driver: vfioPCI, want: refused},
		{name: "family not on the denylist", denylist: "N", allowed: true, driver: vfioPCI, want: refused},
		{name: "igb_uio has no denylist", denylist: "N", driver: "igb_uio", want: refused},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestBinder(t, test.driver)
				b.vf.Denylisted = !test.allowed
				if test.denylist != "" {
					b.sysfs.put(denylist, test.denylist)
				}
				var reason string
				b.bind()
				for range maxProbes {
					reason = b.bindWhenDue()
				}
				want := strings.NewReplacer("%s", test.driver, "%[1]s", test.driver).Replace(test.want)
				if reason != want {
					t.Errorf("reason %q, want %q", reason, want)
				}
			})
		})
	}
}

func TestOnlyTheWriterChangesSysfs(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.sysfs.dryRun = true // the test's writer stores nothing then
		files := func() map[string]string {
			content := map[string]string{}
			must(t, filepath.WalkDir(b.sysfs.root, func(file string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					content[file] = "directory"
					return err
				}
				text, err := os.ReadFile(file)
				content[file] = string(text)
				return err
			}))
			return content
		}
		b.sysfs.put(denylist, "N")
		before := files()
		b.bind()
		attempt := b.attempts[b.vf.Address]
		if err := b.giveUp(attempt); err == nil {
			t.Errorf("giving up is not reported")
		}
		if len(b.sysfs.take()) < 5 {
			t.Fatal("the procedure was not run to its end")
		}
		if diff := cmp.Diff(before, files()); diff != "" {
			t.Errorf("files (-before +after):\n%s", diff)
		}
	})
}
