// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"
	"os"
	"path/filepath"

	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/provision/config"
)

func Example() {
	dir, err := os.MkdirTemp("", "config")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	const text = `
rules:
- name: compression on node 1
  match:
    numaNodes: [1]
  services: [dc]
  vfs: all
  autoReset: true
- match:
    pfs: ["0000:70:00.0"]
  vfs: 0
- match:
    families: [c6xx]
- vfs: all
  pmIdle: false
  driver: kernel
`
	if err := os.WriteFile(filepath.Join(dir, "qat-worker-1.yaml"), []byte(text), 0o644); err != nil {
		fmt.Println(err)
		return
	}
	c, err := config.Load(dir, "worker-1", device.DriverVFIO)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(filepath.Base(c.File()))
	for _, pf := range []struct {
		address  string
		node, id int
	}{
		{"0000:6b:00.0", 1, 0x4944},
		{"0000:70:00.0", 0, 0x4944},
		{"0000:3d:00.0", 0, 0x37c8},
		{"0000:75:00.0", 0, 0x4948},
	} {
		address, _ := pci.Parse(pf.address)
		family, _ := device.FamilyOf(0x8086, uint16(pf.id))
		d, rule, ok := c.Desired(config.PF{Address: address, NUMANode: pf.node, Family: family})
		fmt.Println(pf.address, rule, ok)
		switch d.VFs {
		case config.All:
			fmt.Println("  all VFs")
		case config.None:
			fmt.Println("  no VFs")
		case config.LeaveAlone:
			fmt.Println("  as they are")
		}
		if d.Services != nil {
			fmt.Println("  services", d.Services)
		}
		if d.AutoReset != nil {
			fmt.Println("  auto-reset", *d.AutoReset)
		}
		if d.PMIdle != nil {
			fmt.Println("  idle power management", *d.PMIdle)
		}
		if d.Driver == config.DriverKernel {
			fmt.Println("  for their kernel driver")
		}
	}

	// Output:
	// qat-worker-1.yaml
	// 0000:6b:00.0 qat-worker-1.yaml:3 "compression on node 1" true
	//   all VFs
	//   services [dc]
	//   auto-reset true
	// 0000:70:00.0 qat-worker-1.yaml:9 true
	//   no VFs
	// 0000:3d:00.0 qat-worker-1.yaml:12 true
	//   as they are
	// 0000:75:00.0 qat-worker-1.yaml:14 true
	//   all VFs
	//   idle power management false
	//   for their kernel driver
}
