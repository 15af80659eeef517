// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"qatplugin/devtree"
	"qatplugin/internal/nodelock"
)

// An event loop that Watch has not started answers no check.
func TestPluginIsLiveAndNotReadyWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		driver := NewGate(nodelock.DRADriver, dir, "")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		driverCtx, endDriver := context.WithCancel(ctx)
		go driver.Run(driverCtx, func(ctx context.Context) error {
			<-ctx.Done()
			driver.Release()
			return nil
		})
		synctest.Wait()

		gate := NewGate(nodelock.DevicePlugin, dir, "")
		defer gate.Release()
		stuck := fakeChecker{stuck: true, firstLook: errors.New("not read")}
		watched := make(chan struct{})
		watch, checked := Exclusive(gate, func(context.Context, func(*devtree.Tree)) error {
			close(watched)
			return nil
		}, stuck)
		ended := make(chan error)
		go func() { ended <- watch(ctx, nil) }()
		synctest.Wait()
		if err := checked.CheckEventLoop(ctx); err != nil {
			t.Errorf("event loop of a plugin that waits: %v", err)
		}
		if err := checked.CheckFirstLook(ctx); err == nil || errors.Is(err, stuck.firstLook) {
			t.Errorf("first look of a plugin that waits: %v, want why it waits", err)
		}

		endDriver()
		<-watched
		shortly, cancelCheck := context.WithTimeout(ctx, time.Second)
		defer cancelCheck()
		if checked.CheckEventLoop(shortly) == nil || !errors.Is(checked.CheckFirstLook(ctx), stuck.firstLook) {
			t.Error("the plugin watches, and its own checks do not count")
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
