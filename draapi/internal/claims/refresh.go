// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"errors"
	"slices"

	"qatplugin/devtree"
)

// errUnprepared means that there is no prepared claim whose files could be written again.
var errUnprepared = errors.New("the claim was unprepared meanwhile")

// Refresh writes the files of the claims again whose devices have other device nodes than before,
// as a device may have that has left and come back. The kubelet does not prepare a claim again when
// a container restarts, and the old nodes may belong to other devices. A claim whose devices are
// not all healthy is left as it is until Refresh is called again.
func (s *Store) Refresh(ctx context.Context) {
	for _, c := range s.List() {
		if !s.isOutdated(c) || ctx.Err() != nil {
			continue
		}
		if err := s.refresh(ctx, c.Ref); err != nil {
			s.Log.V(2).Info("Cannot write the CDI spec of a claim again, trying again when the devices change",
				"claim", c.Ref, "uid", c.UID, "reason", err.Error())
		}
	}
}

func (s *Store) refresh(ctx context.Context, ref Ref) error {
	release, err := s.acquire(ctx, ref.UID)
	if err != nil {
		return err
	}
	defer release()
	if err := s.Load(); err != nil {
		return err
	}
	before := s.find(ref.UID)
	if before == nil || !s.isOutdated(before) {
		return nil
	}
	claim := &Claim{Ref: before.Ref, podClaim: before.podClaim}
	for i := range before.Devices {
		d := &before.Devices[i]
		claim.Devices = append(claim.Devices, Device{
			Name: d.Name, Request: d.Request, AdminAccess: d.AdminAccess, ShareID: d.ShareID,
		})
	}
	if err := s.write(ctx, claim, true); err != nil {
		return err
	}
	s.Log.V(2).Info("Wrote the CDI spec of a claim again, because a device has other device nodes",
		"claim", ref, "uid", ref.UID, "devices", claim.ids())
	s.Changed()
	return nil
}

// isOutdated reports whether a device of the claim is healthy and has other device nodes than in
// the file of the claim.
func (s *Store) isOutdated(c *Claim) bool {
	devices := s.Inventory()
	return slices.ContainsFunc(c.Devices, func(d Device) bool {
		found := devices.Find(d.Name)
		return found != nil && !found.Gone && found.Device.ID == d.ID && found.Device.Health == devtree.Healthy &&
			!slices.Equal(nodesOf(found.Device), d.nodes)
	})
}

// nodesOf returns the paths of the device nodes on the host.
func nodesOf(d *devtree.Device) (paths []string) {
	for i := range d.DeviceNodes {
		paths = append(paths, d.DeviceNodes[i].HostPath)
	}
	return paths
}
