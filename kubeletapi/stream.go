// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"bytes"
	"context"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// ListAndWatch sends the newest list at once, and again whenever it changes.
func (s *service) ListAndWatch(_ *pluginapi.Empty, stream pluginapi.DevicePlugin_ListAndWatchServer) error {
	closeStream := s.registration.openStream()
	defer closeStream()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.streamsCtx, cancel)()
	subscription := s.publisher.Subscribe(s.resource)
	defer subscription.Close()
	var sent *list
	for {
		resource, err := subscription.Next(ctx)
		if s.streamsCtx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		list, err := s.lists.encode(resource)
		if err != nil {
			return err
		}
		if sent != nil && bytes.Equal(list.wire, sent.wire) {
			continue // the kubelet would write its checkpoint for nothing
		}
		// SendMsg blocks only while the reader of this stream leaves its window full. What is
		// published meanwhile becomes one list.
		if err := stream.SendMsg(list); err != nil {
			return err
		}
		sent = list
		if v := s.log.V(4); v.Enabled() {
			v.Info("Sent the list", "resource", s.name, "generation", s.publisher.Tree().Generation(),
				"devices", len(list.devices), "healthy", list.healthy())
		}
	}
}
