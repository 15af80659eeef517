// SPDX-License-Identifier: Apache-2.0

package device

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"qatplugin/qat/internal/sysfs"
)

var validResource = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)

// FuzzRead reads a PF and its VF whose attributes and links have any content. Read returns facts,
// or an error that names the file.
func FuzzRead(f *testing.F) {
	h := newHostWithVF(f, DriverVFIO)
	pf, vf := h.Path(pfA), h.Path(vfA1)
	cfg := filepath.Join(h.Sysfs(), "kernel/debug/qat_4xxx_"+pfA, "dev_cfg")
	must(f, os.MkdirAll(filepath.Join(vf, "vfio-dev"), 0o755))
	readers := []*Reader{
		vfioReader(h), newReader(h, DriverVFIO, InterfaceCdev), newReader(h, DriverIGBUIO, InterfaceAuto),
	}
	f.Add("0x8086\n", "0x4940\n", "0x4941\n", "1\n", "up\n", "sym;asym\n", "", "(null)\n", "vfio-pci", "1", pfA,
		"vfio0")
	f.Add("0x8086", "0x4940", "0x4941", "-1", "down", "", "[GENERAL]\nServicesEnabled = dc;sym\n", "none",
		"", "", "", "")
	f.Add("8086", "0x", "0x49410", "a", "\x00", ";;", "[\xff\n=\n[", "\n", "..", "-1", "x", ".")
	f.Add("0x37c8", "0x4940", "0x37c9", "99999999999999999999", "u", "sym;as", "[GENERAL", "", "a b", "+7", vfA1, "\n")
	f.Add("0x8086", "0x4940", "0x4941", "", "up", strings.Repeat("sym;", 20), strings.Repeat("[A]\n", 20), "",
		"igb_uio", "99999999999999999999", pfA, "vfio99")
	f.Fuzz(func(t *testing.T, vendor, pfDevice, vfDevice, numa, state, services, devCfg, override, driver, group,
		physfn, cdev string,
	) {
		for file, text := range map[string]string{
			pf + "/vendor": vendor, vf + "/vendor": vendor, pf + "/device": pfDevice, vf + "/device": vfDevice,
			pf + "/numa_node": numa, vf + "/numa_node": numa, pf + "/qat/state": state,
			pf + "/qat/cfg_services": services, cfg: devCfg, vf + "/driver_override": override,
		} {
			must(t, os.WriteFile(file, []byte(text), 0o644))
		}
		for link, target := range map[string]string{
			vf + "/driver": driver, vf + "/iommu_group": group, vf + "/physfn": physfn, pf + "/driver": driver,
		} {
			must(t, os.RemoveAll(link))
			if target != "" && os.Symlink(target, link) != nil {
				return // not the target of a link
			}
		}
		must(t, os.RemoveAll(vf+"/vfio-dev"))
		must(t, os.Mkdir(vf+"/vfio-dev", 0o755))
		// Not each text is the name of a directory.
		_ = os.Mkdir(filepath.Join(vf, "vfio-dev", path.Base(cdev)), 0o755)
		for _, r := range readers {
			for _, a := range []string{pfA, vfA1} {
				got, err := r.Read(address(t, a))
				if err != nil && (!strings.Contains(err.Error(), h.Sysfs()) || sysfs.IsTransient(err)) {
					t.Errorf("%s: the error %q does not name a file, or is transient", a, err)
				}
				if err != nil || got == nil {
					continue
				}
				if a == pfA && !got.IsVF && (!validResource.MatchString(got.Resource) || len(got.Resource) > 63) {
					t.Errorf("%s makes the resource %q", a, got.Resource)
				}
				if got.NUMANode < -1 {
					t.Errorf("%s is on the NUMA node %d", a, got.NUMANode)
				}
			}
		}
	})
}
