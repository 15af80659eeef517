// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/qat"
)

const (
	// namespace of the resources, as in qat_plugin.
	namespace = "qat.intel.com/"

	// lookInterval is the time between two checks whether the host has been read.
	lookInterval = 5 * time.Millisecond

	// nodeTimeout is how long a VF that is bound may lack its device node.
	nodeTimeout = time.Second
)

// readHost reads the host as a plugin with -dry-run does. It writes nothing, and requests no
// heartbeat.
func (a *app) readHost(ctx context.Context) (*status.Snapshot, error) {
	if _, err := os.Stat(filepath.Join(a.sysfsRoot, "bus/pci/devices")); err != nil {
		return nil, fmt.Errorf("no sysfs is mounted at --sysfs-root: %w", err)
	}
	plugin, err := qat.New(qat.Config{
		SysfsRoot:      a.sysfsRoot,
		DevRoot:        a.devRoot,
		DryRun:         true,
		HealthInterval: -1,
		AuditInterval:  -1,
	})
	if err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = plugin.Watch(watching, func(*devtree.Tree) {}) // the error is always nil
	}()
	defer func() {
		stop()
		<-ended
	}()
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	complete := time.Time{} // when the host had been read
	for {
		s := &status.Snapshot{}
		plugin.Status(ctx, s)
		if complete.IsZero() && len(s.Loops) > 0 && s.Loops[0].Complete {
			complete = time.Now()
		}
		if !complete.IsZero() && (!slices.ContainsFunc(s.VFs, isBinding) || time.Since(complete) > nodeTimeout) {
			s.Time, s.Version, s.Resources = a.now(), version, resourcesOfVFs(s.VFs)
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s has not been read within %v", a.sysfsRoot, a.timeout)
		case <-time.After(lookInterval):
		}
	}
}

func isBinding(v status.VF) bool { return v.State == status.StateBinding }

// resourcesOfVFs returns the resources that a plugin would register.
func resourcesOfVFs(vfs []status.VF) []status.Resource {
	list := []status.Resource{}
	for i := range vfs {
		v := &vfs[i]
		if v.State != status.StateListed && v.State != status.StateUnhealthy {
			continue
		}
		j := slices.IndexFunc(list, func(r status.Resource) bool { return r.Name == namespace+v.Resource })
		if j < 0 {
			j = len(list)
			list = append(list, status.Resource{
				Name:  namespace + v.Resource,
				Phase: status.PhaseIdle,
				Err:   "no plugin runs",
			})
		}
		list[j].Devices++
		if v.State == status.StateListed {
			list[j].Healthy++
		}
	}
	slices.SortFunc(list, func(x, y status.Resource) int { return strings.Compare(x.Name, y.Name) })
	return list
}
