// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"io"
	"strings"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/internal/flagvalue"
	"qatplugin/internal/program"
	"qatplugin/kubeletapi/podresources"
	"qatplugin/qat"
)

// options are the values of the flags.
type options struct {
	program.Options
	kubeletDir         string
	podResourcesSocket string
	useCDI             bool
	cdiDir             string
	unused             []string // flags that were set and have no effect in this mode
}

// modeOf returns the mode that a flag belongs to; "" if it applies to both.
func modeOf(flag string) string {
	switch flag {
	case "adf-ctl", "etc-root":
		return qat.ModeKernel
	case "dpdk-driver", "kernel-vf-drivers", "vfio-interface", "bind", "steal", "allocation-policy",
		"max-num-devices", "health-interval", "telemetry", "use-cdi", "cdi-dir", "provisioning-dir",
		"provisioning-force", "pod-resources-socket", "recorder-size":
		return qat.ModeDPDK
	}
	return ""
}

// defaultOptions are the options without any flags.
func defaultOptions() *options {
	o := &options{
		Options:            program.DefaultOptions("/run/qat_plugin/status.sock"),
		kubeletDir:         strings.TrimSuffix(pluginapi.DevicePluginPath, "/"),
		podResourcesSocket: podresources.DefaultSocket,
		cdiDir:             "/var/run/cdi",
	}
	o.QAT.EtcRoot, o.QAT.ADFCtl = "/etc", "adf_ctl"
	return o
}

// newFlagSet returns the flags, which set o.
func newFlagSet(o *options) *flag.FlagSet {
	flags := o.NewFlagSet("qat_plugin")
	flags.Var(flagvalue.OneOf(&o.QAT.Mode, qat.ModeDPDK, qat.ModeKernel), "mode",
		"`mode`: dpdk lists VFs for user space, kernel lists the processes of Intel's out-of-tree QAT driver")
	flags.Var(flagvalue.Optional(&o.QAT.AllocationPolicy, qat.Policies()...), "allocation-policy",
		"`policy` for the VFs that a container should get: balanced spreads them over PFs, packed fills one PF "+
			"before it uses the next; empty leaves the choice to the kubelet")
	flags.Var(flagvalue.OptionalPath(&o.podResourcesSocket), "pod-resources-socket",
		"`socket` at which the kubelet says which pods hold VFs; empty never asks the kubelet")
	flags.Var(flagvalue.NonEmpty(&o.QAT.ADFCtl, "the name or path of a program"), "adf-ctl",
		"`program` that lists the devices of the out-of-tree driver, in mode kernel")
	flags.Var(flagvalue.Directory(&o.QAT.EtcRoot), "etc-root",
		"`directory` of the out-of-tree driver's configuration files, in mode kernel")
	flags.Var(flagvalue.Directory(&o.QAT.DevRoot), "dev-root",
		"`directory` where the host's /dev is mounted; paths given to the kubelet always start with /dev")
	flags.Var(flagvalue.NonEmpty(&o.kubeletDir, "the path of a directory"), "kubelet-dir",
		"`directory` of kubelet.sock and of the plugins' sockets")
	flags.BoolVar(&o.useCDI, "use-cdi", false,
		"maintain CDI specs of the VFs, which are then also the CDI devices qat.intel.com/vf=ADDRESS")
	flags.Var(flagvalue.NonEmpty(&o.cdiDir, "the path of a directory"), "cdi-dir",
		"`directory` of the CDI specs, with -use-cdi; it is created if it does not exist")
	return flags
}

const about = "qat_plugin reports the QuickAssist (QAT) devices of this host to the kubelet, as they come and go."

// parseFlags parses the command line. The error is that of [program.Options.Parse].
func parseFlags(args []string, out io.Writer) (*options, error) {
	o := defaultOptions()
	flags := newFlagSet(o)
	if err := o.Parse(flags, args, about, out); err != nil {
		return nil, err
	}
	flags.Visit(func(f *flag.Flag) {
		if mode := modeOf(f.Name); mode != "" && mode != o.QAT.Mode {
			o.unused = append(o.unused, f.Name)
		}
	})
	return o, nil
}
