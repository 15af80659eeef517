// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"qatplugin/devtree"
	"qatplugin/draapi"
	"qatplugin/internal/program"
	"qatplugin/qat"
)

// A plugin is the qat.Plugin for a driver.
type plugin struct {
	*qat.Plugin
	watch program.WatchFunc
}

var (
	_ draapi.Plugin   = (*plugin)(nil)
	_ draapi.Preparer = (*plugin)(nil)
)

// Watch implements [draapi.Plugin].
func (p *plugin) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	return p.watch(ctx, publish)
}

// Prepare implements [draapi.Preparer]. It reads the VFs of the claim once more, apart from those
// with admin access, which may have any state, and names all of them in environment variables.
func (p *plugin) Prepare(ctx context.Context, claim *draapi.Claim) error {
	var held []*devtree.Device
	for i := range claim.Devices {
		if d := &claim.Devices[i]; !d.AdminAccess {
			held = append(held, d.Device)
		}
	}
	if err := p.CheckDevices(ctx, held); err != nil {
		return err
	}
	setVariables(claim)
	return nil
}

// setVariables sets two variables for each device. QAT_0000_6b_00_1 has the address 0000:6b:00.1,
// and differs between all VFs of a node. QAT0, QAT1 and so on have the addresses in an order, for
// programs that know them from the device plugin. A container with two claims has the addresses of
// one of them there.
func setVariables(claim *draapi.Claim) {
	for i, number := range numbers(claim.Devices) {
		d := &claim.Devices[i]
		env := maps.Clone(d.Edits.Env)
		if env == nil {
			env = map[string]string{}
		}
		address := d.Device.ID
		env["QAT"+strconv.Itoa(number)] = address
		env["QAT_"+addressToName.Replace(address)] = address
		d.Edits.Env = env
	}
}

var addressToName = strings.NewReplacer(":", "_", ".", "_")

// extendedRequest matches the names of the requests that the scheduler makes for the extended
// resources of a container: container-0-request-1
// (pkg/scheduler/framework/plugins/dynamicresources/extendeddynamicresources.go).
var extendedRequest = regexp.MustCompile(`^container-([0-9]+)-request-([0-9]+)$`)

// numbers returns the number of each device in the container that gets it. The name of a request
// only tells the container if the scheduler has made the request for an extended resource. All
// other devices of the claim are numbered together, in the order of the allocation.
func numbers(devices []draapi.ClaimDevice) []int {
	type place struct{ index, container, request int }
	places := make([]place, len(devices))
	for i := range devices {
		places[i] = place{index: i, container: -1}
		if m := extendedRequest.FindStringSubmatch(devices[i].Request); m != nil {
			container, errContainer := strconv.Atoi(m[1])
			request, errRequest := strconv.Atoi(m[2])
			if errContainer == nil && errRequest == nil {
				places[i].container, places[i].request = container, request
			}
		}
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.container, b.container), cmp.Compare(a.request, b.request))
	})
	list := make([]int, len(devices))
	next := map[int]int{} // by container
	for _, p := range places {
		list[p.index] = next[p.container]
		next[p.container]++
	}
	return list
}
