// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"qatplugin/draapi"
	"qatplugin/internal/program"
	"qatplugin/internal/status"
)

// statusOf converts the state of the driver.
func statusOf(d *draapi.Driver) *status.DRA {
	s := d.Status()
	dra := &status.DRA{
		Driver:          s.Driver,
		Pool:            s.Pool,
		Devices:         s.Devices,
		Healthy:         s.Healthy,
		Gone:            s.Gone,
		Registered:      s.Registration.Registered,
		RegistrationErr: program.ErrorText(s.Registration.Err),
		Since:           timeOrNil(s.Registration.Since),
		Connections:     s.Registration.Connections,
		HealthStreams:   s.Registration.HealthStreams,
		HealthSent:      timeOrNil(s.Registration.HealthSent),
		PublishErr:      program.ErrorText(s.Publishing),
		Runtime:         s.Runtime,
		RuntimeErr:      program.ErrorText(s.RuntimeErr),
		Slices:          []status.ResourceSlice{}, // lists are never null in JSON
		Claims:          []status.Claim{},
	}
	for _, err := range s.Skipped {
		dra.Skipped = append(dra.Skipped, err.Error())
	}
	for i := range s.Slices {
		slice := &s.Slices[i]
		dra.Slices = append(dra.Slices, status.ResourceSlice{
			Name:       slice.Name,
			Devices:    slice.Devices,
			Tainted:    slice.Tainted,
			Generation: slice.Generation,
			Written:    timeOrNil(slice.Written),
		})
	}
	for _, c := range d.Claims() {
		claim := status.Claim{
			Name: c.String(), UID: c.UID, Prepared: c.Prepared, Devices: []status.ClaimDevice{},
		}
		for _, device := range c.Devices {
			claim.Devices = append(claim.Devices, status.ClaimDevice{
				Address:     device.ID,
				Resource:    device.Resource,
				Request:     device.Request,
				AdminAccess: device.AdminAccess,
			})
		}
		dra.Claims = append(dra.Claims, claim)
	}
	return dra
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
