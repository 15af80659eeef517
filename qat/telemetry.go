// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"

	"qatplugin/internal/status"
)

// Telemetry reads what the drivers of PFs show about their work, and returns it in the order of
// their addresses. It waits for the kernel until ctx ends at most, and leaves out PFs that it could
// not read by then. The telemetry of a device itself is missing unless it is on: see
// [Config.Telemetry].
func (p *Plugin) Telemetry(ctx context.Context) []status.Telemetry { return p.telemetry.Read(ctx) }
