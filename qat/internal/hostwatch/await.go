// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"qatplugin/events"
)

// ProbeUevents asks the kernel for a uevent, as a [Loop] does at its start, and waits until it
// arrives from the source, or until ctx ends. sysfs is where the host's sysfs is mounted. writer
// writes below it.
//
// certain reports whether the result is certain. If so, err says why uevents do not arrive, or is
// nil if they do. Otherwise, err says why the kernel could not be asked, or is nil if there is no
// sysfs at that path but an ordinary directory, in which inotify reports all changes.
func ProbeUevents(
	ctx context.Context, sysfs string, writer Writer, open func() (events.Source, error),
) (certain bool, err error) {
	return newProbe(sysfs, writer, process{}).await(ctx, open)
}

// await is ProbeUevents.
func (p *probe) await(ctx context.Context, open func() (events.Source, error)) (certain bool, err error) {
	if !p.environment.isSysfs(p.sysfs) {
		return false, nil
	}
	source, err := open()
	if err != nil {
		return true, fmt.Errorf("open the uevent socket: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	sink := answerSink{probe: p, answered: make(chan struct{}, 1)}
	var reading sync.WaitGroup
	reading.Go(func() { _ = source.Run(ctx, sink) }) // without events there is no answer
	defer reading.Wait()
	defer cancel()

	p.send(time.Now())
	if p.pending() {
		select {
		case <-sink.answered:
		case <-ctx.Done():
			p.mu.Lock()
			p.finish(p.unanswered(notReceiving, reasonNoAnswer), time.Now())
			p.mu.Unlock()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.result.status == receiving {
		return true, nil
	}
	return p.result.status == notReceiving, errors.New(p.result.reason)
}

// pending reports whether the answer has not arrived yet.
func (p *probe) pending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

// An answerSink passes events to a probe, and sends to answered when the answer has arrived.
type answerSink struct {
	probe    *probe
	answered chan struct{}
}

func (s answerSink) Event(e *events.Event) {
	if s.probe.isAnswer(e) && !s.probe.pending() {
		select {
		case s.answered <- struct{}{}:
		default:
		}
	}
}

// Resync does nothing: a lost answer counts as none.
func (answerSink) Resync(string) {}
