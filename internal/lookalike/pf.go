package lookalike

import (
	"fmt"
	"path"
	"strings"
	"syscall"
)

// NoDriver in PF.Driver is a PF that no driver is bound to.
const NoDriver = "none"

// PF describes a physical function. Fields that are empty get the values of the family of DeviceID.
type PF struct {
	Address    string // 0000:6b:00.0; any domain
	DeviceID   string // four hexadecimal digits; "" is 4940
	VFDeviceID string
	Driver     string // 4xxx, c6xx, ...; NoDriver
	NUMANode   int    // -1: the platform does not say
	TotalVFs   int
	Services   string // cfg_services: "sym;asym", "dc"; "" is a PF without qat/, as Gen2 and old kernels have it
	State      string // up or down; "" is up
	Bridge     bool   // behind a PCI bridge on the bus before its own: devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0
}

func (p *PF) complete() error {
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
		return fmt.Errorf("device ID %q is of no known family: name its driver and its VFs' ID", p.DeviceID)
	}
	if p.State != "up" && p.State != "down" {
		return fmt.Errorf("state %q is neither up nor down", p.State)
	}
	return nil
}

// AddPF plugs in a PF without VFs and binds its driver, which is loaded if need be.
func (h *Host) AddPF(pf PF) error {
	return h.do("add PF", pf.Address, false, func(o *op) { o.addPF(pf) })
}

func (o *op) addPF(pf PF) {
	h := o.h
	if err := pf.complete(); err != nil {
		o.fail(err)
		return
	}
	domain, id, err := routing(pf.Address)
	if err != nil {
		o.fail(err)
		return
	}
	bus := id >> 8
	devpath := fmt.Sprintf("/devices/pci%s:%02x/%s", domain, bus, pf.Address)
	if pf.Bridge {
		if bus == 0 {
			o.fail(fmt.Errorf("no bus lies before bus 0 for the bridge"))
			return
		}
		bridge := &function{address: addressOf(domain, (bus-1)<<8), id: "2030", class: classBridge, numa: pf.NUMANode, group: -1, vfio: -1, uio: -1}
		bridge.devpath = fmt.Sprintf("/devices/pci%s:%02x/%s", domain, bus-1, bridge.address)
		devpath = path.Join(bridge.devpath, pf.Address)
		if h.devices[bridge.address] == nil {
			o.appear(bridge)
		}
	}
	d := &function{address: pf.Address, devpath: devpath, id: pf.DeviceID, class: classQAT, numa: pf.NUMANode, group: -1, vfio: -1, uio: -1, spec: &pf, shown: map[string]string{}}
	if pf.Driver != NoDriver {
		o.loadDriver(pf.Driver)
	}
	o.appear(d)
	if pf.Driver != NoDriver {
		o.bind(d, pf.Driver)
	}
	delete(h.removed, pf.Address)
}

// RemovePF takes a PF away, as a surprise removal does. Its driver link goes, then its VFs, then the PF itself.
func (h *Host) RemovePF(address string) error {
	return h.do("remove PF", address, false, func(o *op) {
		if d := o.findPF(address); d != nil {
			o.removePF(d)
		}
	})
}

// removePF unbinds the driver first; its remove function is what takes the VFs away (adf_dev_down, pci_disable_sriov).
func (o *op) removePF(d *function) {
	o.decided()
	o.vanish(d)
}

// SetState takes a PF down or up as a write to qat/state does. Going down removes its VFs; going up does not bring them back.
func (h *Host) SetState(address, state string) error {
	return h.do("set state of", address, false, func(o *op) {
		if d := o.findPF(address); d != nil {
			o.setState(d, state)
		}
	})
}

func (o *op) setState(d *function, state string) {
	o.Detail = state
	switch {
	case !d.hasGroup():
		o.fail(syscall.ENOENT)
	case state != "up" && state != "down":
		o.fail(syscall.EINVAL)
	case state == d.spec.State:
	case state == "up":
		o.heartbeat(d, true)
		d.spec.State = state
		o.decided()
		o.show(d, "qat/state", state)
	default:
		o.heartbeat(d, false)
		d.spec.State = state
		o.decided()
		o.show(d, "qat/state", state)
		o.removeVFs(d)
		o.showNumVFs(d)
	}
}

