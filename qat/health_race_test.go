// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

// A poll may take long, as reading heartbeat/status performs the check. Here it waits for the
// test while the plugin reads the PF again. The test needs the race detector.
//
// Until the PF has been read again, neither the test nor the event loop may open a file with
// package os. Under go test this takes a mutex that the poll takes as well, and hides a race.
const vfA1 = "0000:6b:00.1"

func TestPFIsReadAgainDuringItsHealthPoll(t *testing.T) {
	h, err := lookalike.New(t.TempDir()) // not served: nobody else opens its files
	must(t, err)
	must(t, h.LoadDriver("vfio-pci"))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.AddVF(lookalike.VF{Address: vfA1, PF: pfA}))
	must(t, h.Bind(vfA1, "vfio-pci"))
	status := filepath.Join(h.Sysfs(), "kernel/debug/qat_4xxx_"+pfA, "heartbeat/status")
	must(t, os.Remove(status))
	must(t, unix.Mkfifo(status, 0o600))
	sinks := make(chan events.Sink, 1)
	source := sourceFunc(func(ctx context.Context, sink events.Sink) error {
		sinks <- sink
		<-ctx.Done()
		return nil
	})
	r := start(t, h, Config{
		NoBind:         true,
		HealthInterval: MinHealthInterval,
		Sources:        []func() (events.Source, error){func() (events.Source, error) { return source, nil }},
	})
	sink := <-sinks
	r.becomes(map[string][]string{"cy": {vfA1}})
	must(t, h.SetAttr(pfA, "qat/cfg_services", "dc")) // unheard

	opened := make(chan int, 1)
	go func() {
		fd, err := unix.Open(status, unix.O_WRONLY|unix.O_CLOEXEC, 0) // returns when the poll has opened it
		if err != nil {
			t.Error(err)
		}
		opened <- fd
	}()
	var poll int
	select {
	case poll = <-opened:
	case <-time.After(timeout):
		t.Fatal("no health poll opens heartbeat/status")
	}
	e := events.Event{Time: time.Now()}
	must(t, events.ParseUevent(&e, []byte("change@/devices/pci0000:6b/"+pfA+"\x00SUBSYSTEM=pci\x00")))
	sink.Event(&e)
	r.becomes(map[string][]string{"cy": {}, "dc": {vfA1}})

	must(t, h.SetHeartbeat(pfA, "0")) // an ordinary file for the next poll
	must(t, unix.Close(poll))
}
