// SPDX-License-Identifier: Apache-2.0

// Package config reads what an administrator wants the physical functions (PFs) of a node to be:
// their services, virtual functions (VFs), automatic reset, power management and the VFs' driver.
//
// A configuration directory holds qat.yaml, a list of rules, or qat.conf, the format of the init
// container of Intel's device plugin. The file qat-NODE.yaml or qat-NODE.conf replaces them on the
// node of that name. docs/provisioning.schema.json is the JSON Schema of the YAML files. Editors
// use it for a file whose first line is
//
//	# yaml-language-server: $schema=URL-OR-PATH-OF-THE-SCHEMA
//
// Parsing is strict. Whatever a file has that does not take effect is an error.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

// PF is what rules can match of a physical function.
type PF struct {
	Address  pci.Address
	NUMANode int // -1 if the kernel does not know it, as in numa_node
	Family   *device.Family
}

// Desired is what a PF should be. The caller must not modify what its fields point to.
type Desired struct {
	Services  []string // words of qat/cfg_services, a set; nil: leave them alone
	VFs       VFs
	AutoReset *bool  // qat/auto_reset; nil: leave it alone
	PMIdle    *bool  // qat/pm_idle_enabled; nil: leave it alone
	Driver    string // "": the driver that the plugin binds VFs to; DriverKernel: the VFs' kernel driver
}

// VFs is which of a PF's VFs should exist. A QAT PF has all of its VFs or none
// (drivers/crypto/intel/qat/qat_common/adf_sriov.c, adf_sriov_configure).
type VFs int

// The values of VFs.
const (
	LeaveAlone VFs = iota
	All
	None
)

// DriverKernel is the value of Desired.Driver that leaves VFs to their kernel driver.
const DriverKernel = "kernel"

// Config is the configuration of a node. It does not change.
type Config struct {
	file  string
	rules []rule
}

// File returns the path of the file that the configuration is from, or "" if there is none.
func (c *Config) File() string { return c.file }

// Desired returns what the first rule that matches a PF wants it to be, and the name of that rule
// for logs, such as "qat.yaml:12". It returns false if no rule matches.
//
// Desired leaves out what the PF's family does not have. It does not check whether the PF accepts
// the services; see [device.Family.CheckServices].
func (c *Config) Desired(pf PF) (d Desired, rule string, ok bool) {
	for _, r := range c.rules {
		if !r.matches(pf) {
			continue
		}
		d = r.desired
		if !pf.Family.Services {
			d.Services, d.AutoReset, d.PMIdle = nil, nil, nil
		}
		return d, r.source, true
	}
	return Desired{}, "", false
}

// maxSize is the size limit of a file. The data of a ConfigMap is not larger
// (MaxSecretSize in k8s.io/kubernetes/pkg/apis/core).
const maxSize = 1 << 20

// Load reads the configuration of a node from a directory. The name of the node can be "". Rules
// can give VFs to dpdkDriver, the driver that the plugin binds VFs to.
//
// Load returns a Config without rules if the directory has no file for the node. The error of an
// invalid file has one line for each mistake, with the file, the line and what is allowed.
func Load(dir, node, dpdkDriver string) (*Config, error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("read the provisioning directory: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("read the provisioning directory: %s is not a directory", dir)
	}
	names := []string{"qat"}
	if node != "" {
		names = []string{"qat-" + node, "qat"}
	}
	for _, name := range names {
		base := filepath.Join(dir, name)
		yamlFile, conf := base+".yaml", base+".conf"
		yamlText, hasYAML, errYAML := read(yamlFile)
		confText, hasConf, errConf := read(conf)
		if err := errors.Join(errYAML, errConf); err != nil {
			return nil, err
		}
		switch {
		case hasYAML && hasConf:
			return nil, fmt.Errorf("%s and %s exist: keep one of them", yamlFile, conf)
		case hasYAML:
			rules, err := parseYAML(yamlFile, yamlText, dpdkDriver)
			return build(yamlFile, rules, err)
		case hasConf:
			rules, err := parseConf(conf, confText)
			return build(conf, rules, err)
		}
	}
	return &Config{}, nil
}

func build(file string, rules []rule, err error) (*Config, error) {
	if err != nil {
		return nil, err
	}
	return &Config{file: file, rules: rules}, nil
}

// read returns the text of a file and whether the file exists. The kubelet exchanges the files of a
// ConfigMap one after the other, so the target of a symbolic link can be missing for a moment; that
// file is about to be removed.
func read(file string) (text string, exists bool, err error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // to not wait for a pipe's writer
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer func() { _ = f.Close() }() // it was only read
	if info, err := f.Stat(); err != nil {
		return "", false, err
	} else if !info.Mode().IsRegular() {
		return "", false, fmt.Errorf("%s: not a regular file", file)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return "", false, err
	}
	if len(data) > maxSize {
		return "", false, fmt.Errorf("%s: larger than the limit of %d bytes", file, maxSize)
	}
	return string(data), true, nil
}

// A rule is the desired state of the PFs that it matches. An empty list matches each PF.
type rule struct {
	source    string // file and line, for logs
	pfs       []addressRange
	numaNodes []int
	families  []string // of [device.Family.ConfigName]
	desired   Desired
}

// An addressRange is the PCI addresses from first to last.
type addressRange struct {
	first, last pci.Address
}

func (r *rule) matches(pf PF) bool {
	inRange := func(a addressRange) bool {
		return a.first.Compare(pf.Address) <= 0 && pf.Address.Compare(a.last) <= 0
	}
	return (len(r.pfs) == 0 || slices.ContainsFunc(r.pfs, inRange)) &&
		(len(r.numaNodes) == 0 || slices.Contains(r.numaNodes, pf.NUMANode)) &&
		(len(r.families) == 0 || slices.Contains(r.families, pf.Family.ConfigName()))
}
