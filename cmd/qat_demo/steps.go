// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"qatplugin/internal/lookalike"
)

// step is one change of the host, the kubelet or the plugin, and its result at the kubelet.
type step struct {
	what string // as a user would do it
	note string // explanation
	do   func(ctx context.Context, f *fixture) error
	want map[string]int // healthy devices of each resource; nil if no list changes

	// since returns the time that the step is measured from, which from names; nil for the
	// last visible change of the host.
	since func(f *fixture) time.Time
	from  string
}

func steps() []step {
	removeVF := func(_ context.Context, f *fixture) error { return f.host.RemoveVF(cyVF) }
	addVF := func(_ context.Context, f *fixture) error {
		return f.host.AddVF(lookalike.VF{Address: cyVF, PF: cyPF})
	}
	return []step{
		{
			what:  "qat_plugin starts",
			note:  "The dc PF has 16 VFs without a driver. The plugin finds them, binds them and registers.",
			do:    func(_ context.Context, f *fixture) error { return f.startPlugin() },
			want:  map[string]int{"dc": numVFs},
			since: func(f *fixture) time.Time { return f.plugin.started },
			from:  "exec",
		},
		{
			what: "echo 16 > " + cyPF + "/sriov_numvfs",
			note: "The other PF gets 16 VFs. The plugin binds them one by one and lists them as another resource.",
			do:   createVFs(cyPF),
			want: map[string]int{"cy": numVFs, "dc": numVFs},
		},
		{
			what: "VF " + cyVF + " is gone",
			do:   removeVF,
			want: map[string]int{"cy": numVFs - 1, "dc": numVFs},
		},
		{
			what: "VF " + cyVF + " is back",
			do:   addVF,
			want: map[string]int{"cy": numVFs, "dc": numVFs},
		},
		{
			what: "echo 1 > " + cyPF + "/remove",
			note: "A PF disappears with all of its VFs. The resource stays registered, with an empty list.",
			do:   write("devices/"+cyPF+"/remove", "1", "remove PF"),
			want: map[string]int{"cy": 0, "dc": numVFs},
		},
		{
			what: "echo 1 > /sys/bus/pci/rescan",
			note: "The PF is back without VFs, so no list changes.",
			do:   write("rescan", "1", "add PF"),
		},
		{
			what: "echo 16 > " + cyPF + "/sriov_numvfs",
			do:   createVFs(cyPF),
			want: map[string]int{"cy": numVFs, "dc": numVFs},
		},
		{
			what: "echo down > " + dcPF + "/qat/state",
			note: "Services can change only while a PF is down. Going down removes its VFs.",
			do:   write("devices/"+dcPF+"/qat/state", "down", "set state of"),
			want: map[string]int{"cy": numVFs, "dc": 0},
		},
		{
			what: "echo 'sym;dc' > " + dcPF + "/qat/cfg_services",
			do:   write("devices/"+dcPF+"/qat/cfg_services", "sym;dc", "set services of"),
		},
		{
			what: "echo up > " + dcPF + "/qat/state",
			do:   write("devices/"+dcPF+"/qat/state", "up", "set state of"),
		},
		{
			what: "echo 16 > " + dcPF + "/sriov_numvfs",
			note: "The same 16 VFs are now a different resource, which the plugin registers.",
			do:   createVFs(dcPF),
			want: map[string]int{"cy": numVFs, "dc": 0, "sym-dc": numVFs},
		},
		{
			what: "the kubelet restarts",
			note: "It deletes all sockets in its directory and forgets every device. The plugin registers each " +
				"resource again.",
			do:    func(_ context.Context, f *fixture) error { return f.kubelet.Restart() },
			want:  map[string]int{"cy": numVFs, "dc": 0, "sym-dc": numVFs},
			since: func(f *fixture) time.Time { return f.recorder.get().started },
			from:  "the kubelet's new socket",
		},
		{
			what: "VF " + cyVF + " is gone",
			note: "Changes reach the restarted kubelet as before.",
			do:   removeVF,
			want: map[string]int{"cy": numVFs - 1, "dc": 0, "sym-dc": numVFs},
		},
		{
			what: "VF " + cyVF + " is back",
			do:   addVF,
			want: map[string]int{"cy": numVFs, "dc": 0, "sym-dc": numVFs},
		},
	}
}

// write returns a function that writes to a file below bus/pci and waits for the operation that
// the write requests.
func write(file, value, operation string) func(context.Context, *fixture) error {
	return func(ctx context.Context, f *fixture) error { return f.write(ctx, file, value, operation) }
}

func createVFs(pf string) func(context.Context, *fixture) error {
	return write("devices/"+pf+"/sriov_numvfs", fmt.Sprint(numVFs), "set VFs of")
}
