// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	healthapi "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/inventory"
)

const (
	resendInterval = 10 * time.Second      // of an unchanged state
	minInterval    = 20 * time.Millisecond // between two messages

	// maxMessage is the longest text of a device, in bytes. The kubelet would cut a longer one
	// within a character (pkg/kubelet/cm/dra/manager.go, truncateHealthMessage).
	maxMessage = 1024

	// maxMessages limits the texts of all devices together, in bytes. The kubelet accepts messages
	// of up to 4 MiB.
	maxMessages = 3 << 20
)

// deviceHealth is what a message says of a device.
type deviceHealth struct {
	name    string
	healthy bool
	message string
}

// NodeWatchResources sends the health of all devices until the stream or the Server ends: when it
// has changed, and again after resendInterval.
func (s *service) NodeWatchResources(
	_ *healthapi.NodeWatchResourcesRequest, stream healthapi.DRAResourceHealth_NodeWatchResourcesServer,
) error {
	defer s.state.openStream()()
	s.config.Log.V(1).Info("The kubelet follows the health of the devices", "driver", s.config.Driver)
	var last []deviceHealth
	var sentAt time.Time // zero before the first message
	for {
		newest, changed := s.config.Inventory()
		if next := healthOf(newest); sentAt.IsZero() || !slices.Equal(next, last) ||
			time.Since(sentAt) >= resendInterval {
			response := s.response(next, time.Now())
			if err := stream.Send(response); err != nil {
				return err
			}
			last, sentAt = next, time.Now()
			s.state.sent()
			s.config.HealthSent(len(next), proto.Size(response))
			if s.wait(stream.Context().Done(), nil, minInterval) {
				return errEnded
			}
		}
		if s.wait(stream.Context().Done(), changed, resendInterval-time.Since(sentAt)) {
			return errEnded
		}
	}
}

var errEnded = status.Error(codes.Unavailable, "the driver is stopping")

// wait waits for changed and at most for d. It reports whether the stream must end.
func (s *Server) wait(done, changed <-chan struct{}, d time.Duration) (ended bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-done:
		return true
	case <-s.streamsEnd:
		return true
	}
	return false
}

// healthOf returns the health of all devices of the pool.
func healthOf(i *inventory.Inventory) (list []deviceHealth) {
	if i == nil {
		return nil
	}
	limit := min(maxMessage, maxMessages/max(len(i.Devices), 1))
	for _, d := range i.Devices {
		h := deviceHealth{name: d.Name, healthy: d.Device.Health == devtree.Healthy && !d.Gone}
		switch {
		case d.Gone:
			h.message = cut("the device has left the host", limit)
		case !h.healthy:
			h.message = cut(cmp.Or(d.Device.Reason, "no reason given"), limit)
		}
		list = append(list, h)
	}
	return list
}

// cut returns text, or as much of it as limit bytes can hold.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

// response returns the message for the kubelet.
func (s *Server) response(list []deviceHealth, now time.Time) *healthapi.NodeWatchResourcesResponse {
	response := &healthapi.NodeWatchResourcesResponse{}
	for _, h := range list {
		d := &healthapi.DeviceHealth{
			Device:          &healthapi.DeviceIdentifier{PoolName: s.config.Pool, DeviceName: h.name},
			Health:          healthapi.HealthStatus_UNHEALTHY,
			LastUpdatedTime: now.Unix(),
			Message:         h.message,
		}
		if h.healthy {
			d.Health = healthapi.HealthStatus_HEALTHY
		}
		response.Devices = append(response.Devices, d)
	}
	return response
}
