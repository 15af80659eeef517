// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"qatplugin/internal/status"
)

// A remedy says what to do about a reason.
type remedy struct {
	reason string // a part of the reason
	advice string
}

// remedies has the remedy of each reason why a VF is not listed or not healthy. The first one that
// matches counts. docs/troubleshooting.md says more.
var remedies = []remedy{
	{
		"is not one of -kernel-vf-drivers",
		"Add the driver to -kernel-vf-drivers (KERNEL_VF_DRIVERS in the ConfigMap) to serve this family.",
	},
	{
		"is not loaded: modprobe",
		"Load the driver on the node with the command in the reason, and at boot through /etc/modules-load.d. " +
			"The plugin then continues by itself.",
	},
	{"which is left alone without -steal", "Unbind the VF from that driver, or start the plugin with -steal."},
	{
		"its driver_override is",
		"End the reservation: echo > /sys/bus/pci/devices/ADDRESS/driver_override. Or start the plugin with " +
			"-steal.",
	},
	{
		"shares its IOMMU group and is reserved",
		"End the reservation of the VF that the reason names: echo > " +
			"/sys/bus/pci/devices/ITS-ADDRESS/driver_override.",
	},
	{
		"-bind=false leaves binding to others",
		"Bind the VF to the driver yourself, or start the plugin without -bind=false.",
	},
	{
		"unless it is loaded with disable_denylist=1",
		"Read the warning of vfio-pci in the kernel log, and then load it with the commands in the reason.",
	},
	{"has no IOMMU group", "Boot the node with intel_iommu=on. In a guest, add a virtual IOMMU."},
	{"which is listed", "Nothing has to be done: a container that gets the listed VF can use this one as well."},
	{
		"cannot be used:",
		"Unbind the function that the reason names from its driver, or put the devices where Access Control " +
			"Services (ACS) separate them.",
	},
	{"IOMMU group", "See dmesg on the node. The plugin reads the group again each second."},
	{"hidden by -max-num-devices", "Raise -max-num-devices (MAX_NUM_DEVICES in the ConfigMap), or set it to 0."},
	{
		"dry run:",
		"Nothing on the host prevents the plugin from binding and listing the VF. Start the plugin without -dry-run.",
	},
	{
		"given back to",
		"The kernel log (dmesg) says why the driver does not bind. Load the driver again to make the plugin " +
			"try again.",
	},
	{
		"soon after it was bound",
		"Another program manages the VF: stop it, or reserve the VF for it with driver_override.",
	},
	{
		"permission denied",
		"Check the mounts and the security context of the pod: the plugin must be able to write to sysfs.",
	},
	{"read-only file system", "Check the mounts of the pod: the plugin must be able to write to sysfs."},
	{"bind to ", "The kernel log (dmesg) says why the driver does not bind. The plugin tries again."},
	{"to bind", "Wait: the plugin binds the VF. If that takes longer than a second, see dmesg on the node."},
	{"while a workload holds it", "End the pod or process that has the VF open. The removal then completes."},
	{"it is being", "Wait: it takes part of a second, or until a process closes the VF."},
	{
		"has not registered a",
		"Wait for a moment. If the state persists, see dmesg on the node, and bind the VF again.",
	},
	{"CONFIG_VFIO_DEVICE_CDEV", "Use -vfio-interface=group, or a kernel with the options that the reason names."},
	{"does not exist", "The VF is bound, but its device node is missing: check that -dev-root is the host's /dev."},
	{"is down", "Bring the PF up: echo up > /sys/bus/pci/devices/PF/qat/state."},
	{"is gone", "Nothing has to be done: the VFs of a PF that was removed go with it."},
	{
		"failed its heartbeat",
		"The firmware of the PF does not answer. See dmesg. With qat/auto_reset on, the driver resets the " +
			"device; otherwise take it down and up: echo down, then up > /sys/bus/pci/devices/PF/qat/state.",
	},
	{"is stuck", "The kernel blocks the reads of the PF: see dmesg. If that persists, restart the node."},
	{"errors_fatal", "Take the PF down and up: echo down, then up > /sys/bus/pci/devices/PF/qat/state. See dmesg."},
	{"is being recovered", "Wait for the kernel's recovery. See dmesg on the node."},
	{"PCI error", "See dmesg on the node. If the device does not recover, reset it or restart the node."},
	{"has not returned", "The kernel blocks this access to the device: see dmesg on the node."},
	{"cannot be read", "See dmesg for problems of the driver. The plugin reads the file again by itself."},
	{"read ", "See dmesg for problems of the driver. The plugin reads the file again by itself."},
	{"open ", "See dmesg for problems of the driver. The plugin reads the file again by itself."},
}

// provisioningAdvice is the advice about a PF that provisioning works on.
const provisioningAdvice = "Provisioning changes the PF, and offers its VFs again when it has ended. " +
	"qatctl describe of the PF shows what it waits for."

// adviceFor returns what to do about a reason, or "" if nothing is known.
func adviceFor(reason string) string {
	for _, r := range remedies {
		if strings.Contains(reason, r.reason) {
			return r.advice
		}
	}
	return ""
}

// A description is what describe shows of one function. PF or VF is nil.
type description struct {
	PF *status.PF `json:"pf,omitempty"`
	VF *status.VF `json:"vf,omitempty"`

	OK          bool           `json:"ok"`          // the kubelet may give out the VF, or VFs of the PF
	Explanation string         `json:"explanation"` // why it is listed, or why not
	Advice      string         `json:"advice,omitempty"`
	Events      []status.Event `json:"events,omitempty"` // the last ones of this function, the oldest first

	Telemetry *status.Telemetry `json:"telemetry,omitempty"` // of a PF
}

