// SPDX-License-Identifier: Apache-2.0

package publisher_test

import (
	"testing"
	"testing/synctest"
)

func TestFirstPublishWritesOneSlice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.publish("a.1", "a.2!", "b.1")
		r.expect(prefix + "0 generation 1 of 1: a-1 a-2(color.example.com/unhealthy=heartbeat:NoSchedule) b-1\n")
		if got := len(r.server.Writes()); got != 1 {
			t.Errorf("%d writes, want 1", got)
		}
	})
}
