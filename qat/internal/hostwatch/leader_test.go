// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
)

// TestLoopWithLeaderUsesItsProbe runs two loops in a process that receives no uevents. The second
// one requests none, and audits the host as often as the first.
func TestLoopWithLeaderUsesItsProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		writer := &fakeWriter{}
		leader := newLoop(Config{Sysfs: "/sys", Writer: writer, AuditInterval: -1}, fakeEnvironment{})
		follower := newLoop(Config{
			Sysfs:         "/sys",
			AuditInterval: -1,
			Leader:        leader,
			Name:          "second",
		}, fakeEnvironment{})
		ctx, cancel := context.WithCancel(t.Context())
		mode := &fakeMode{state: State{Complete: true}}
		for _, run := range []struct {
			loop *Loop
			mode *fakeMode
		}{
			{follower, mode},
			{leader, &fakeMode{state: State{Complete: true}}},
		} {
			go Run(ctx, run.loop, func(_ context.Context, host Host[string]) Mode[string] {
				run.mode.host = host
				return run.mode
			}, func(*devtree.Tree) {})
		}
		time.Sleep(probeTimeout + frequentAuditInterval + time.Second)
		synctest.Wait()
		mode.mu.Lock()
		calls := mode.calls
		mode.mu.Unlock()
		if diff := cmp.Diff([]string{"all", "audit mayMissEvents=true"}, calls); diff != "" {
			t.Errorf("calls of the second loop (-want +got):\n%s", diff)
		}
		if err := follower.CheckKernelHeard(ctx); err == nil {
			t.Error("CheckKernelHeard of the second loop passes without uevents")
		}
		cancel()
		synctest.Wait()
		if got := len(writer.files); got != 4 { // two requests, each to the bus and to lo
			t.Errorf("%d writes, want 4 by the first loop alone: %q", got, writer.files)
		}
	})
}