// describe describes the function at an address, which exists.
func describe(s *status.Snapshot, address string) *description {
	if i := slices.IndexFunc(s.VFs, func(v status.VF) bool { return v.Address == address }); i >= 0 {
		return describeVF(s, &s.VFs[i])
	}
	if i := slices.IndexFunc(s.PFs, func(p status.PF) bool { return p.Address == address }); i >= 0 {
		return describePF(s, &s.PFs[i])
	}
	// It is not known whether it is a PF or a VF.
	return describeVF(s, &status.VF{
		Address:  address,
		State:    status.StateSkipped,
		Reason:   skipReason(s, address),
		NUMANode: -1,
	})
}

func describeVF(s *status.Snapshot, v *status.VF) *description {
	d := &description{VF: v}
	resource, r := v.Resource, findResource(s, v.Resource)
	if r != nil {
		resource = r.Name
	}
	switch v.State {
	case status.StateListed:
		if s.Started.IsZero() {
			d.Explanation, d.Advice = "A plugin would list it in "+resource+", but none runs.", "Start the plugin."
			break
		}
		if s.DRA != nil {
			d.OK, d.Explanation, d.Advice = explainDRA(s.DRA, v)
			break
		}
		d.OK = r == nil || r.Phase == status.PhaseWatching
		d.Explanation = "It is listed in " + resource + "."
		switch {
		case !d.OK:
			d.Explanation += " The kubelet cannot give it to a pod: " + cmp.Or(r.Err, phaseText(r)) + "."
			d.Advice = "Check that the kubelet runs and that -kubelet-dir is its directory."
		case v.Holder != "":
			d.Explanation += " Pod " + v.Holder + " has it."
		default:
			d.Explanation += " The kubelet may give it to a pod."
		}
	case status.StateUnhealthy:
		d.Explanation = fmt.Sprintf("It is listed in %s as unhealthy, so the kubelet gives it to no pod: %s.",
			resource, v.Reason)
		if s.DRA != nil {
			d.Explanation = fmt.Sprintf("It is in the pool %s with a taint, so no pod without a toleration gets "+
				"it: %s.", s.DRA.Pool, v.Reason)
		}
	case status.StateBinding:
		d.Explanation = "It is not listed yet: " + cmp.Or(v.Reason, "it is being bound") + "."
	default:
		d.Explanation = "It is not listed: " + cmp.Or(v.Reason, "no reason is known") + "."
	}
	if !d.OK && d.Advice == "" {
		pf := slices.IndexFunc(s.PFs, func(p status.PF) bool { return p.Address == v.PF && p.Withdrawn != "" })
		if pf >= 0 && v.Reason == s.PFs[pf].Withdrawn {
			d.Advice = provisioningAdvice
		} else {
			d.Advice = adviceFor(v.Reason)
		}
		d.Advice = strings.ReplaceAll(d.Advice, "/ADDRESS/", "/"+v.Address+"/")
		d.Advice = strings.ReplaceAll(d.Advice, "/PF/", "/"+cmp.Or(v.PF, "PF")+"/")
	}
	return d
}

func describePF(s *status.Snapshot, p *status.PF) *description {
	d := &description{PF: p}
	usable := 0
	for i := range s.VFs {
		if s.VFs[i].PF == p.Address && s.VFs[i].State == status.StateListed {
			usable++
		}
	}
	rule := provisionedPF(s, p.Address)
	switch {
	case p.ReadErr != "":
		d.Explanation = "It cannot be read in full: " + p.ReadErr + "."
		d.Advice = adviceFor("cannot be read")
	case p.Withdrawn != "":
		d.Explanation = "Its VFs are withdrawn from the kubelet: " + p.Withdrawn + "."
		if rule != nil && rule.Reason != "" {
			d.Advice = "Provisioning waits: " + rule.Reason + "."
		}
	case p.Health != status.Healthy:
		d.Explanation = "The kubelet gives its VFs to no pod: it " + cmp.Or(p.Reason, "is not healthy") + "."
		d.Advice = adviceFor(p.Reason)
	case p.VFs == 0:
		d.Explanation = "It has no VFs."
		d.Advice = fmt.Sprintf("Create them: echo %d > /sys/bus/pci/devices/%s/sriov_numvfs. Or let the plugin do it, "+
			"with -provisioning-dir.", max(p.TotalVFs, 1), p.Address)
	case usable < p.VFs:
		d.Explanation = fmt.Sprintf("%d of its %s can be allocated.", usable, count(p.VFs, "VF"))
		d.Advice = "See why the others cannot: qatctl list --pf " + p.Address + "."
	default:
		d.OK = true
		d.Explanation = fmt.Sprintf("All of its %s can be allocated.", count(p.VFs, "VF"))
	}
	if rule != nil && rule.State == status.ProvisioningFailed && d.Advice == "" {
		d.Advice = "Its rule cannot be met: " + rule.Reason + "."
	}
	d.Advice = strings.ReplaceAll(d.Advice, "/PF/", "/"+p.Address+"/")
	return d
}

// provisionedPF returns the state of the rule of a PF, or nil if it has none.
func provisionedPF(s *status.Snapshot, address string) *status.ProvisionedPF {
	if s.Provisioning == nil {
		return nil
	}
	for i := range s.Provisioning.PFs {
		if s.Provisioning.PFs[i].Address == address {
			return &s.Provisioning.PFs[i]
		}
	}
	return nil
}
