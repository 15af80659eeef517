// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"qatplugin/kubeletapi/probe"
)

// checker is the part of a plugin's health that it knows itself.
type checker interface {
	CheckEventLoop(ctx context.Context) error
	CheckFirstLook(ctx context.Context) error
	CheckKernelHeard(ctx context.Context) error
}

// healthChecks returns the checks of /livez (should the process keep running?) and of /readyz (does
// the kubelet have the current lists?).
func healthChecks(c checker, registered func(context.Context) error) (live, ready []probe.Check) {
	eventLoop := probe.Check{Name: "event-loop", Run: c.CheckEventLoop}
	return []probe.Check{eventLoop}, []probe.Check{
		eventLoop,
		{Name: "first-look", Run: c.CheckFirstLook},
		{Name: "kernel-heard", Run: c.CheckKernelHeard},
		{Name: "registered", Run: registered},
	}
}
