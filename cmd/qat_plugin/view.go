// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"sync"
	"time"

	"qatplugin/internal/status"
	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/probe"
	"qatplugin/qat"
)

// A view is what the parts of the program know, as one status.Source.
type view struct {
	plugin  *qat.Plugin
	manager *kubeletapi.Manager
	journal *status.Journal
	checks  []probe.Check // of /readyz
	holders *holderCache  // nil if the kubelet is not asked
	started time.Time
	node    string // "" if it is unknown
}

var _ status.Source = (*view)(nil)

// Snapshot implements [status.Source].
func (v *view) Snapshot(ctx context.Context) *status.Snapshot {
	s := &status.Snapshot{
		Time:      time.Now(),
		Started:   v.started,
		Version:   version,
		Node:      v.node,
		Checks:    []status.Check{}, // lists are never null in JSON
		Loops:     []status.Loop{},
		Resources: []status.Resource{},
		PFs:       []status.PF{},
		VFs:       []status.VF{},
		Processes: []status.Process{},
	}
	var checking sync.WaitGroup
	checking.Go(func() { // at the same time, because Status may need all of it
		for _, c := range v.checks {
			s.Checks = append(s.Checks, status.Check{Name: c.Name, Err: errorText(c.Run(ctx))})
		}
	})
	v.plugin.Status(ctx, s)
	checking.Wait()
	for _, r := range v.manager.Resources() {
		s.Resources = append(s.Resources, resourceStatus(r))
	}
	if v.holders != nil && len(s.VFs) > 0 {
		holders := v.holders.get(ctx)
		for i := range s.VFs {
			s.VFs[i].Holder = holders[s.VFs[i].Address]
		}
	}
	return s
}

// resourceStatus converts the state of a resource.
func resourceStatus(r kubeletapi.ResourceStatus) status.Resource {
	s := status.Resource{
		Name:      r.Name,
		Devices:   r.Devices,
		Healthy:   r.Healthy,
		Phase:     string(r.Phase),
		Err:       errorText(r.Err),
		Streams:   r.Streams,
		Lists:     r.Lists,
		Bytes:     r.Bytes,
		Allocated: r.Allocated,
		Failed:    r.Failed,
	}
	if !r.LastList.IsZero() {
		s.LastList = &r.LastList
	}
	return s
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Journal implements [status.Source].
func (v *view) Journal() *status.Journal { return v.journal }

// Telemetry implements [status.Source].
func (v *view) Telemetry(ctx context.Context) []status.Telemetry { return v.plugin.Telemetry(ctx) }

// WriteRecording implements [status.Source].
func (v *view) WriteRecording(ctx context.Context, w io.Writer) error {
	return v.plugin.WriteRecording(ctx, w)
}
