// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"qatplugin/internal/status"
)

// listDRA prints the slices or the claims of a DRA driver.
func (a *app) listDRA(d *status.DRA, what string, o *listOptions) error {
	if d == nil {
		return fmt.Errorf("list %s: only a DRA driver has %[1]s", what)
	}
	if what == listSlices {
		return printList(a, d.Slices, o, func(s *status.ResourceSlice) string { return s.Name }, a.sliceTable)
	}
	list := filter(d.Claims, func(c *status.Claim) bool {
		return o.resource == "" || slices.ContainsFunc(c.Devices, func(device status.ClaimDevice) bool {
			return device.Resource == baseName(o.resource)
		})
	})
	return printList(a, list, o, func(c *status.Claim) string { return c.Name }, a.claimTable)
}

func (a *app) sliceTable(list []status.ResourceSlice, _ bool) *table {
	t := &table{header: []string{"SLICE", "DEVICES", "TAINTED", "GENERATION", "NOTE"}}
	for i := range list {
		s := &list[i]
		tainted := plain
		if s.Tainted > 0 {
			tainted = yellow
		}
		note := "not written since the driver started"
		if s.Written != nil {
			note = "written " + age(a.now().Sub(*s.Written)) + " ago"
		}
		t.add(cell{s.Name, plain}, cell{strconv.Itoa(s.Devices), plain}, cell{strconv.Itoa(s.Tainted), tainted},
			cell{strconv.FormatInt(s.Generation, 10), plain}, cell{note, plain})
	}
	return t
}

func (a *app) claimTable(list []status.Claim, wide bool) *table {
	t := &table{header: []string{"CLAIM", "PREPARED", "VFS"}}
	if wide {
		t.header = slices.Insert(t.header, 2, "UID", "REQUESTS")
	}
	for i := range list {
		c := &list[i]
		row := []cell{{c.Name, plain}, {age(a.now().Sub(c.Prepared)) + " ago", plain}}
		if wide {
			row = append(row, cell{c.UID, plain}, cell{strings.Join(requests(c), " "), plain})
		}
		t.add(append(row, cell{strings.Join(c.Addresses(), " "), plain})...)
	}
	return t
}

// requests returns the requests of a claim, each once.
func requests(c *status.Claim) (list []string) {
	for _, d := range c.Devices {
		if !slices.Contains(list, d.Request) {
			list = append(list, d.Request)
		}
	}
	return list
}

// explainDRA explains the state of a listed VF of a DRA driver, and what to do if it cannot be
// allocated.
func explainDRA(d *status.DRA, v *status.VF) (ok bool, explanation, advice string) {
	explanation = fmt.Sprintf("It is in the pool %s of %s, with the resource %s.", d.Pool, d.Driver, v.Resource)
	switch {
	case d.RuntimeErr != "":
		return false, explanation + " Pods cannot use it: " + d.RuntimeErr + ".", ""
	case d.PublishErr != "":
		return false, explanation + " The API server may not know it yet: " + d.PublishErr + ".",
			"Check that the API server can be reached from the node, and what the driver's service account may do."
	case !d.Registered:
		return false, explanation + " No pod with it starts: " +
				cmp.Or(d.RegistrationErr, "the driver is not registered") + ".",
			"Check that the kubelet runs and that -kubelet-root is its directory."
	case v.Holder != "":
		return true, explanation + " Claim " + v.Holder + " has it.", ""
	}
	return true, explanation + " The scheduler may give it to a claim.", ""
}

// claimsOf returns the claims that use a VF, with the request and the time of each.
func claimsOf(d *status.DRA, address string, now time.Time) (list []string) {
	if d == nil {
		return nil
	}
	for i := range d.Claims {
		c := &d.Claims[i]
		for _, device := range c.Devices {
			if device.Address != address {
				continue
			}
			text := fmt.Sprintf("%s (request %s, UID %s, since %s)", c.Name, device.Request, c.UID,
				age(now.Sub(c.Prepared)))
			if device.AdminAccess {
				text += " with admin access"
			}
			list = append(list, text)
		}
	}
	return list
}
