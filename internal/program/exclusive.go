// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"

	"qatplugin/devtree"
	"qatplugin/internal/nodelock"
	"qatplugin/qat"
)

// NewGate returns the gate that keeps the device plugin and the DRA driver apart on a node. dir is
// the kubelet's directory for device plugins. otherDriver is the registration socket of another
// DRA driver with the same name, or "".
//
// Mode kernel needs no gate: it offers no VFs. A DRA driver may run beside it, as a plugin in mode
// dpdk may, if each serves families of its own.
func NewGate(front nodelock.Front, dir, otherDriver string) *nodelock.Gate {
	return nodelock.New(nodelock.Config{
		Front:       front,
		Dir:         dir,
		Namespace:   Namespace,
		Ignored:     qat.IsKernelModeResource,
		OtherDriver: otherDriver,
	})
}

// Exclusive returns a function that calls watch when the gate lets the program serve, and the
// checks of a plugin that may wait for that. Before, the plugin does not touch the host.
func Exclusive(gate *nodelock.Gate, watch WatchFunc, c Checker) (WatchFunc, Checker) {
	return func(ctx context.Context, publish func(*devtree.Tree)) error {
		return gate.Run(ctx, func(ctx context.Context) error { return watch(ctx, publish) })
	}, exclusiveChecker{c, gate}
}

// exclusiveChecker checks a plugin that may wait for its gate. It has no event loop then, and a
// restart would not help.
type exclusiveChecker struct {
	Checker
	gate *nodelock.Gate
}

func (e exclusiveChecker) CheckEventLoop(ctx context.Context) error {
	if e.gate.Waiting() {
		return nil
	}
	return e.Checker.CheckEventLoop(ctx)
}

func (e exclusiveChecker) CheckFirstLook(ctx context.Context) error {
	if err := e.gate.Check(ctx); err != nil {
		return err
	}
	return e.Checker.CheckFirstLook(ctx)
}
