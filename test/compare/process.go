// SPDX-License-Identifier: Apache-2.0

package main

import "qatplugin/internal/measure"

// plugin is a program to measure.
type plugin struct {
	name    string
	program string
	args    []string

	serves   bool // with -http-address
	observed bool // an observer looks into it
}

// start runs a plugin with these arguments on a host.
func (p *plugin) start(h *host, args []string) (*measure.Process, error) {
	return measure.Start(p.program, args, []measure.Mount{
		{Target: "/var/lib"},
		{Source: h.kubelet.Dir(), Target: "/var/lib/kubelet/device-plugins"},
		{Source: h.Sysfs(), Target: "/sys"},
		{Source: h.Dev(), Target: "/dev"}, // last, because the host's directory may be below /dev
	})
}
