// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"qatplugin/internal/lookalike"
	"qatplugin/qat/internal/pci"
)

func TestReadPF(t *testing.T) {
	const bridged = "0001:3b:00.0"
	tests := map[string]struct {
		pf   lookalike.PF
		vfs  int
		want Function // Address, Family and Incarnation are those of the host
		dir  string   // below devices/
	}{
		"4xxx with VFs": {
			pf:  lookalike.PF{Address: pfB, Services: "sym;asym", NUMANode: 1},
			vfs: 2,
			want: Function{
				Driver: "4xxx", NUMANode: 1, State: "up", Services: "sym;asym", Resource: "cy",
				VFs: []pci.Address{address(t, "0000:70:00.1"), address(t, "0000:70:00.2")},
			},
			dir: "pci0000:70/" + pfB,
		},
		"more VFs than sort as text": {
			pf:  lookalike.PF{Address: pfB, Services: "dc"},
			vfs: 11,
			want: Function{
				Driver: "4xxx", State: "up", Services: "dc", Resource: "dc", VFs: func() (vfs []pci.Address) {
					for i := range uint8(11) { // virtfn10 lists between virtfn1 and virtfn2
						vfs = append(vfs, pci.Address{Bus: 0x70, Device: (i + 1) / 8, Function: (i + 1) % 8})
					}
					return vfs
				}(),
			},
			dir: "pci0000:70/" + pfB,
		},
		"behind a bridge": {
			pf:   lookalike.PF{Address: bridged, DeviceID: "4944", Services: "dc", NUMANode: -1, Bridge: true},
			want: Function{Driver: "4xxx", NUMANode: -1, State: "up", Services: "dc", Resource: "dc"},
			dir:  "pci0001:3a/0001:3a:00.0/" + bridged,
		},
		"down": {
			pf:   lookalike.PF{Address: pfB, Services: "dc", State: "down"},
			want: Function{Driver: "4xxx", State: "down", Services: "dc", Resource: "dc"},
			dir:  "pci0000:70/" + pfB,
		},
		"without a driver": {
			pf:   lookalike.PF{Address: pfB, Services: "dc", Driver: lookalike.NoDriver},
			want: Function{Resource: Generic},
			dir:  "pci0000:70/" + pfB,
		},
		"kernel without qat": {
			pf:   lookalike.PF{Address: pfB, DeviceID: "4946"},
			want: Function{Driver: "420xx", Resource: Generic},
			dir:  "pci0000:70/" + pfB,
		},
		"Gen2": {
			pf:   lookalike.PF{Address: pfB, DeviceID: "37c8"},
			want: Function{Driver: "c6xx", Resource: Generic},
			dir:  "pci0000:70/" + pfB,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			must(t, h.AddPF(test.pf))
			must(t, h.SetVFs(test.pf.Address, test.vfs))
			got, want := read(t, vfioReader(h), test.pf.Address), test.want
			want.Address, want.Family = address(t, test.pf.Address), got.Family
			want.Incarnation = inode(t, h, test.pf.Address, ".")
			want.Dir = filepath.Join(h.Sysfs(), "devices", test.dir)
			want.Debugfs = filepath.Join(h.Sysfs(), "kernel/debug/qat_"+got.Family.pfDriver+"_"+test.pf.Address)
			if diff := cmp.Diff(&want, got); diff != "" {
				t.Errorf("Function (-want +got):\n%s", diff)
			}
			if f, _ := FamilyOf(0x8086, got.Family.PF); f != got.Family {
				t.Errorf("family %+v is not one of the package's", got.Family)
			}
		})
	}
}

