// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"io"
	"sync"
	"time"

	"qatplugin/internal/status"
)

// A view is what the parts of the program know, as one status.Source.
type view struct {
	server     Server
	forReaders bool // also the results of the checks and the holders of VFs, which may take time
}

var _ status.Source = (*view)(nil)

// Snapshot implements [status.Source].
func (v *view) Snapshot(ctx context.Context) *status.Snapshot {
	s := &status.Snapshot{
		Time:      time.Now(),
		Started:   v.server.Started,
		Version:   v.server.Version,
		Node:      v.server.Options.QAT.NodeName,
		Checks:    []status.Check{}, // lists are never null in JSON
		Loops:     []status.Loop{},
		Resources: []status.Resource{},
		PFs:       []status.PF{},
		VFs:       []status.VF{},
		Processes: []status.Process{},
	}
	var checking sync.WaitGroup
	if v.forReaders {
		checking.Go(func() { // at the same time, because Status may need all of it
			for _, c := range v.server.Ready {
				s.Checks = append(s.Checks, status.Check{Name: c.Name, Err: ErrorText(c.Run(ctx))})
			}
		})
	}
	v.server.Plugin.Status(ctx, s)
	checking.Wait()
	v.server.AddFront(s)
	if v.forReaders && v.server.Holders != nil && len(s.VFs) > 0 {
		holders := v.server.Holders(ctx)
		for i := range s.VFs {
			s.VFs[i].Holder = holders[s.VFs[i].Address]
		}
	}
	return s
}

// ErrorText returns the text of an error for the status, which is "" if there is none.
func ErrorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Journal implements [status.Source].
func (v *view) Journal() *status.Journal { return v.server.Options.QAT.Journal }

// Telemetry implements [status.Source].
func (v *view) Telemetry(ctx context.Context) []status.Telemetry {
	return v.server.Plugin.Telemetry(ctx)
}

// WriteRecording implements [status.Source].
func (v *view) WriteRecording(ctx context.Context, w io.Writer) error {
	return v.server.Plugin.WriteRecording(ctx, w)
}
