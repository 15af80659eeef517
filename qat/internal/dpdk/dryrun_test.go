// SPDX-License-Identifier: Apache-2.0

package dpdk

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/sysfs"
)

// TestDryRunLogsWhatARealRunWrites compares the writes for VFs in every state that binding
// knows: bound to nothing, to a foreign driver and to their kernel driver.
func TestDryRunLogsWhatARealRunWrites(t *testing.T) {
	const pf = "0000:3d:00.0"
	for _, steal := range []bool{false, true} {
		for _, dry := range []bool{false, true} {
			inBubble(t, fmt.Sprintf("steal=%v dry=%v", steal, dry), func(t *testing.T) {
				h := newHost(t)
				must(t, h.LoadDriver(device.DriverVFIO, "disable_denylist=1"))
				must(t, h.LoadDriver("c6xxvf"))
				must(t, h.LoadDriver("uio_pci_generic"))
				must(t, h.AddPF(lookalike.PF{Address: pf, DeviceID: "37c8", TotalVFs: 4}))
				must(t, h.SetVFs(pf, 4)) // which binds them to c6xxvf
				vfs := h.VFs(pf)
				must(t, h.Unbind(vfs[0]))
				must(t, h.Unbind(vfs[1]))
				must(t, h.Bind(vfs[1], "uio_pci_generic"))

				writer := &recordingWriter{Writer: sysfs.NewWriter(h.Sysfs(), dry)}
				r := newRig(t, h, Config{Steal: steal, Writer: writer})
				writer.rig = r
				r.rescan()
				unbind := map[string]string{vfs[1]: "uio_pci_generic", vfs[2]: "c6xxvf", vfs[3]: "c6xxvf"}
				want := map[string][]string{}
				for _, vf := range vfs {
					if vf == vfs[1] && !steal {
						continue
					}
					want[vf] = []string{"vfio-pci > bus/pci/devices/" + vf + "/driver_override"}
					if driver := unbind[vf]; driver != "" {
						want[vf] = append(want[vf], vf+" > bus/pci/drivers/"+driver+"/unbind")
					}
					want[vf] = append(want[vf], vf+" > "+probeFile)
				}
				if diff := cmp.Diff(want, r.writesByVF(vfs)); diff != "" {
					t.Errorf("writes (-want +got):\n%s", diff)
				}
			})
		}
	}
}