func TestResource(t *testing.T) {
	const debugfs = "kernel/debug/qat_4xxx_" + pfA
	set := func(value string) func(t *testing.T, h *lookalike.Host) {
		return func(t *testing.T, h *lookalike.Host) { must(t, h.SetAttr(pfA, "qat/cfg_services", value)) }
	}
	devCfg := func(text string) func(t *testing.T, h *lookalike.Host) {
		return func(t *testing.T, h *lookalike.Host) {
			must(t, h.RemoveAttr(pfA, "qat/cfg_services"))
			must(t, os.WriteFile(filepath.Join(h.Sysfs(), debugfs, "dev_cfg"), []byte(text), 0o644))
		}
	}
	tests := map[string]struct {
		do   func(t *testing.T, h *lookalike.Host) // to a PF with sym;asym
		want string
	}{
		"cfg_services":                 {set("dc"), "dc"},
		"cfg_services and not dev_cfg": {set("sym;dc"), "sym-dc"},
		"half-written cfg_services":    {set("d"), "cy"}, // from dev_cfg
		"empty cfg_services":           {set(""), "cy"},
		"only dev_cfg":                 {devCfg("[GENERAL]\nServicesEnabled = dc;sym\n[KERNEL]\n"), "sym-dc"},
		"unknown services in dev_cfg":  {devCfg("[GENERAL]\nServicesEnabled = dc;ma\n"), Generic},
		"dev_cfg without services":     {devCfg("[GENERAL]\n"), Generic},
		"services of another section":  {devCfg("[GENERAL]\n[KERNEL]\nServicesEnabled = dc\n"), Generic},
		"dev_cfg with unknown lines":   {devCfg("nonsense\n[GENERAL]\nnonsense\nServicesEnabled = dc\n"), "dc"},
		"empty dev_cfg":                {devCfg(""), Generic},
		"debugfs not mounted": {func(t *testing.T, h *lookalike.Host) {
			must(t, h.RemoveAttr(pfA, "qat/cfg_services"))
			must(t, os.RemoveAll(filepath.Join(h.Sysfs(), "kernel/debug")))
		}, Generic},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			test.do(t, h)
			if got := read(t, vfioReader(h), pfA).Resource; got != test.want {
				t.Errorf("resource %q, want %q", got, test.want)
			}
		})
	}
}

func TestUnreadableDevCfgIsAnError(t *testing.T) {
	for name, test := range map[string]struct {
		text string // "": a directory
		want string // part of the error
	}{
		"directory":   {"", "/dev_cfg: is a directory"},
		"not INI":     {"[GENERAL\n", "/dev_cfg: unclosed section"},
		"above 1 MiB": {strings.Repeat("#\n", 600<<10), "/dev_cfg: file too large: more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			must(t, h.RemoveAttr(pfA, "qat/cfg_services"))
			file := filepath.Join(h.Sysfs(), "kernel/debug/qat_4xxx_"+pfA, "dev_cfg")
			if test.text == "" {
				replaceByDir(t, file)
			} else {
				must(t, os.WriteFile(file, []byte(test.text), 0o644))
			}
			f, err := vfioReader(h).Read(address(t, pfA))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Read: %v, want an error with %q", err, test.want)
			}
			if f == nil || f.State != "up" || f.Resource != Generic {
				t.Errorf("Read = %+v, want what else could be read", f)
			}
		})
	}
}

// debugfs belongs to root and has mode 0700 (fs/debugfs/inode.c).
func TestInaccessibleDevCfgIsIgnored(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "dev_cfg"), []byte("[GENERAL]\nServicesEnabled = dc\n"), 0))
	services, err := withoutRoot(t, func() (string, error) { return devCfgServices(dir) })
	if services != "" || err != nil {
		t.Errorf("devCfgServices = %q, %v; want none and no error", services, err)
	}
	if _, err := withoutRoot(t, func() (string, error) {
		_, err := os.ReadFile(filepath.Join(dir, "dev_cfg"))
		return "", err
	}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("os.ReadFile: %v, want that the file is not accessible in this test", err)
	}
}

// withoutRoot calls f in a thread that accesses files as a user other than root.
func withoutRoot(t *testing.T, f func() (string, error)) (string, error) {
	t.Helper()
	if os.Getuid() != 0 {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const nobody = 65534
	must(t, unix.Setfsuid(nobody))
	defer func() { must(t, unix.Setfsuid(0)) }()
	return f()
}

// Reading sriov_numvfs can block for seconds.
func TestNumVFsIsNotRead(t *testing.T) {
	h := newHost(t)
	must(t, h.SetVFs(pfA, 2))
	replaceByDir(t, filepath.Join(h.Path(pfA), "sriov_numvfs"))
	if f := read(t, vfioReader(h), pfA); len(f.VFs) != 2 {
		t.Errorf("%d VFs, want 2", len(f.VFs))
	}
}
