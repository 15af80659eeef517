// SPDX-License-Identifier: Apache-2.0

package publisher

import (
	"context"
	"errors"
	"fmt"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
)

// A Status is what a [Publisher] has published.
type Status struct {
	Slices []SliceStatus // that the API server has, sorted by number
	Err    error         // why they are not what they should be; nil if they are
}

// A SliceStatus is a ResourceSlice at the API server.
type SliceStatus struct {
	Name            string
	Devices         int
	Tainted         int   // of these, how many have a taint
	Generation      int64 // of the pool
	ResourceVersion string
	Written         time.Time // when the Publisher last sent it; zero if it did not
}

// Status returns the state of the slices.
func (p *Publisher) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := p.status
	status.Err = p.problem()
	return status
}

// problem returns why the slices are not what they should be, or nil. The caller holds mu.
func (p *Publisher) problem() error {
	switch {
	case p.newest == nil:
		return errors.New("the devices are not known yet")
	case p.changed.IsZero():
		return nil
	}
	err := p.status.Err
	if err == nil {
		err = errors.New("ResourceSlices are not written yet")
	}
	if p.watchErr != nil {
		err = fmt.Errorf("watch ResourceSlices: %w", p.watchErr)
	}
	return err
}

// Check returns nil if the API server has the slices of the newest Inventory, or if Check expects
// that it soon has them: 10 s have not passed since the first change that is missing, nor since the
// last write, which does not count while the API server refuses a slice. Otherwise the error states
// what is missing. It ignores its context.
func (p *Publisher) Check(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.complete && time.Since(p.changed) < settleTime {
		return nil
	}
	return p.problem()
}

// describe returns the Status for what the API server has.
func (p *Publisher) describe(want *pool, observed map[string]*resourcev1.ResourceSlice, err error) Status {
	status := Status{Err: err}
	for number := range want.slices {
		name := p.planner.name(number)
		slice := observed[name]
		if slice == nil {
			continue
		}
		status.Slices = append(status.Slices, SliceStatus{
			Name:            name,
			Devices:         len(slice.Spec.Devices),
			Tainted:         countTainted(&slice.Spec),
			Generation:      slice.Spec.Pool.Generation,
			ResourceVersion: slice.ResourceVersion,
			Written:         p.slot(name).written,
		})
	}
	return status
}
