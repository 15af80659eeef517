// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"
)

// NoDriver as PF.Driver means that no driver is bound.
const NoDriver = "none"

// PF describes a physical function. Empty fields get the values of the family of DeviceID.
type PF struct {
	Address    string // 0000:6b:00.0, in any domain
	DeviceID   string // four hexadecimal digits; "" means 4940
	VFDeviceID string
	Driver     string // 4xxx, c6xx, ..., or NoDriver
	NUMANode   int    // -1 if the platform does not say
	TotalVFs   int
	Services   string // cfg_services: "sym;asym", "dc"; "" for no qat/, as with Gen2 and old kernels
	State      string // up or down; "" means up
	Bridge     bool   // behind a bridge on the previous bus: pci0000:3a/0000:3a:00.0/0000:3b:00.0
}

func (p *PF) setDefaults() error {
	if p.DeviceID == "" {
		p.DeviceID = "4940"
	}
	f, known := familyOf(p.DeviceID)
	if p.VFDeviceID == "" {
		p.VFDeviceID = f.vf
	}
	if p.Driver == "" {
		p.Driver = f.driver
	}
	if p.TotalVFs == 0 {
		p.TotalVFs = f.vfs
	}
	if p.State == "" {
		p.State = "up"
	}
	if !known && (p.VFDeviceID == "" || p.Driver == "") {
		return fmt.Errorf("unknown device ID %q: VFDeviceID and Driver must be set", p.DeviceID)
	}
	if p.State != "up" && p.State != "down" {
		return fmt.Errorf("invalid state %q: must be up or down", p.State)
	}
	return nil
}

// AddPF adds a PF without VFs, loads its driver if necessary, and binds it.
func (h *Host) AddPF(pf PF) error {
	return h.do("add PF", pf.Address, func(o *op) { o.addPF(pf) })
}

func (o *op) addPF(pf PF) {
	if err := pf.setDefaults(); err != nil {
		o.fail(err)
		return
	}
	domain, id, err := parseAddress(pf.Address)
	if err != nil {
		o.fail(err)
		return
	}
	devpath := rootDevpath(domain, id)
	if pf.Bridge {
		bus := id>>8 - 1
		if bus < 0 {
			o.fail(errors.New("there is no bus before bus 0 for the bridge"))
			return
		}
		bridge := &function{
			address: formatAddress(domain, bus<<8),
			devpath: rootDevpath(domain, bus<<8),
			id:      "2030",
			class:   classBridge,
			numa:    pf.NUMANode,
		}
		devpath = path.Join(bridge.devpath, pf.Address)
		if o.h.devices[bridge.address] == nil {
			o.addFunction(bridge)
		}
	}
	d := &function{
		address: pf.Address,
		devpath: devpath,
		id:      pf.DeviceID,
		class:   classQAT,
		numa:    pf.NUMANode,
		spec:    &pf,
		shown:   map[string]string{},
	}
	if pf.Driver != NoDriver {
		o.loadDriver(pf.Driver)
	}
	o.addFunction(d)
	if pf.Driver != NoDriver {
		o.bind(d, pf.Driver)
	}
	delete(o.h.removed, pf.Address)
}

// RemovePF removes a PF as a surprise removal does: first its driver link, then its VFs, then
// the PF itself.
func (h *Host) RemovePF(address string) error {
	return h.doPF("remove PF", address, (*op).removePF)
}

// removePF unbinds the driver first. It is the driver's remove function that removes the VFs
// (adf_dev_down, pci_disable_sriov).
func (o *op) removePF(pf *function) {
	o.markVisible()
	o.removeFunction(pf)
}

// SetState sets a PF up or down, as a write to qat/state does. Going down removes its VFs; going
// up does not bring them back.
func (h *Host) SetState(address, state string) error {
	return h.doPF("set state of", address, func(o *op, pf *function) { o.setState(pf, state) })
}

func (o *op) setState(pf *function, state string) {
	o.Value = state
	switch {
	case !pf.hasQATGroup():
		o.fail(syscall.ENOENT)
		return
	case state != "up" && state != "down":
		o.fail(syscall.EINVAL)
		return
	case state == pf.spec.State:
		return
	}
	pf.spec.State = state
	o.setUpFiles(pf, state == "up")
	o.markVisible()
	o.show(pf, "qat/state", state)
	if state == "down" {
		o.removeVFs(pf)
		o.showNumVFs(pf)
	}
}

// SetService sets qat/cfg_services. As with the real driver, the PF must be down; SetAttr does
// not check that.
func (h *Host) SetService(address, services string) error {
	return h.doPF("set services of", address, func(o *op, pf *function) { o.setServices(pf, services) })
}

