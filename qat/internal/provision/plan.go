// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/provision/config"
)

// A write is a value for an attribute of a PF.
type write struct{ attribute, value string }

func (w write) String() string { return w.attribute + "=" + w.value }

// removeVFs is the write that removes the VFs of a PF.
var removeVFs = write{attrNumVFs, "0"}

// waitsForHolders reports whether the write takes VFs from their drivers. The kernel then waits for
// processes that have one open.
func (w write) waitsForHolders() bool {
	return w == removeVFs || w == write{attrState, "down"} || w.attribute == attrUnbind
}

// A plan says how to make a PF what its rule wants.
type plan struct {
	writes  []write  // in this order; none: there is nothing to do
	differs []string // what the writes change, for the log

	// takedown reports whether the writes remove VFs. Before them, holders must be known.
	takedown bool

	// restarts reports whether the writes take the PF down, to change what its driver accepts only
	// then, and bring it up again.
	restarts bool

	wait  string // why nothing can be done now; "" if the writes can be made
	unmet string // what the rule wants and the writes do not bring about, with the reason; or ""
}

// String returns the writes for the log.
func (p *plan) String() string {
	words := make([]string, len(p.writes))
	for i, w := range p.writes {
		words[i] = w.String()
	}
	return strings.Join(words, " ")
}

// rules is the part of the plugin's configuration that plans depend on.
type rules struct {
	isBound func(driver string) bool // a VF with this driver is bound to the DPDK driver
	served  []string                 // kernel VF drivers of the families whose VFs the plugin binds; nil: all
	noBind  bool                     // the plugin binds no VFs
}

// binds reports whether the plugin binds the VFs of a family. It leaves sriov_drivers_autoprobe of
// the others alone.
func (r *rules) binds(f *device.Family) bool {
	return !r.noBind && (r.served == nil || slices.Contains(r.served, f.VFDriver))
}

// input is what a plan follows from.
type input struct {
	facts   *facts
	desired config.Desired
	refused map[write]string // writes that the kernel refuses, with the reason
	restore bool             // an earlier plan removed VFs that are to come back, and could not create them
}

// newPlan compares a PF with its rule. It has no side effects.
func newPlan(in *input, r *rules) plan {
	p := planner{input: in, rules: r}
	f := in.facts
	switch {
	case f.driver == "":
		return plan{wait: "it has no driver: modprobe " + f.family.PFModule()}
	case f.driver != f.family.PFDriver():
		return plan{wait: fmt.Sprintf("it is bound to %s, and only its own driver %s can configure it",
			f.driver, f.family.PFDriver())}
	}
	p.compare()
	p.sequence()
	p.plan.unmet = strings.Join(p.unmet, "; ")
	return p.plan
}

// A planner is the state of one call of newPlan.
type planner struct {
	*input
	*rules
	plan  plan
	unmet []string

	services, pmIdle, autoReset string // values to write; "": none
	up                          bool   // the PF is down and must be up
	remove, create              bool   // remove the VFs; create them
}

// compare finds out what differs.
func (p *planner) compare() {
	f, d := p.facts, &p.desired
	if f.family.Services {
		p.services = p.compareServices()
		p.pmIdle = p.compareSwitch(attrPMIdle, f.pmIdle, d.PMIdle, "0", "1")
		p.autoReset = p.compareSwitch(attrAutoReset, f.autoReset, d.AutoReset, "off", "on")
		if f.state == "down" && p.mayTakeDown() && p.can(write{attrState, "up"}) {
			p.up = true
			p.differ("state", "down", "up")
		}
	}
	p.compareVFs()
}

// compareServices returns the services to write, or "".
func (p *planner) compareServices() string {
	f, want := p.facts, p.desired.Services
	switch {
	case want == nil || sameSet(words(f.services), want):
		return ""
	case f.state == "" || f.services == "":
		p.lacks("qat/state or " + attrServices)
		return ""
	}
	if err := f.family.CheckServices(want); err != nil {
		p.unmet = append(p.unmet, err.Error())
		return ""
	}
	value := servicesValue(want)
	if !p.canReconfigure() || !p.can(write{attrServices, value}) {
		return ""
	}
	p.differ("services", f.services, value)
	return value
}

