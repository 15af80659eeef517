// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"

	"qatplugin/devtree"
)

// A Plugin watches the host and reports its devices. It has the same method as kubeletapi.Plugin.
//
// A Plugin that wraps another should have a method Unwrap() Plugin that returns the wrapped Plugin.
// The Driver uses the first Plugin in the chain that implements [Preparer], as [errors.As] does.
type Plugin interface {
	// Watch is called once. It calls publish with a new Tree whenever the devices change, and
	// returns when ctx ends. An error ends the Driver. All devices of all resources of a Tree are
	// in one pool, so their IDs must differ. Any goroutine may call publish, which never waits
	// for the API server or the kubelet.
	Watch(ctx context.Context, publish func(*devtree.Tree)) error
}

// A Preparer is a Plugin that checks devices once more before containers get them, or decides what
// containers get.
type Preparer interface {
	// Prepare is called before a claim is prepared. It may modify the Edits of the claim's
	// devices, which belong to this claim. An error fails the preparation, which the kubelet
	// repeats.
	Prepare(ctx context.Context, claim *Claim) error
}

// A Claim is an allocated ResourceClaim, as far as it concerns this driver and node.
type Claim struct {
	Namespace, Name, UID string
	Devices              []ClaimDevice // in the order of the allocation; not empty
}

// String returns "namespace/name".
func (c *Claim) String() string { return c.Namespace + "/" + c.Name }

// A ClaimDevice is a device that a claim holds.
type ClaimDevice struct {
	Request     string                 // of the claim; "request/subrequest" of a prioritized list
	AdminAccess bool                   // the claim does not hold the device: others may have it too
	Device      *devtree.Device        // as in the newest Tree; must not be modified
	Edits       devtree.ContainerEdits // what a container gets; a copy of the Device's
}
