// SPDX-License-Identifier: Apache-2.0

package events_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"qatplugin/events"
)

// sink marks the path of each event.
type sink struct{ mailbox *events.Mailbox[string] }

func (s sink) Event(e *events.Event) { s.mailbox.Mark(string(e.Path), e.Time) }
func (s sink) Resync(reason string)  { s.mailbox.Resync(reason, time.Now()) }

// Watch first, then read the directory, then read again what an event names.
func Example() {
	dir, err := os.MkdirTemp("", "events")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	watcher, err := events.NewWatcher()
	if err != nil {
		log.Fatal(err)
	}
	if err := watcher.Watch(dir); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	mailbox := events.NewMailbox[string](1000)
	done := make(chan error, 1)
	go func() { done <- watcher.Run(ctx, sink{mailbox}) }()

	if err := os.WriteFile(filepath.Join(dir, "vf0"), nil, 0o644); err != nil {
		log.Fatal(err)
	}
	<-mailbox.Wake()
	var batch events.Batch[string]
	mailbox.Take(&batch)
	for _, d := range batch.Dirty {
		_, err := os.Stat(d.Key)
		fmt.Println(filepath.Base(d.Key), "exists:", err == nil)
	}
	cancel()
	fmt.Println(<-done)
	// Output:
	// vf0 exists: true
	// <nil>
}
