// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"

	"qatplugin/internal/status"
	"qatplugin/qat/internal/doctor"
)

// A Host says where [Diagnose] finds the files of a host. The zero value is this host, without its
// kubelet and firmware.
type Host = doctor.Host

// Diagnose checks whether a host can offer QAT devices to containers, and says what to do if it
// cannot. It returns the findings of all checks, in the order in which a host is set up.
//
// It takes milliseconds, or 6 s if the kernel blocks reads, and ends early if ctx ends. It changes
// nothing on the host, and needs no [Plugin]. It may be called from any goroutine.
func Diagnose(ctx context.Context, host Host) []status.Finding { return doctor.Run(ctx, host) }
