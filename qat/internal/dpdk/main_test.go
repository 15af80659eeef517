// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// must fails the test for an error of the look-alike host, which is never what a test is about.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Addresses that tests use: two PFs and VFs of the first.
const (
	pfA, pfB = "0000:6b:00.0", "0000:70:00.0"
	vfA1     = "0000:6b:00.1"
)

// newHost returns an empty host, which is not served.
func newHost(t testing.TB, opts ...lookalike.Option) *lookalike.Host {
	t.Helper()
	dir, err := lookalike.MkdirTemp()
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h, err := lookalike.New(dir, opts...)
	must(t, err)
	return h
}

// newHost4xxx returns a host with a 4xxx PF for cy, on NUMA node 1, and with vfio-pci loaded.
func newHost4xxx(t testing.TB, opts ...lookalike.Option) *lookalike.Host {
	t.Helper()
	h := newHost(t, opts...)
	must(t, h.LoadDriver(device.DriverVFIO))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym", NUMANode: 1}))
	return h
}

// uevent parses a uevent: header, then variables.
func uevent(t testing.TB, header string, variables ...string) *events.Event {
	t.Helper()
	e := &events.Event{}
	must(t, events.ParseUevent(e, []byte(header+"\x00"+strings.Join(variables, "\x00")+"\x00")))
	return e
}

// inotify returns the event of a path that was created.
func inotify(path string) *events.Event {
	return &events.Event{Origin: events.Inotify, Action: events.Create, Path: []byte(path)}
}
