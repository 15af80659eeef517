// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"qatplugin/events"
	"qatplugin/internal/status"
	"qatplugin/kubeletapi/probe"
	"qatplugin/qat"
)

// A loop that is blocked takes all the time of a reader. Checks of other things must not fail for
// lack of time then.
func TestChecksDoNotWaitForABlockedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := qat.Config{SysfsRoot: t.TempDir(), Sources: []func() (events.Source, error){nil}}
		plugin, err := qat.New(config) // its loop does not run
		if err != nil {
			t.Fatal(err)
		}
		v := &view{forReaders: true, server: Server{
			Options:  &Options{QAT: config},
			Plugin:   plugin,
			Ready:    []probe.Check{{Name: "time", Run: func(ctx context.Context) error { return ctx.Err() }}},
			AddFront: func(*status.Snapshot) {},
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s := v.Snapshot(ctx)
		if len(s.Loops) != 1 || s.Loops[0].Err == "" {
			t.Errorf("the loop does not run: %+v", s.Loops)
		}
		if len(s.Checks) != 1 || s.Checks[0].Err != "" {
			t.Errorf("checks: %+v", s.Checks)
		}
	})
}
