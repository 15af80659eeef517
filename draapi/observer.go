// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"time"

	"qatplugin/devtree"
)

// An Observer receives what a [Driver] does, for example to count it. The Driver calls its methods
// at the time of the action, from several goroutines, so they must not block.
type Observer interface {
	// SliceWritten is called when the API server has answered a write of a ResourceSlice, or when
	// the request has failed. operation is "create", "update" or "delete".
	SliceWritten(slice, operation string, took time.Duration, err error)

	// Published is called when the API server has stored all ResourceSlices with the devices of
	// the Tree. Trees that the plugin replaces before they are written are skipped.
	Published(tree *devtree.Tree)

	// Registered is called when the kubelet has notified the Driver of a registration or, with the
	// kubelet's error, of one that it has refused.
	Registered(err error)

	// Prepared is called when the Driver has prepared a claim, or has answered with the error. The
	// claim has no Devices if its allocation is not known. A claim that was prepared before, and
	// is only answered again, counts too.
	Prepared(claim *Claim, took time.Duration, err error)

	// Unprepared is called when the Driver has unprepared a claim, or has answered with the error.
	// The claim has no Devices if it was not prepared.
	Unprepared(claim *Claim, took time.Duration, err error)

	// HealthSent is called after the health of all devices, in that many bytes, was sent to the
	// kubelet, once for each stream.
	HealthSent(devices, bytes int)
}