// SetService writes qat/cfg_services. As with the real driver the PF must be down; SetAttr goes around that.
func (h *Host) SetService(address, services string) error {
	return h.do("set services of", address, false, func(o *op) {
		if d := o.findPF(address); d != nil {
			o.setService(d, services)
		}
	})
}

func (o *op) setService(d *function, services string) {
	o.Detail = services
	switch {
	case !d.hasGroup():
		o.fail(syscall.ENOENT)
		return
	case d.spec.State != "down":
		o.fail(fmt.Errorf("the PF is up; its services change only when it is down: %w", syscall.EINVAL))
		return
	}
	for _, word := range strings.Split(services, ";") {
		switch word {
		case "sym", "asym", "dc", "dcc", "decomp":
		default:
			o.fail(fmt.Errorf("service %q: %w", word, syscall.EINVAL))
			return
		}
	}
	d.spec.Services = services
	o.decided()
	o.show(d, "qat/cfg_services", services)
	o.replace(path.Join(o.debugfs(d), "dev_cfg"), devCfg(services))
}

// SetHeartbeat sets what reading heartbeat/status in debugfs returns: "0" is alive, "-1" is not.
func (h *Host) SetHeartbeat(address, status string) error {
	return h.do("set heartbeat of", address, false, func(o *op) {
		o.Detail = status
		if d := o.findPF(address); d != nil {
			o.decided()
			o.replace(path.Join(o.debugfs(d), "heartbeat/status"), status)
		}
	})
}

// startQAT is the end of the PF driver's probe: debugfs, then the attributes.
func (o *op) startQAT(d *function) {
	o.mkdir(o.debugfs(d))
	o.put(path.Join(o.debugfs(d), "dev_cfg"), devCfg(d.spec.Services))
	o.heartbeat(d, d.spec.State == "up")
	if d.spec.Services == "" {
		return
	}
	dir := path.Join(d.dir(o.h), "qat")
	o.mkdir(dir)
	if o.h.server != nil {
		o.try(func() error { return o.h.server.watch(dir) })
	}
	for _, a := range [][2]string{{"auto_reset", "off"}, {"num_rps", "64"}, {"pm_idle_enabled", "1"}, {"rp2srv", ""}} {
		o.replace(path.Join(dir, a[0]), a[1])
	}
	clear(d.shown)
	o.show(d, "qat/cfg_services", d.spec.Services)
	o.decided()
	o.show(d, "qat/state", d.spec.State)
}

func (o *op) stopQAT(d *function) {
	o.heartbeat(d, false)
	o.removeVFs(d)
	o.rmtree(path.Join(d.dir(o.h), "qat"))
	o.rmtree(o.debugfs(d))
}

// heartbeat makes debugfs show whether the PF runs: the driver makes heartbeat/ when it goes up and removes it when it goes down.
func (o *op) heartbeat(d *function, up bool) {
	dir := path.Join(o.debugfs(d), "heartbeat")
	if !up {
		o.rmtree(dir)
		return
	}
	o.mkdir(dir)
	for _, a := range [][2]string{{"queries_sent", "0"}, {"queries_failed", "0"}, {"config", "500"}, {"status", "0"}} {
		o.put(path.Join(dir, a[0]), a[1])
	}
}

func (o *op) debugfs(d *function) string {
	return o.h.sys("kernel/debug", "qat_"+d.spec.Driver+"_"+d.address)
}

// devCfg is the table of the driver's configuration that debugfs shows (adf_cfg.c).
func devCfg(services string) string {
	if services == "" {
		return "[GENERAL]\n[KERNEL]\nNumberCyInstances = 0\nNumberDcInstances = 0"
	}
	return "[GENERAL]\nServicesEnabled = " + services + "\n[KERNEL]\nNumberCyInstances = 0\nNumberDcInstances = 0"
}

// hasGroup tells whether the PF shows qat/ now.
func (d *function) hasGroup() bool { return d.spec.Services != "" && d.driver == d.spec.Driver }
