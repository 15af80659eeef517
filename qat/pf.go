package qat

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/ini.v1"
)

// lookAtPF reads what a PF tells of its VFs. sriov_numvfs is not read: that waits for the PF's device lock, seconds at worst.
func (h *host) lookAtPF(d directory, f *Function) error {
	names, err := d.names(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "virtfn") {
			continue
		}
		target, err := d.link(name)
		if err != nil {
			return err
		}
		if vf, ok := ParseAddress(target); ok {
			f.VFs = append(f.VFs, vf)
		}
	}
	slices.SortFunc(f.VFs, Address.Compare)
	f.Resource = Generic
	if f.Family.Services {
		return h.lookAtServices(d, f)
	}
	return nil
}

func (h *host) lookAtServices(d directory, f *Function) error {
	h.watch(filepath.Join(h.sysfs, f.debugfs()), 0)
	inode, err := d.inode("qat")
	if err != nil && !absent(err) {
		return err
	}
	if err == nil {
		h.watch(filepath.Join(f.Dir, "qat"), inode)
	}
	if f.State, err = d.read("qat/state"); err != nil && !absent(err) {
		return err
	}
	value, err := d.read("qat/cfg_services")
	if err != nil && !absent(err) {
		return err
	}
	if name := resourceOfServices(value); name != "" {
		f.Resource = name
		return nil
	}
	if value, err = h.devCfgServices(f); err != nil {
		return err
	}
	if name := resourceOfServices(value); name != "" {
		f.Resource = name
	}
	return nil
}

// debugfs is the directory that the PF's driver makes, below the root of sysfs (drivers/crypto/intel/qat/qat_common/adf_dbgfs.c).
func (f *Function) debugfs() string {
	return path.Join("kernel/debug", "qat_"+f.Family.PFDriver+"_"+f.Address.String())
}

// devCfgServices reads ServicesEnabled of the driver's dev_cfg; "" when there is none.
func (h *host) devCfgServices(f *Function) (string, error) {
	text, err := os.ReadFile(filepath.Join(h.sysfs, f.debugfs(), "dev_cfg"))
	if absent(err) || errors.Is(err, os.ErrPermission) {
		return "", nil // debugfs is not mounted, or is not for this process
	}
	if err != nil {
		return "", err
	}
	cfg, err := ini.LoadSources(ini.LoadOptions{IgnoreInlineComment: true, SkipUnrecognizableLines: true}, text)
	if err != nil {
		return "", fmt.Errorf("read dev_cfg of %s: %w", f.Address, err)
	}
	return cfg.Section("GENERAL").Key("ServicesEnabled").String(), nil
}
