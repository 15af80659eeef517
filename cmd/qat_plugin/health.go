// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/http"

	"qatplugin/kubeletapi/probe"
)

// checker is the part of a plugin's health that it knows itself.
type checker interface {
	CheckEventLoop(ctx context.Context) error
	CheckFirstLook(ctx context.Context) error
	CheckKernelHeard(ctx context.Context) error
}

// healthHandler serves /livez (should the process keep running?) and /readyz (does the kubelet
// know the truth?).
func healthHandler(c checker, registered func(context.Context) error) http.Handler {
	eventLoop := probe.Check{Name: "event-loop", Run: c.CheckEventLoop}
	return probe.Handler([]probe.Check{eventLoop}, []probe.Check{
		eventLoop,
		{Name: "first-look", Run: c.CheckFirstLook},
		{Name: "kernel-heard", Run: c.CheckKernelHeard},
		{Name: "registered", Run: registered},
	})
}