// servicesValue returns the value of qat/cfg_services for a list of services. Linux 6.0 accepts
// sym;asym, but not asym;sym (Documentation/ABI/testing/sysfs-driver-qat). Kernels that accept
// other combinations accept them in any order.
func servicesValue(services []string) string {
	list := slices.Clone(services)
	if i := slices.Index(list, "sym"); i > 0 {
		list[0], list[i] = list[i], list[0]
	}
	return strings.Join(list, ";")
}

// compareSwitch returns the value to write to an attribute that is on or off, or "".
func (p *planner) compareSwitch(attribute, now string, want *bool, off, on string) string {
	value := off
	if want != nil && *want {
		value = on
	}
	switch {
	case want == nil || now == value:
		return ""
	case now == "":
		p.lacks(attribute)
		return ""
	case attribute == attrPMIdle && !p.canReconfigure() || !p.can(write{attribute, value}):
		return ""
	}
	p.differ(attribute[len("qat/"):], now, value)
	return value
}

// compareVFs decides whether the VFs must be removed, created, or both.
func (p *planner) compareVFs() {
	f, exist := p.facts, p.facts.hasVFs()
	if exist && (p.services != "" || p.pmIdle != "") {
		p.remove, p.create = true, p.desired.VFs != config.None
	}
	switch p.desired.VFs {
	case config.None:
		if exist && p.canRemove() {
			p.remove = true
			p.differ("VFs", strconv.Itoa(len(f.vfs)), "0")
		}
		return
	case config.All:
		p.compareAll()
	case config.LeaveAlone:
		if p.restore && !exist && f.totalVFs > 0 && p.canCreate() {
			p.create = true
			p.differ("VFs", "0", f.vfsToCreate())
		}
	}
	if d := p.wrongDriver(); d != "" && p.canRemove() && p.canCreate() {
		p.remove, p.create = true, true
		p.differ("driver of VFs", d, "the kernel driver")
	}
}

// compareAll has VFs created if the PF has not all of them. If it has some, they are removed first:
// the kernel goes from one number to another only through 0 (drivers/pci/iov.c,
// sriov_numvfs_store).
func (p *planner) compareAll() {
	f := p.facts
	switch {
	case f.totalVFs == 0:
		p.unmet = append(p.unmet, "it cannot have VFs: sriov_totalvfs is missing or 0")
	case f.numVFs == f.totalVFs && len(f.vfs) == f.totalVFs:
	case p.canRemove() && p.canCreate():
		p.remove, p.create = f.hasVFs(), true
		p.differ("VFs", strconv.Itoa(len(f.vfs)), strconv.Itoa(f.totalVFs))
	}
}

// wrongDriver returns the driver of a VF that its rule leaves to its kernel driver, and that has
// another: it is bound to the DPDK driver, or the kernel was told to bind it to none. In other
// cases it returns "".
func (p *planner) wrongDriver() string {
	if p.desired.Driver != config.DriverKernel {
		return ""
	}
	for _, vf := range p.facts.vfs {
		switch {
		case p.isBound(vf.driver):
			return vf.driver
		case vf.driver == "" && p.facts.autoprobe == "0" && p.binds(p.facts.family) && p.can(write{attrAutoprobe, "1"}):
			return "none"
		}
	}
	return ""
}

// sequence puts the writes in order. auto_reset comes first, because it needs nothing else. What
// the driver accepts only while the PF is down comes between the two writes to qat/state.
func (p *planner) sequence() {
	f := p.facts
	byState := p.remove && p.removesByState()
	down := p.services != "" || p.pmIdle != "" || byState
	p.add(p.autoReset != "", write{attrAutoReset, p.autoReset})
	p.add(p.remove && !byState, removeVFs)
	p.add(down && (f.state != "down" || byState), write{attrState, "down"})
	p.add(p.services != "", write{attrServices, p.services})
	p.add(p.pmIdle != "", write{attrPMIdle, p.pmIdle})
	p.add(down || p.up, write{attrState, "up"})
	if p.create {
		autoprobe := "0"
		if p.desired.Driver == config.DriverKernel {
			autoprobe = "1"
		}
		w := write{attrAutoprobe, autoprobe}
		p.add(p.binds(f.family) && f.autoprobe != "" && f.autoprobe != autoprobe && p.can(w), w)
		p.add(true, write{attrNumVFs, f.vfsToCreate()})
	}
	p.plan.takedown, p.plan.restarts = p.remove, down
}

func (p *planner) add(needed bool, w write) {
	if needed {
		p.plan.writes = append(p.plan.writes, w)
	}
}

