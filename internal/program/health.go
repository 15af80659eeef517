// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"

	"qatplugin/kubeletapi/probe"
)

// A Checker is the part of the health that a qat.Plugin knows itself.
type Checker interface {
	CheckEventLoop(ctx context.Context) error
	CheckFirstLook(ctx context.Context) error
	CheckKernelHeard(ctx context.Context) error
}

// HealthChecks returns the checks of /livez (should the process keep running?) and of /readyz (do
// the readers of the front have the current devices?). To the latter belong those of the front.
func HealthChecks(c Checker, front ...probe.Check) (live, ready []probe.Check) {
	eventLoop := probe.Check{Name: "event-loop", Run: c.CheckEventLoop}
	return []probe.Check{eventLoop}, append([]probe.Check{
		eventLoop,
		{Name: "first-look", Run: c.CheckFirstLook},
		{Name: "kernel-heard", Run: c.CheckKernelHeard},
	}, front...)
}
