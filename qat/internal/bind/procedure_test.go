// SPDX-License-Identifier: Apache-2.0

package bind

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

// A driver binds only to a VF whose driver_override does not name another one.
func TestVFIsGivenBackDespiteItsOverride(t *testing.T) {
	for _, before := range []string{vfioPCI, "none"} {
		t.Run(before, func(t *testing.T) {
			inStealingBubble(t, func(b *testBinder) {
				b.sysfs.put(override, before)
				b.bind()
				b.vf.Driver = ""
				b.bindUntilGivenUp()
				writes := b.sysfs.take()
				want := []string{" > " + override, testAddress + " > " + giveBack, before + " > " + override}
				if diff := cmp.Diff(want, writes[max(0, len(writes)-3):]); diff != "" {
					t.Errorf("last writes (-want +got):\n%s", diff)
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
		kept bool // the VF was given back, and is not tried again by itself
	}{
		{"driver_override", override, nil, false},
		{"unbind", unbind, []string{undone}, false},
		{"probe", probe, []string{undone, testAddress + " > " + giveBack}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(b *testBinder) {
				b.sysfs.setFailure(test.file, unix.EIO)
				want := "bind to vfio-pci: write " + test.file + ": input/output error"
				if test.kept {
					want += "; given back to c6xxvf until vfio-pci, its module or a parameter changes"
				}
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
				if test.kept {
					b.RetryFailed(time.Now())
				}
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

// The kernel sends the add event of a VF before its driver is probed, so the VF can be read without
// a driver and bound to its own by the time the override is written (drivers/pci/bus.c,
// pci_bus_add_device). The kernel then ignores the request for a probe.
func TestVFIsTakenFromADriverThatBoundMeanwhile(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.vf.Driver = ""
		b.bind()
		b.sysfs.take()
		b.vf.Driver = "c6xxvf"
		b.bindWhenDue()
		want := []string{testAddress + " > " + unbind, testAddress + " > " + probe}
		if diff := cmp.Diff(want, b.sysfs.take()); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
		b.vf.Driver = ""
		b.bindUntilGivenUp()
		want = []string{" > " + override, testAddress + " > " + giveBack}
		if diff := cmp.Diff(want, b.sysfs.take()[maxProbes-2:]); diff != "" {
			t.Errorf("writes after the last probe (-want +got):\n%s", diff)
		}
	})
}

func TestDriverOverrideIsRestored(t *testing.T) {
	for _, test := range []struct{ before, after string }{
		{"(null)", ""},
		{"", ""},
		{"uio_pci_generic", "uio_pci_generic"}, // with Steal
		{"vfio-pci", "vfio-pci"},               // of an administrator, or left by an earlier run
	} {
		t.Run(test.before, func(t *testing.T) {
			inStealingBubble(t, func(b *testBinder) {
				b.sysfs.put(override, test.before)
				b.vf.Driver = ""
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
		b.sysfs.setFailure(override, unix.EACCES)
		b.bindUntilGivenUp()
		writes := b.sysfs.take()
		if last := writes[len(writes)-1]; last != " > "+override {
			t.Errorf("last write %q: vfio-pci is still the only driver for the VF", last)
		}
	})
}

func TestReasonOfADriverThatDoesNotAppear(t *testing.T) {
	const refused = "bind to vfio-pci: the kernel accepted the request but vfio-pci did not bind to the device; " +
		"see the kernel log"
	for driver, want := range map[string]string{
		"":       refused,
		"c6xxvf": refused + "; given back to c6xxvf until vfio-pci, its module or a parameter changes",
	} {
		t.Run("had by "+driver, func(t *testing.T) {
			inBubble(t, func(b *testBinder) {
				b.vf.Driver = driver
				b.bind()
				b.vf.Driver = ""
				if reason := b.bindUntilGivenUp(); reason != want {
					t.Errorf("reason %q, want %q", reason, want)
				}
			})
		})
	}
}

// A VF that was taken from a driver and given back is tried again only after RetryFailed, or when
// that driver does not have it any more.
func TestVFThatWasGivenBackIsNotTriedAgainByItself(t *testing.T) {
	for name, change := range map[string]func(b *testBinder){
		"nothing":          func(*testBinder) {},
		"RetryFailed":      func(b *testBinder) { b.RetryFailed(time.Now()) },
		"without a driver": func(b *testBinder) { b.vf.Driver = "" },
		"stopped":          func(b *testBinder) { b.Stop(b.vf.Address) }, // as while the driver is unloaded
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *testBinder) {
				b.bind()
				b.vf.Driver = ""
				b.bindUntilGivenUp()
				b.vf.Driver = "c6xxvf" // again
				b.bind()
				if next := b.Next(); !next.IsZero() {
					t.Errorf("next try at %v, want never", next)
				}
				time.Sleep(time.Hour)
				b.sysfs.take()
				change(b)
				b.bind()
				want := name == "RetryFailed" || name == "without a driver"
				if w := b.sysfs.take(); (len(w) > 0) != want {
					t.Errorf("written: %q, want a try: %v", w, want)
				}
			})
		})
	}
}

// A VF that could not be given back has no driver, and is tried again later.
func TestVFThatCouldNotBeGivenBackIsTriedAgain(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.sysfs.setFailure(giveBack, unix.ENODEV)
		b.bind()
		b.vf.Driver = ""
		b.bindUntilGivenUp()
		b.sysfs.take()
		b.bindWhenDue()
		if w := b.sysfs.take(); !slices.Contains(w, testAddress+" > "+probe) {
			t.Errorf("written: %q, want a try", w)
		}
	})
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
		before := files()
		b.bind()
		attempt := b.attempts[b.vf.Address]
		if err := b.giveUp(attempt); err == nil {
			t.Errorf("giving up is not reported")
		}
		if w := b.sysfs.take(); w[len(w)-1] != testAddress+" > "+giveBack {
			t.Fatalf("the procedure was not run to its end: %q", w)
		}
		if diff := cmp.Diff(before, files()); diff != "" {
			t.Errorf("files (-before +after):\n%s", diff)
		}
	})
}

// The VF is tried again later, and must then be given back as it was at first.
func TestStoppedTryRemembersWhatToGiveBack(t *testing.T) {
	for _, when := range []string{"between steps", "during a step"} {
		t.Run(when, func(t *testing.T) {
			inBubble(t, func(b *testBinder) {
				finish := make(chan struct{})
				if when == "during a step" {
					b.sysfs.delay = func(name string) {
						if name == probe {
							<-finish
						}
					}
				}
				b.bind()
				b.vf.Driver = ""
				b.Stop(b.vf.Address)
				if list := b.Pending(); len(list) > 0 {
					t.Errorf("pending %v, want nothing", list)
				}
				close(finish)
				synctest.Wait()
				b.bind()
				b.bindUntilGivenUp()
				if w := b.sysfs.take(); !slices.Contains(w, testAddress+" > "+giveBack) {
					t.Errorf("written: %q, want the VF given back", w)
				}
				if o := b.sysfs.override(); o != "" {
					t.Errorf("driver_override is %q, want none", o)
				}
			})
		})
	}
}

// The Binder has changed driver_override, although a later try finds it as it should be.
func TestOverrideThatCouldNotBeRestoredIsRestoredLater(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.bind()
		b.vf.Driver = ""
		b.sysfs.setFailure(override, unix.EACCES)
		b.bindUntilGivenUp()
		b.sysfs.setFailure(override, nil)
		b.bindWhenDue()
		b.bindUntilGivenUp()
		if o := b.sysfs.override(); o != "" {
			t.Errorf("driver_override is %q, want none", o)
		}
	})
}

// Nothing binds a VF that is stopped, so that it would have no driver.
func TestUndoIsRepeatedAfterATransientError(t *testing.T) {
	inBubble(t, func(b *testBinder) {
		b.bind()
		b.vf.Driver = ""
		for range maxProbes - 1 {
			b.bindWhenDue()
		}
		file := filepath.Join(b.sysfs.root, override)
		must(t, os.Rename(file, file+".0"))
		must(t, unix.Mkfifo(file, 0o600))
		f, err := os.OpenFile(file, os.O_RDWR, 0) // reads fail with EAGAIN
		must(t, err)
		defer f.Close()
		b.bindWhenDue() // gives up
		b.Stop(b.vf.Address)
		must(t, os.Rename(file+".0", file))
		time.Sleep(time.Hour)
		if w := b.sysfs.take(); !slices.Contains(w, testAddress+" > "+giveBack) {
			t.Errorf("written: %q, want the VF given back", w)
		}
		if o := b.sysfs.override(); o != "" {
			t.Errorf("driver_override is %q, want none", o)
		}
	})
}
