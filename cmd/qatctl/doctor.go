// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"qatplugin/internal/status"
	"qatplugin/internal/statusclient"
	"qatplugin/qat"
)

// hostFirmware is where a host has its firmware, if sysfs is at hostSysfs.
const (
	hostFirmware = "/lib/firmware"
	hostSysfs    = "/sys"
)

// doctorOptions are the values of the flags of doctor.
type doctorOptions struct {
	firmware string
	dryRun   bool
	strict   bool
	problems bool // print only problems and warnings
	output   string
	given    func(flag string) bool // reports whether a flag was given
}

func (a *app) newDoctor() *cobra.Command {
	o := &doctorOptions{}
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this host can offer QAT devices, and say what to do if it cannot",
		Long: `Check whether this host can offer QAT devices to containers, from the IOMMU and the firmware to the
kubelet, and say what to do if it cannot.

If a plugin runs, the roots of the host and the DPDK driver are those of its flags, and its state is
checked as well. Nothing on the host is changed. The check "uevents" asks the kernel for a uevent to
which nothing reacts.

The exit status is 1 if there is a problem.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if a.server != "" {
				return usageError{errors.New("doctor checks the host that it runs on: run it there, without --server")}
			}
			o.given = c.Flags().Changed
			return a.doctor(c.Context(), o)
		},
	}
	a.hostFlags(c)
	flags := c.Flags()
	flags.StringVar(&o.firmware, "firmware-dir", "",
		"`directory` of the host's firmware; without it, "+hostFirmware+" if sysfs is at "+hostSysfs)
	flags.BoolVar(&o.dryRun, "dry-run", false, "do not ask the kernel for a uevent")
	flags.BoolVar(&o.strict, "strict", false, "exit with status 1 for a warning, too")
	flags.BoolVar(&o.problems, "problems", false, "print only problems and warnings")
	outputFlag(c, &o.output, "json", "yaml")
	return c
}

func (a *app) doctor(ctx context.Context, o *doctorOptions) error {
	host, err := a.host(ctx, o)
	if err != nil {
		return err
	}
	findings := qat.Diagnose(ctx, host)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	shown := filter(findings, func(f *status.Finding) bool {
		return !o.problems || f.Result == status.FindingProblem || f.Result == status.FindingWarning
	})
	if o.output != "" {
		if err := a.print(o.output, shown); err != nil {
			return err
		}
	} else {
		a.printFindings(shown)
		a.printSummary(findings)
	}
	for _, f := range findings {
		if f.Result == status.FindingProblem || o.strict && f.Result == status.FindingWarning {
			return errWrong
		}
	}
	return nil
}

// host returns the host to check. Values that the command line does not set are those of the
// running plugin.
func (a *app) host(ctx context.Context, o *doctorOptions) (qat.Host, error) {
	host := qat.Host{
		Sysfs:      a.sysfsRoot,
		Dev:        a.devRoot,
		KubeletDir: a.kubeletDir,
		Firmware:   o.firmware,
		DryRun:     o.dryRun,
	}
	var values map[string]string
	err := a.ask(ctx, func(ctx context.Context, c *statusclient.Client) (err error) {
		if host.Plugin, err = c.Snapshot(ctx); err != nil {
			return err
		}
		values, err = c.Flags(ctx)
		return err
	})
	switch {
	case err == nil:
		for name, value := range map[string]*string{
			"sysfs-root": &host.Sysfs, "dev-root": &host.Dev, "kubelet-dir": &host.KubeletDir,
		} {
			if !o.given(name) {
				*value = cmp.Or(values[name], *value)
			}
		}
		host.Driver = values["dpdk-driver"]
	case errors.Is(err, statusclient.ErrNotRunning):
		host.Plugin = nil
		fmt.Fprintf(a.stderr, "No plugin listens at %s: checking this host without it.\n", a.socket)
	default:
		return host, err
	}
	if host.Firmware == "" && host.Sysfs == hostSysfs {
		host.Firmware = hostFirmware
	}
	return host, nil
}

func (a *app) printFindings(findings []status.Finding) {
	const resultWidth = 9 // of "problem" and "warning", and a gap
	checkWidth := 0
	for _, f := range findings {
		checkWidth = max(checkWidth, len(f.Check)+2)
	}
	colors := map[string]color{
		status.FindingOK:      green,
		status.FindingWarning: yellow,
		status.FindingProblem: red,
		status.FindingSkipped: faint,
	}
	indent := strings.Repeat(" ", resultWidth+checkWidth)
	width := max(a.width()-len(indent), 30)
	for _, f := range findings {
		begin := a.paint(colors[f.Result], fmt.Sprintf("%-*s", resultWidth, f.Result)) +
			fmt.Sprintf("%-*s", checkWidth, f.Check)
		for _, line := range wrap(f.Found, width) {
			a.printf("%s%s\n", begin, line)
			begin = indent
		}
		if f.Remedy == "" {
			continue
		}
		mark := "→ "
		for _, line := range wrap(f.Remedy, width-2) {
			a.printf("%s%s\n", indent+mark, a.paint(bold, line))
			mark = "  "
		}
	}
}

// printSummary prints how many findings there are.
func (a *app) printSummary(findings []status.Finding) {
	number := map[string]int{}
	for _, f := range findings {
		number[f.Result]++
	}
	a.printf("\n%s: %s, %s, %d ok, %d skipped.\n", count(len(findings), "finding"),
		count(number[status.FindingProblem], "problem"), count(number[status.FindingWarning], "warning"),
		number[status.FindingOK], number[status.FindingSkipped])
}
