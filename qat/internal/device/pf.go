// SPDX-License-Identifier: Apache-2.0

package device

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/ini.v1"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// identifyPF determines which directories of a PF to watch besides its own. In qat/, inotify
// reports writes of users to state and cfg_services. In the directory in debugfs, it reports that
// heartbeat/ appears and disappears as the device goes up and down
// (drivers/crypto/intel/qat/qat_common/adf_dbgfs.c, adf_dbgfs_init).
func (h *Handle) identifyPF() {
	f := &h.identity
	name := "qat_" + f.Family.pfDriver + "_" + f.Address.String()
	f.Debugfs = filepath.Join(h.reader.cfg.Sysfs, "kernel/debug", name)
	if !f.Family.Services {
		return
	}
	h.watches = append(h.watches, Watch{Dir: f.Debugfs})
	inode, err := h.dir.Inode("qat")
	switch {
	case err == nil:
		h.watches = append(h.watches, Watch{Dir: filepath.Join(f.Dir, "qat"), Incarnation: inode})
	case !sysfs.IsAbsent(err): // absent: no driver is bound, or the driver does not have qat/
		h.watchErr = err
	}
}

// A vfLink is a virtfn link of a PF.
type vfLink struct {
	vf     pci.Address
	number int // N of virtfnN
}

// readPF reads what is specific to a PF. It does not read sriov_numvfs, because that read waits for
// the PF's device lock, for seconds when VFs are being removed.
func (h *Handle) readPF(f *Function) error {
	f.Resource = Generic
	names, err := h.dir.Names(".")
	if err != nil {
		return err
	}
	var links []vfLink
	for _, name := range names {
		number, isLink := strings.CutPrefix(name, "virtfn")
		if !isLink {
			continue
		}
		target, err := h.dir.Link(name)
		if err != nil {
			return err
		}
		if vf, ok := pci.Parse(target); ok {
			n, _ := strconv.Atoi(number)
			links = append(links, vfLink{vf, n})
		}
	}
	slices.SortFunc(links, func(a, b vfLink) int { return a.vf.Compare(b.vf) })
	for _, l := range links {
		f.VFs = append(f.VFs, l.vf)
		if h.reader.cfg.Attributes {
			f.VFNumbers = append(f.VFNumbers, l.number)
		}
	}
	if h.reader.cfg.Attributes {
		if f.DriverVersion, err = h.Attribute("driver/module/version"); sysfs.IsTransient(err) {
			return err
		}
	}
	if !f.Family.Services {
		return nil
	}
	return h.readServices(f)
}

// readServices reads the state and the services of the PF, and derives the resource from them.
func (h *Handle) readServices(f *Function) (err error) {
	if h.watchErr != nil {
		return h.watchErr
	}
	if f.State, err = h.dir.Read("qat/state"); err != nil && !sysfs.IsAbsent(err) {
		return err
	}
	if f.Services, err = h.dir.Read("qat/cfg_services"); err != nil && !sysfs.IsAbsent(err) {
		return err
	}
	resource := resourceOf(f.Services)
	if resource == "" {
		h.reader.progress.set(f.Debugfs, devCfg)
		services, err := devCfgServices(f.Debugfs)
		if err != nil {
			return err
		}
		resource = resourceOf(services)
	}
	f.Resource = cmp.Or(resource, Generic)
	return nil
}

const devCfg = "dev_cfg"

// devCfgServices reads ServicesEnabled in dev_cfg, the driver's configuration in debugfs. It
// returns "" if the file does not exist, or if debugfs is not mounted or not accessible.
func devCfgServices(debugfs string) (string, error) {
	file := filepath.Join(debugfs, devCfg)
	text, err := sysfs.ReadFile(file)
	if sysfs.IsAbsent(err) || errors.Is(err, os.ErrPermission) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	options := ini.LoadOptions{IgnoreInlineComment: true, SkipUnrecognizableLines: true}
	cfg, err := ini.LoadSources(options, []byte(text))
	if err != nil {
		return "", fmt.Errorf("parse %s: %w", file, err)
	}
	return cfg.Section("GENERAL").Key("ServicesEnabled").String(), nil
}

// Generic is the resource of VFs whose services are unknown: VFs of devices without configurable
// services, VFs in a guest, and VFs whose PF has no valid services.
const Generic = "generic"

// ServicesOf returns the services that the name of a resource stands for, in the order of
// [ServiceNames]; none for [Generic].
func ServicesOf(resource string) []string {
	switch resource {
	case "cy":
		return []string{"asym", "sym"}
	case Generic:
		return nil
	}
	return strings.Split(resource, "-")
}

// services lists the words of qat/cfg_services in the order in which a resource's name has them
// (Documentation/ABI/testing/sysfs-driver-qat).
var services = [...]string{"asym", "sym", "dc", "decomp", "dcc"}

// resourceOf returns the name of the resource for a value of qat/cfg_services, or of
// ServicesEnabled in dev_cfg, such as "sym;asym". The value is a set: order and repetition have no
// meaning. sym with asym is called "cy".
//
// resourceOf returns "" if the value has no word, or a word that is not a service. A value that is
// only partly written must not become the name of a resource.
func resourceOf(value string) string {
	words := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(";, \t\n", r) })
	var names []string
	for _, s := range services {
		if slices.Contains(words, s) {
			names = append(names, s)
		}
	}
	for _, word := range words {
		if !slices.Contains(names, word) {
			return ""
		}
	}
	name := strings.Join(names, "-")
	if name == "asym-sym" {
		return "cy"
	}
	return name
}