// can reports whether the kernel has not refused a write. If it has, the rule cannot be met.
func (p *planner) can(w write) bool {
	reason := p.refused[w]
	if reason != "" && !slices.Contains(p.unmet, reason) {
		p.unmet = append(p.unmet, reason)
	}
	return reason == ""
}

// mayTakeDown reports whether the rule can have the PF taken down, so that the plugin must bring it
// up again, also after it ended in between, or needs the PF to be up. Otherwise an administrator
// may take the PF down.
func (p *planner) mayTakeDown() bool {
	d := &p.desired
	return d.Services != nil || d.PMIdle != nil || d.VFs == config.All
}

// canRemove reports whether the PF's VFs, if it has any, can be removed.
func (p *planner) canRemove() bool {
	switch {
	case !p.facts.hasVFs():
		return true
	case p.removesByState():
		return p.can(write{attrState, "down"}) && p.can(write{attrState, "up"})
	}
	return p.can(removeVFs)
}

// removesByState reports whether the VFs can be removed only by taking the PF down. Linux 6.6, for
// example, refuses 0 for sriov_numvfs (adf_sriov.c, adf_sriov_configure).
func (p *planner) removesByState() bool {
	return p.facts.state != "" && p.refused[removeVFs] != ""
}

// canCreate reports whether VFs can be created.
func (p *planner) canCreate() bool { return p.can(write{attrNumVFs, p.facts.vfsToCreate()}) }

// canReconfigure reports whether the PF can be taken down and brought up again, with VFs if it has
// some that are to stay.
func (p *planner) canReconfigure() bool {
	return p.canRemove() && (!p.facts.hasVFs() || p.desired.VFs == config.None || p.canCreate()) &&
		(p.facts.state == "down" || p.can(write{attrState, "down"})) && p.can(write{attrState, "up"})
}

func (p *planner) differ(what, now, want string) {
	p.plan.differs = append(p.plan.differs, what+" "+now+" → "+want)
}

func (p *planner) lacks(attribute string) {
	p.unmet = append(p.unmet, fmt.Sprintf("its driver has no %s: use a newer kernel, or take it out of the rule",
		attribute))
}

// hasVFs reports whether the PF has VFs.
func (f *facts) hasVFs() bool { return f.numVFs > 0 || len(f.vfs) > 0 }

// vfsToCreate returns the value for sriov_numvfs. The QAT driver creates all VFs, whatever the
// number (adf_sriov.c, adf_sriov_configure).
func (f *facts) vfsToCreate() string { return strconv.Itoa(max(f.totalVFs, f.numVFs)) }

// words splits a value of qat/cfg_services.
func words(services string) []string {
	return strings.FieldsFunc(services, func(r rune) bool { return r == ';' || r == ',' || r == ' ' })
}

// sameSet reports whether two lists have the same elements. Kernels show services in an order of
// their own (drivers/crypto/intel/qat/qat_common/adf_cfg_services.c).
func sameSet(a, b []string) bool {
	contains := func(list []string) func(string) bool {
		return func(s string) bool { return !slices.Contains(list, s) }
	}
	return !slices.ContainsFunc(a, contains(b)) && !slices.ContainsFunc(b, contains(a))
}

// holders says which VFs containers hold.
type holders struct {
	heldBy string                 // what the names of holders are, for reasons; "" is a pod
	pods   map[pci.Address]string // VF → pod or other holder
	err    error                  // why the kubelet cannot be asked; nil if it could

	// allocated is a VF that was allocated so short a time ago that the kubelet may not report its
	// pod yet; nil: none.
	allocated *pci.Address
}

// block returns why these VFs of a PF must not be removed now, or "".
func (h *holders) block(vfs []vf, r *rules) string {
	var held []string
	bound, kind := false, "pod "
	if h.heldBy != "" {
		kind = h.heldBy + " "
	}
	for _, vf := range vfs {
		if pod := h.pods[vf.address]; pod != "" {
			held = append(held, fmt.Sprintf("%s%s holds %s", kind, pod, vf.address))
		}
		bound = bound || r.isBound(vf.driver)
	}
	const most = 4 // that are named
	switch {
	case len(held) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(held[:most], ", "), len(held)-most)
	case len(held) > 0:
		return strings.Join(held, ", ")
	case h.err != nil && bound:
		return fmt.Sprintf("its VFs count as held by pods: %v", h.err)
	case h.allocated != nil:
		return fmt.Sprintf("%s was allocated less than %v ago", h.allocated, allocationTime)
	}
	return ""
}
