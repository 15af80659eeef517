package main

import (
	"context"
	"fmt"
	"time"

	"qatplugin/internal/lookalike"
)

// act is one thing that happens on the host, and what the kubelet must come to know by it.
type act struct {
	what  string // as a user would do it
	note  string // for people
	do    func(ctx context.Context, s *stage) error
	want  map[string]int // healthy devices of each resource at the end; nil: the kubelet's list does not change
	from  string         // what the time counts from, when it is not the host's last step
	since func(s *stage) time.Time
}

func acts() []act {
	return []act{
		{
			what: "qat_plugin starts",
			note: "The dc PF has 16 VFs, bound to nothing. The plugin finds them, binds them, registers.",
			do: func(_ context.Context, s *stage) (err error) {
				s.plugin, err = startPlugin(s)
				return err
			},
			want: map[string]int{"dc": vfs},
			from: "from exec", since: func(s *stage) time.Time { return s.plugin.started },
		},
		{
			what: "echo 16 > " + cyPF + "/sriov_numvfs",
			note: "16 new VFs of the other PF: bound to vfio-pci one by one, listed by what it serves.",
			do:   vfsOf(cyPF, vfs),
			want: map[string]int{"cy": vfs, "dc": vfs},
		},
		{
			what: "VF " + aVF + " is gone",
			do:   func(_ context.Context, s *stage) error { return s.host.RemoveVF(aVF) },
			want: map[string]int{"cy": vfs - 1, "dc": vfs},
		},
		{
			what: "VF " + aVF + " is back",
			do: func(_ context.Context, s *stage) error {
				return s.host.AddVF(lookalike.VF{Address: aVF, PF: cyPF})
			},
			want: map[string]int{"cy": vfs, "dc": vfs},
		},
		{
			what: "echo 1 > " + cyPF + "/remove",
			note: "A whole PF goes and takes its VFs along. The resource stays registered, with an empty list.",
			do: func(ctx context.Context, s *stage) error {
				return s.write(ctx, "devices/"+cyPF+"/remove", "1", "remove PF")
			},
			want: map[string]int{"cy": 0, "dc": vfs},
		},
		{
			what: "echo 1 > /sys/bus/pci/rescan",
			note: "The PF is back, without VFs. Nothing to tell.",
			do:   func(ctx context.Context, s *stage) error { return s.write(ctx, "rescan", "1", "add PF") },
		},
		{
			what: "echo 16 > " + cyPF + "/sriov_numvfs",
			do:   vfsOf(cyPF, vfs),
			want: map[string]int{"cy": vfs, "dc": vfs},
		},
		{
			what: "echo down > " + dcPF + "/qat/state",
			note: "Services change only when a PF is down; going down removes its VFs.",
			do: func(ctx context.Context, s *stage) error {
				return s.write(ctx, "devices/"+dcPF+"/qat/state", "down", "set state of")
			},
			want: map[string]int{"cy": vfs, "dc": 0},
		},
		{
			what: "echo 'sym;dc' > " + dcPF + "/qat/cfg_services",
			do: func(ctx context.Context, s *stage) error {
				return s.write(ctx, "devices/"+dcPF+"/qat/cfg_services", "sym;dc", "set services of")
			},
		},
		{
			what: "echo up > " + dcPF + "/qat/state",
			do: func(ctx context.Context, s *stage) error {
				return s.write(ctx, "devices/"+dcPF+"/qat/state", "up", "set state of")
			},
		},
		{
			what: "echo 16 > " + dcPF + "/sriov_numvfs",
			note: "The same 16 VFs are another resource now, which is new to the kubelet and is registered.",
			do:   vfsOf(dcPF, vfs),
			want: map[string]int{"cy": vfs, "dc": 0, "sym-dc": vfs},
		},
		{
			what: "the kubelet restarts",
			note: "It deletes all sockets in its directory and forgets every device. Each resource is registered anew.",
			do:   func(_ context.Context, s *stage) error { return s.kubelet.Restart() },
			want: map[string]int{"cy": vfs, "dc": 0, "sym-dc": vfs},
			from: "from its new socket", since: func(s *stage) time.Time { return s.record.cleanedAt() },
		},
		{
			what: "VF " + aVF + " is gone",
			note: "The streams of the kubelet's new life carry changes as the old ones did.",
			do:   func(_ context.Context, s *stage) error { return s.host.RemoveVF(aVF) },
			want: map[string]int{"cy": vfs - 1, "dc": 0, "sym-dc": vfs},
		},
		{
			what: "VF " + aVF + " is back",
			do: func(_ context.Context, s *stage) error {
				return s.host.AddVF(lookalike.VF{Address: aVF, PF: cyPF})
			},
			want: map[string]int{"cy": vfs, "dc": 0, "sym-dc": vfs},
		},
	}
}

func vfsOf(pf string, n int) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		return s.write(ctx, "devices/"+pf+"/sriov_numvfs", fmt.Sprint(n), "set VFs of")
	}
}
