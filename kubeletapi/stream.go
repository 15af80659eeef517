// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"bytes"
	"context"
	"fmt"
	"time"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/devtree"
)

// ListAndWatch sends the newest list at once, and again whenever it changes, at the pace of
// the stream.
func (s *service) ListAndWatch(_ *pluginapi.Empty, stream pluginapi.DevicePlugin_ListAndWatchServer) error {
	closeStream := s.registration.openStream()
	for _, o := range s.observers {
		o.StreamOpened(s.name)
	}
	err := s.sendLists(stream)
	closeStream(err)
	for _, o := range s.observers {
		o.StreamClosed(s.name, err)
	}
	return err
}

// sendLists sends lists until the stream ends. It returns nil if the service ends its streams.
func (s *service) sendLists(stream pluginapi.DevicePlugin_ListAndWatchServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.streamsCtx, cancel)()
	subscription := s.publisher.Subscribe(s.resource)
	defer subscription.Close()
	pace := s.pace
	var sent *list
	for {
		resource, err := subscription.Next(ctx)
		if err == nil {
			resource, err = gather(ctx, subscription, resource, pace.next(time.Now()))
		}
		if s.streamsCtx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the kubelet ended the stream: %w", err)
		}
		all := s.lists.encode(resource)
		list := all.first(maxList)
		s.reportLength(all, list)
		if sent != nil && bytes.Equal(list.wire, sent.wire) {
			for _, o := range s.observers {
				o.ListUnchanged(s.name, resource)
			}
			continue // the kubelet would write its checkpoint for nothing
		}
		// SendMsg blocks only while the reader of this stream leaves its window full. What is
		// published meanwhile becomes one list.
		if err := stream.SendMsg(list); err != nil {
			return fmt.Errorf("send a list of %d devices and %d bytes: %w", len(list.devices), len(list.wire), err)
		}
		sent = list
		pace.sent = time.Now()
		s.registration.counts.send(len(list.wire), pace.sent)
		for _, o := range s.observers {
			o.ListSent(s.name, resource, len(list.devices), len(list.wire))
		}
		if v := s.log.V(4); v.Enabled() {
			v.Info("Sent the list", "resource", s.name, "generation", s.publisher.Tree().Generation(),
				"devices", len(list.devices), "healthy", list.healthy())
		}
	}
}

// reportLength logs and records whether the list that was sent contains all devices.
func (s *service) reportLength(all, sent *list) {
	if len(sent.devices) == len(all.devices) {
		if s.registration.shorten(nil) != nil {
			s.log.Info("The list fits again", "resource", s.name, "devices", len(all.devices), "bytes", len(all.wire))
		}
		return
	}
	err := fmt.Errorf("the list of %d devices has %d bytes, the kubelet accepts %d: "+
		"only the first %d devices are offered", len(all.devices), len(all.wire), maxList, len(sent.devices))
	if s.registration.shorten(err) == nil {
		s.log.Error(err, "Cannot offer all devices", "resource", s.name)
	}
}

// gather waits until window has passed, or until nothing has changed for a tenth of it. It
// returns the newest state of the resource then.
func gather(
	ctx context.Context, subscription *devtree.Subscription, resource *devtree.Resource, window time.Duration,
) (*devtree.Resource, error) {
	for end := time.Now().Add(window); ; {
		left := time.Until(end)
		if left <= 0 {
			return resource, nil
		}
		quiet, cancel := context.WithTimeout(ctx, min(window/10, left))
		newest, err := subscription.Next(quiet)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil: // nothing has changed
			return resource, nil
		}
		resource = newest
	}
}

// pace decides how long a stream gathers changes before it sends the next list. The kubelet
// writes a checkpoint file for each list, and waits until it is on the disk
// (pkg/kubelet/cm/devicemanager/manager.go, writeCheckpoint; pkg/kubelet/util/store).
//
// After a quiet time of refill, the first burst lists are sent at once, so that nothing delays the
// VFs of a PF that appears. After that, the first change after a quiet time of max is sent at once.
// The next one starts a window of min, and each further one a window twice as long, up to max. So
// no change waits longer than max, nor much longer than the changes have lasted.
type pace struct {
	burst    int
	refill   time.Duration
	min, max time.Duration

	left   int           // lists that are still sent at once
	window time.Duration // the newest
	sent   time.Time     // when the newest list was sent
}

// next returns the window that starts with a change at now; it is zero for a list that is sent at
// once.
func (p *pace) next(now time.Time) time.Duration {
	quiet := now.Sub(p.sent)
	if quiet >= p.refill {
		p.left = p.burst
	}
	if quiet >= p.max || p.left > 0 {
		p.left = max(0, p.left-1)
		p.window = 0
	} else {
		p.window = min(max(2*p.window, p.min), p.max)
	}
	return p.window
}
