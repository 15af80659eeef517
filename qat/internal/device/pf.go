// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/ini.v1"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// identifyPF determines what to watch of a PF besides its directory: qat/ shows what users write
// to state and cfg_services; the directory in debugfs shows heartbeat/ come and go as the device
// goes up and down.
func (h *Handle) identifyPF() {
	f := &h.identity
	// drivers/crypto/intel/qat/qat_common/adf_dbgfs.c, adf_dbgfs_init
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
	case !sysfs.IsAbsent(err): // absent: no driver is bound, or it has no such group
		h.watchErr = err
	}
}

// readPF reads what is specific to a PF. It does not read sriov_numvfs, because that read waits for
// the PF's device lock, for seconds when VFs are being removed.
func (h *Handle) readPF(f *Function) error {
	f.Resource = Generic
	names, err := h.dir.Names(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "virtfn") {
			continue
		}
		target, err := h.dir.Link(name)
		if err != nil {
			return err
		}
		if vf, ok := pci.Parse(target); ok {
			f.VFs = append(f.VFs, vf)
		}
	}
	slices.SortFunc(f.VFs, pci.Address.Compare)
	if !f.Family.Services {
		return nil
	}
	return h.readServices(f)
}

// readServices reads the state of the PF and the resource that its services make.
func (h *Handle) readServices(f *Function) (err error) {
	if h.watchErr != nil {
		return h.watchErr
	}
	if f.State, err = h.dir.Read("qat/state"); err != nil && !sysfs.IsAbsent(err) {
		return err
	}
	services, err := h.dir.Read("qat/cfg_services")
	if err != nil && !sysfs.IsAbsent(err) {
		return err
	}
	resource := resourceOf(services)
	if resource == "" {
		if services, err = devCfgServices(f.Debugfs); err != nil {
			return err
		}
		resource = resourceOf(services)
	}
	if resource != "" {
		f.Resource = resource
	}
	return nil
}

// devCfgServices reads ServicesEnabled in dev_cfg, the configuration that the driver shows in
// debugfs. It returns "" when there is none, or when debugfs is not mounted or not accessible.
func devCfgServices(debugfs string) (string, error) {
	file := filepath.Join(debugfs, "dev_cfg")
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