func (o *op) setServices(pf *function, services string) {
	o.Value = services
	switch {
	case !pf.hasQATGroup():
		o.fail(syscall.ENOENT)
		return
	case pf.spec.State != "down":
		o.fail(fmt.Errorf("the PF is up, and services can change only while it is down: %w", syscall.EINVAL))
		return
	}
	if !acceptsServices(pf.id, strings.Split(services, ";")) {
		o.fail(fmt.Errorf("services %q: %w", services, syscall.EINVAL))
		return
	}
	pf.spec.Services = services
	o.markVisible()
	o.show(pf, "qat/cfg_services", services)
	o.replace(path.Join(o.h.debugfs(pf), "dev_cfg"), devCfg(services))
}

// acceptsServices reports whether PFs with a device ID accept a set of services:
// adf_gen4_services_supported (qat_common/adf_gen4_hw_data.c), and services_supported
// (qat_6xxx/adf_6xxx_hw_data.c) for 6xxx.
func acceptsServices(id string, services []string) bool {
	most, allowed := 2, []string{"sym", "asym", "dc"}
	if id == "4948" {
		most, allowed = 3, append(allowed, "decomp")
	}
	if slices.Equal(services, []string{"dcc"}) {
		return true
	}
	seen := map[string]bool{}
	for _, service := range services {
		if !slices.Contains(allowed, service) || seen[service] {
			return false
		}
		seen[service] = true
	}
	return len(services) <= most
}

// SetHeartbeat sets what debugfs heartbeat/status reads: "0" if the device is alive, else "-1".
// Each call with "-1" counts one failed check in heartbeat/queries_failed.
func (h *Host) SetHeartbeat(address, status string) error {
	return h.doPF("set heartbeat of", address, func(o *op, pf *function) {
		o.Value = status
		o.markVisible()
		if status == "-1" {
			pf.heartbeatsFailed++
			o.replace(path.Join(o.h.debugfs(pf), "heartbeat/queries_failed"), fmt.Sprint(pf.heartbeatsFailed))
		}
		o.replace(path.Join(o.h.debugfs(pf), "heartbeat/status"), status)
	})
}

// startQAT is the end of the PF driver's probe: first debugfs, then the attributes.
func (o *op) startQAT(pf *function) {
	o.mkdir(o.h.debugfs(pf))
	o.create(path.Join(o.h.debugfs(pf), "dev_cfg"), devCfg(pf.spec.Services))
	o.setUpFiles(pf, pf.spec.State == "up")
	if pf.spec.Services == "" {
		return
	}
	dir := path.Join(pf.dir(o.h), "qat")
	o.mkdir(dir)
	o.watchWrites(dir)
	o.replace(path.Join(dir, "num_rps"), "64")
	o.replace(path.Join(dir, "rp2srv"), "")
	pf.autoReset, pf.pmIdle = "off", "1"
	clear(pf.shown)
	o.show(pf, "qat/auto_reset", pf.autoReset)
	o.show(pf, "qat/pm_idle_enabled", pf.pmIdle)
	o.show(pf, "qat/cfg_services", pf.spec.Services)
	o.markVisible()
	o.show(pf, "qat/state", pf.spec.State)
}

func (o *op) stopQAT(pf *function) {
	o.setUpFiles(pf, false)
	o.removeVFs(pf)
	o.removeAll(path.Join(pf.dir(o.h), "qat"))
	o.removeAll(o.h.debugfs(pf))
}

// setUpFiles creates or removes the files that exist only while the PF is up: heartbeat/ in debugfs
// and those of its telemetry.
func (o *op) setUpFiles(pf *function, up bool) {
	dir := path.Join(o.h.debugfs(pf), "heartbeat")
	if !up {
		o.stopTelemetry(pf)
		o.removeAll(dir)
		return
	}
	o.mkdir(dir)
	pf.heartbeatsFailed = 0
	for _, a := range [][2]string{
		{"queries_sent", "0"}, {"queries_failed", "0"}, {"config", "500"}, {"status", "0"},
	} {
		o.create(path.Join(dir, a[0]), a[1])
	}
	o.startTelemetry(pf)
}

func (h *Host) debugfs(pf *function) string {
	return h.sys("kernel/debug", "qat_"+pf.spec.Driver+"_"+pf.address)
}

// devCfg returns the driver's configuration as debugfs shows it (adf_cfg.c).
func devCfg(services string) string {
	if services != "" {
		services = "ServicesEnabled = " + services + "\n"
	}
	return "[GENERAL]\n" + services + "[KERNEL]\nNumberCyInstances = 0\nNumberDcInstances = 0"
}

// hasQATGroup reports whether the PF has the attribute group qat/ now.
func (d *function) hasQATGroup() bool { return d.spec.Services != "" && d.driver == d.spec.Driver }
