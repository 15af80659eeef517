// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"
	"strings"
	"time"

	dra "k8s.io/kubelet/pkg/apis/dra/v1"

	"qatplugin/draapi/internal/claims"
)

// prepare answers the kubelet's call for one claim.
func (d *Driver) prepare(ctx context.Context, c *dra.Claim) ([]*dra.Device, error) {
	start := time.Now()
	ref := claims.Ref{Namespace: c.GetNamespace(), Name: c.GetName(), UID: c.GetUid()}
	prepared, err := d.parts.claims.Prepare(ctx, ref)
	took := time.Since(start)
	d.logCall("prepare", ref, err)
	for _, o := range d.config.observers {
		o.Prepared(describe(ref, prepared), took, err)
	}
	if err != nil {
		d.askRuntime() // the claim may wait for an upgrade of the runtime
		return nil, err
	}
	return answer(prepared, d.config.nodeName), nil
}

// unprepare answers the kubelet's call for one claim.
func (d *Driver) unprepare(ctx context.Context, c *dra.Claim) error {
	start := time.Now()
	ref := claims.Ref{Namespace: c.GetNamespace(), Name: c.GetName(), UID: c.GetUid()}
	claim, err := d.parts.claims.Unprepare(ctx, ref)
	took := time.Since(start)
	d.logCall("unprepare", ref, err)
	for _, o := range d.config.observers {
		o.Unprepared(describe(ref, claim), took, err)
	}
	return err
}

func (d *Driver) logCall(operation string, ref claims.Ref, err error) {
	if err != nil {
		d.parts.log.Error(err, "Cannot "+operation+" a claim", "claim", ref.String(), "uid", ref.UID)
	}
}

// answer returns what the kubelet needs to know of a prepared claim.
func answer(c *claims.Claim, pool string) []*dra.Device {
	var devices []*dra.Device
	for i := range c.Devices {
		d := &c.Devices[i]
		// The kubelet looks for the name of the request, and not for that of the subrequest
		// (pkg/kubelet/cm/dra/claiminfo.go, cdiDevicesAsList).
		request, _, _ := strings.Cut(d.Request, "/")
		device := &dra.Device{
			RequestNames: []string{request},
			PoolName:     pool,
			DeviceName:   d.Name,
			CdiDeviceIds: d.CDINames,
		}
		if d.ShareID != "" {
			device.ShareId = &d.ShareID
		}
		devices = append(devices, device)
	}
	return devices
}

// describe returns the claim for an Observer. c may be nil.
func describe(ref claims.Ref, c *claims.Claim) *Claim {
	claim := &Claim{Namespace: ref.Namespace, Name: ref.Name, UID: ref.UID}
	if c == nil {
		return claim
	}
	for i := range c.Devices {
		claim.Devices = append(claim.Devices, ClaimDevice{
			Request:     c.Devices[i].Request,
			AdminAccess: c.Devices[i].AdminAccess,
			Device:      c.Devices[i].Device,
			Edits:       c.Devices[i].Edits,
		})
	}
	return claim
}

// askPreparer calls the plugin's Prepare, unless the container runtime would ignore the devices.
func (d *Driver) askPreparer(ctx context.Context, c *claims.Claim) error {
	if err := d.waitForRuntime(ctx); err != nil {
		return err
	}
	if d.preparer == nil {
		return nil
	}
	claim := describe(c.Ref, c)
	if err := d.preparer.Prepare(ctx, claim); err != nil {
		return err
	}
	for i := range c.Devices {
		c.Devices[i].Edits = claim.Devices[i].Edits
	}
	return nil
}

// registered is called when the kubelet has answered a registration.
func (d *Driver) registered(err error) {
	if err == nil {
		d.askRuntime() // the container runtime may have been upgraded, too
	}
	for _, o := range d.config.observers {
		o.Registered(err)
	}
}

func (d *Driver) healthSent(devices, bytes int) {
	for _, o := range d.config.observers {
		o.HealthSent(devices, bytes)
	}
}
