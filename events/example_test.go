package events_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"qatplugin/events"
)

// dirty is a sink that marks which path to look at. It takes no time: who looks, and when, is not its business.
type dirty struct{ *events.Mailbox[string] }

func (d dirty) Event(e *events.Event) { d.Mark(string(e.Path), e.Time) }
func (d dirty) Resync(reason string)  { d.Mailbox.Resync(reason, time.Now()) }

// Subscribe, look, and then look again at what an event names.
func Example() {
	dir, err := os.MkdirTemp("", "events")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	watcher, err := events.NewWatcher()
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := watcher.Watch(dir); err != nil { // from here on nothing is missed
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	mailbox := events.NewMailbox[string](1000)
	done := make(chan error, 1)
	go func() { done <- watcher.Run(ctx, dirty{mailbox}) }()

	if err := os.WriteFile(filepath.Join(dir, "vf0"), nil, 0o644); err != nil {
		fmt.Println(err)
		return
	}
	<-mailbox.Wake()
	var batch events.Batch[string]
	mailbox.Take(&batch)
	for _, d := range batch.Dirty {
		_, err := os.Stat(d.Key) // what is true, whatever the event said
		fmt.Println(filepath.Base(d.Key), "is there:", err == nil)
	}
	cancel()
	fmt.Println(<-done)
	// Output:
	// vf0 is there: true
	// <nil>
}
