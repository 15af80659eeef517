// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qatplugin/events"
	"qatplugin/internal/lookalike"
	"qatplugin/internal/status"
	"qatplugin/internal/testenv"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	pfA, pfB = "0000:6b:00.0", "0000:70:00.0"
	vfA1     = "0000:6b:00.1"
	gen2     = "0000:3d:00.0"
)

// A testHost is a look-alike host with everything else that the doctor reads.
type testHost struct {
	*lookalike.Host
	config Host
	dir    string // of proc, firmware and kubelet
}

// write writes a file below the host's directory.
func (h *testHost) write(t testing.TB, name, text string) {
	t.Helper()
	file := filepath.Join(h.dir, name)
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(text), 0o644))
}

func (h *testHost) remove(t testing.TB, name string) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(h.dir, name)))
}

// addVFs adds a PF, with VFs that are bound to vfio-pci if that is loaded.
func (h *testHost) addVFs(t testing.TB, pf lookalike.PF) {
	t.Helper()
	must(t, h.AddPF(pf))
	must(t, h.SetVFs(pf.Address, 2))
	for _, vf := range h.VFs(pf.Address) {
		if _, err := os.Stat(filepath.Join(h.Sysfs(), "bus/pci/drivers/vfio-pci")); err == nil {
			must(t, h.Bind(vf, "vfio-pci"))
		}
	}
}

// newHost returns a host without drivers and devices on which everything else is healthy.
func newHost(t testing.TB, options ...lookalike.Option) *testHost {
	t.Helper()
	dir, err := lookalike.MkdirTemp()
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &testHost{dir: dir}
	h.Host, err = lookalike.New(dir, options...)
	must(t, err)
	h.config = Host{
		Sysfs:      h.Sysfs(),
		Dev:        h.Dev(),
		proc:       filepath.Join(dir, "proc"),
		Firmware:   filepath.Join(dir, "firmware"),
		KubeletDir: filepath.Join(dir, "kubelet"),
		Plugin: &status.Snapshot{
			Version: "devel",
			Mode:    "dpdk",
			Checks:  []status.Check{{Name: "event-loop"}, {Name: "registered"}},
			Resources: []status.Resource{
				{Name: "qat.intel.com/cy", Devices: 4, Healthy: 4, Phase: status.PhaseWatching, Streams: 1},
			},
		},
	}
	for name, text := range map[string]string{
		"proc/cmdline":                             "BOOT_IMAGE=/vmlinuz root=/dev/sda1 intel_iommu=on iommu=pt\n",
		"proc/self/limits":                         limits("unlimited"),
		"proc/meminfo":                             "HugePages_Total:       0\nHugepagesize:       2048 kB\n",
		"proc/sys/kernel/osrelease":                "6.12.0\n",
		"proc/sys/fs/inotify/max_user_watches":     "65536\n",
		"proc/sys/fs/inotify/max_user_instances":   "128\n",
		"proc/7/fdinfo/3":                          "pos:\t0\ninotify wd:2 ino:1 sdev:2\ninotify wd:1 ino:3 sdev:2\n",
		"firmware/qat_4xxx.bin.zst":                "",
		"firmware/updates/6.12.0/qat_4xxx_mmp.bin": "",
	} {
		h.write(t, name, text)
	}
	must(t, os.Mkdir(filepath.Join(dir, "proc/7/fd"), 0o755))
	must(t, os.Symlink("anon_inode:inotify", filepath.Join(dir, "proc/7/fd/3")))
	must(t, os.Mkdir(h.config.KubeletDir, 0o755))
	h.serveKubelet(t)
	return h
}

// limits returns a file as proc_pid_limits(5) has it.
func limits(memlock string) string {
	return "Limit                     Soft Limit           Hard Limit           Units     \n" +
		"Max open files            1024                 4096                 files     \n" +
		fmt.Sprintf("Max locked memory         %-20s %-20[1]s bytes     \n", memlock)
}

// serveKubelet accepts connections at kubelet.sock until the test ends.
func (h *testHost) serveKubelet(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(h.config.KubeletDir, "kubelet.sock"))
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
}

// newHealthyHost returns a host with two PFs, the first one of which has a bound VF.
func newHealthyHost(t testing.TB) *testHost {
	t.Helper()
	h := newHost(t)
	must(t, h.LoadDriver("vfio-pci"))
	h.addVFs(t, lookalike.PF{Address: pfA, Services: "sym;asym"})
	h.addVFs(t, lookalike.PF{Address: pfB, Services: "dc"})
	return h
}

// faults returns the findings that are neither ok nor skipped.
func faults(findings []status.Finding) (list []status.Finding) {
	for _, f := range findings {
		if f.Result == status.FindingWarning || f.Result == status.FindingProblem {
			list = append(list, f)
		}
	}
	return list
}

func TestHealthyHostHasNoFindings(t *testing.T) {
	h := newHealthyHost(t)
	findings := Run(t.Context(), h.config)
	var names []string
	for _, f := range findings {
		names = append(names, f.Check)
		if f.Result != status.FindingOK || f.Found == "" || f.Remedy != "" {
			t.Errorf("%+v, want ok", f)
		}
	}
	var want []string
	for _, c := range checks() {
		want = append(want, c.name)
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

func TestChecksAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/troubleshooting.md")
	must(t, err)
	_, table, _ := strings.Cut(string(text), "| check | what it looks for |")
	table, _, _ = strings.Cut(table, "\n\n")
	var got, want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		got = append(got, row[1])
	}
	for _, c := range checks() {
		want = append(want, c.name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks in docs/troubleshooting.md (-want +got):\n%s", diff)
	}
}

// Each host has one fault. The doctor reports that one, and nothing else.
func TestBrokenHosts(t *testing.T) {
	healthyWith := func(change func(t *testing.T, h *testHost)) func(t *testing.T) *testHost {
		return func(t *testing.T) *testHost {
			h := newHealthyHost(t)
			change(t, h)
			return h
		}
	}
	for name, tt := range map[string]struct {
		host          func(t *testing.T) *testHost
		check, result string
		found, remedy string // parts of the text
	}{
		"firmware of one family missing": {
			healthyWith(func(t *testing.T, h *testHost) { // 402xx has the driver of 4xxx and its own firmware
				must(t, h.AddPF(lookalike.PF{Address: gen2, DeviceID: "4944", Services: "dc"}))
				must(t, h.Unbind(gen2))
			}),
			"firmware", status.FindingProblem, gen2 + ": qat_402xx.bin, qat_402xx_mmp.bin not found",
			"modprobe qat_4xxx",
		},
		"no sysfs": {
			healthyWith(func(t *testing.T, h *testHost) { h.remove(t, "sys/bus") }),
			"sysfs", status.FindingProblem, "bus/pci/devices: no such file", "mount the host's whole /sys",
		},
		"no QAT device": {
			func(t *testing.T) *testHost {
				h := newHost(t)
				must(t, h.LoadDriver("vfio-pci"))
				must(t, os.Mkdir(filepath.Join(h.Sysfs(), "kernel/iommu_groups/0"), 0o755))
				return h
			},
			"devices", status.FindingProblem, "none of the 0 PCI functions", "firmware setup",
		},
		"IOMMU not switched on": {
			func(t *testing.T) *testHost { return withoutIOMMU(t, "quiet") },
			"iommu", status.FindingProblem, "no intel_iommu=on", "add intel_iommu=on iommu=pt",
		},
		"IOMMU switched off": {
			func(t *testing.T) *testHost { return withoutIOMMU(t, "intel_iommu=off") },
			"iommu", status.FindingProblem, "proc/cmdline disables the IOMMU", "remove intel_iommu=off",
		},
		"IOMMU disabled in the firmware setup": {
			func(t *testing.T) *testHost { return withoutIOMMU(t, "intel_iommu=on") },
			"iommu", status.FindingProblem, "although", "enable VT-d",
		},
		"noiommu mode": {
			healthyWith(func(t *testing.T, h *testHost) {
				must(t, h.SetParameter("vfio", "enable_unsafe_noiommu_mode", "Y"))
			}),
			"noiommu", status.FindingWarning, "Y in ",
			"echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
		},
		"noiommu mode without an IOMMU": {
			func(t *testing.T) *testHost {
				h := newHost(t, lookalike.WithoutIOMMU()) // where it is switched on
				must(t, h.LoadDriver("vfio-pci"))
				h.addVFs(t, lookalike.PF{Address: pfA, Services: "sym;asym"})
				return h
			},
			"noiommu", status.FindingWarning, "without an IOMMU, a program with a VF can write to all memory",
			"boot with intel_iommu=on",
		},
		"PF driver not loaded": {
			healthyWith(func(t *testing.T, h *testHost) {
				must(t, h.AddPF(lookalike.PF{
					Address: gen2, DeviceID: "4946", Driver: lookalike.NoDriver,
				}))
			}),
			"pf-driver", status.FindingProblem, gen2 + ": no driver", "modprobe qat_420xx",
		},
		"PF refused by its driver": {
			healthyWith(func(t *testing.T, h *testHost) { must(t, h.Unbind(pfB)) }),
			"pf-driver", status.FindingProblem, pfB + ": no driver, although", "dmesg | grep " + pfB,
		},
		"PF given to a VM": {
			healthyWith(func(t *testing.T, h *testHost) {
				must(t, h.Unbind(pfB))
				must(t, h.Bind(pfB, "vfio-pci"))
			}),
			"pf-driver", status.FindingProblem, pfB + ": bound to vfio-pci instead of 4xxx",
			"echo " + pfB + " > /sys/bus/pci/drivers_probe",
		},
		"firmware missing": {
			healthyWith(func(t *testing.T, h *testHost) {
				must(t, h.Unbind(pfB))
				h.remove(t, "firmware/qat_4xxx.bin.zst")
			}),
			"firmware", status.FindingProblem, pfB + ": qat_4xxx.bin not found in ",
			"install qat_4xxx.bin, qat_4xxx_mmp.bin of linux-firmware",
		},
		"firmware missing after a restart of the PF": {
			healthyWith(func(t *testing.T, h *testHost) {
				must(t, h.SetState(pfB, "down"))
				h.remove(t, "firmware/updates")
			}),
			"firmware", status.FindingProblem, pfB + ": qat_4xxx_mmp.bin not found", "modprobe -r qat_4xxx",
		},
		"PF down": {
			healthyWith(func(t *testing.T, h *testHost) { must(t, h.SetState(pfA, "down")) }),
			"pf-state", status.FindingProblem, pfA + ": down",
			"echo up > /sys/bus/pci/devices/" + pfA + "/qat/state",
		},
		"services unknown": {
			healthyWith(func(t *testing.T, h *testHost) {
				h.write(t, "sys/bus/pci/devices/"+pfB+"/qat/cfg_services", "all\n")
				h.remove(t, "sys/kernel/debug/qat_4xxx_"+pfB+"/dev_cfg")
			}),
			"services", status.FindingWarning, `unknown services "all"`, "/qat/cfg_services",
		},
		"no VFs": {
			healthyWith(func(t *testing.T, h *testHost) { must(t, h.SetVFs(pfB, 0)) }),
			"vfs", status.FindingProblem, pfB + ": 0 of 16 VFs",
			"echo 16 > /sys/bus/pci/devices/" + pfB + "/sriov_numvfs",
		},
		"SR-IOV disabled": {
			healthyWith(func(t *testing.T, h *testHost) {
				must(t, h.SetVFs(pfB, 0))
				h.remove(t, "sys/bus/pci/devices/"+pfB+"/sriov_totalvfs")
				h.remove(t, "sys/bus/pci/devices/"+pfB+"/sriov_numvfs")
			}),
			"vfs", status.FindingProblem, pfB + ": no SR-IOV", "enable SR-IOV",
		},
		"a VF removed": {
			healthyWith(func(t *testing.T, h *testHost) { must(t, h.RemoveVF(vfA1)) }),
			"vfs", status.FindingWarning, pfA + ": 1 of 2 VFs", "sriov_totalvfs > /sys/bus/pci/devices/" + pfA,
		},
		"vfio-pci not loaded": {
			func(t *testing.T) *testHost {
				h := newHost(t)
				h.addVFs(t, lookalike.PF{Address: pfA, Services: "dc"})
				return h
			},
			"dpdk-driver", status.FindingProblem, "bus/pci/drivers/vfio-pci does not exist", "modprobe vfio-pci",
		},
		"denylist": {
			healthyWith(func(t *testing.T, h *testHost) {
				must(t, h.AddPF(lookalike.PF{Address: gen2, DeviceID: "37c8"}))
				must(t, h.SetVFs(gen2, 1))
			}),
			"denylist", status.FindingProblem, "vfio-pci refuses the VFs of C62x",
			"options vfio-pci disable_denylist=1",
		},
		"VF bound to another driver": {
			healthyWith(func(t *testing.T, h *testHost) {
				must(t, h.LoadDriver("igb_uio"))
				must(t, h.Unbind(vfA1))
				must(t, h.Bind(vfA1, "igb_uio"))
			}),
			"vf-driver", status.FindingWarning, vfA1 + ": bound to igb_uio", "/driver/unbind",
		},
		"VF reserved": {
			healthyWith(func(t *testing.T, h *testHost) {
				must(t, h.Unbind(vfA1))
				h.write(t, "sys/bus/pci/devices/"+vfA1+"/driver_override", "mdev\n")
			}),
			"vf-driver", status.FindingWarning, vfA1 + ": reserved for mdev",
			"echo > /sys/bus/pci/devices/" + vfA1 + "/driver_override",
		},
		"IOMMU group shared with the PF": {
			healthyWith(func(t *testing.T, h *testHost) { must(t, h.ShareGroup(pfB, vfA1)) }),
			"iommu-groups", status.FindingProblem, vfA1 + " is in one IOMMU group with " + pfB + ", which 4xxx uses",
			"enable ACS",
		},
		"node missing": {
			healthyWith(func(t *testing.T, h *testHost) {
				group, err := os.Readlink(filepath.Join(h.Path(vfA1), "iommu_group"))
				must(t, err)
				h.remove(t, "dev/vfio/"+filepath.Base(group))
			}),
			"vfio-nodes", status.FindingProblem, vfA1 + ": /dev/vfio/", "/driver/unbind",
		},
		"node vfio for root only": {
			healthyWith(func(t *testing.T, h *testHost) {
				must(t, os.Chmod(filepath.Join(h.Dev(), "vfio/vfio"), 0o600))
			}),
			"vfio-nodes", status.FindingWarning, "vfio/vfio: -rw-------", "chmod 0666 /dev/vfio/vfio",
		},
		"little locked memory": {
			healthyWith(func(t *testing.T, h *testHost) { h.write(t, "proc/self/limits", limits("8388608")) }),
			"memlock", status.FindingWarning, "8388608 bytes", "LimitMEMLOCK=infinity",
		},
		"debugfs not mounted": {
			healthyWith(func(t *testing.T, h *testHost) {
				h.remove(t, "sys/kernel/debug")
				must(t, os.Mkdir(filepath.Join(h.Sysfs(), "kernel/debug"), 0o755))
			}),
			"debugfs", status.FindingWarning, "debugfs is not mounted", "mount -t debugfs none /sys/kernel/debug",
		},
		"no inotify instances left": {
			healthyWith(func(t *testing.T, h *testHost) {
				h.write(t, "proc/sys/fs/inotify/max_user_instances", "1\n")
			}),
			"inotify", status.FindingProblem, "at least 1 of 1 ", "fs.inotify.max_user_instances=8192",
		},
		"few inotify watches left": {
			healthyWith(func(t *testing.T, h *testHost) {
				h.write(t, "proc/sys/fs/inotify/max_user_watches", "10\n")
				h.write(t, "proc/7/fdinfo/3", strings.Repeat("inotify wd:1 ino:1 sdev:2\n", 9))
			}),
			"inotify", status.FindingWarning, "at least 9 of 10 ", "fs.inotify.max_user_watches=524288",
		},
		"kubelet not running": {
			healthyWith(func(t *testing.T, h *testHost) { h.remove(t, "kubelet/kubelet.sock") }),
			"kubelet", status.FindingProblem, "kubelet/kubelet.sock does not exist", "systemctl status kubelet",
		},
		"kubelet dead": {
			healthyWith(func(t *testing.T, h *testHost) {
				h.remove(t, "kubelet/kubelet.sock")
				socket := &net.UnixAddr{Name: filepath.Join(h.config.KubeletDir, "kubelet.sock")}
				listener, err := net.ListenUnix("unix", socket)
				must(t, err)
				listener.SetUnlinkOnClose(false)
				must(t, listener.Close())
			}),
			"kubelet", status.FindingProblem, "connection refused", "systemctl restart kubelet",
		},
		"plugin not registered": {
			healthyWith(func(_ *testing.T, h *testHost) {
				h.config.Plugin.Checks[1].Err = "qat.intel.com/cy: the kubelet has not answered"
				h.config.Plugin.Resources[0].Phase = status.PhaseRegistering
			}),
			"plugin", status.FindingProblem, "registered: qat.intel.com/cy: the kubelet has not answered",
			"docs/troubleshooting.md",
		},
		"list not followed": {
			healthyWith(func(_ *testing.T, h *testHost) {
				h.config.Plugin.Resources[0].Phase = status.PhaseLost
				h.config.Plugin.Resources[0].Err = "stream ended"
			}),
			"plugin", status.FindingProblem, "the kubelet does not follow its list: lost stream ended",
			"journalctl -u kubelet",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := tt.host(t)
			got := faults(Run(t.Context(), h.config))
			if len(got) != 1 || got[0].Check != tt.check || got[0].Result != tt.result ||
				!strings.Contains(got[0].Found, tt.found) || !strings.Contains(got[0].Remedy, tt.remedy) ||
				strings.Contains(got[0].Found+got[0].Remedy, "\n") {
				t.Errorf("findings:\n%+v\nwant a %s of %s with %q and %q", got, tt.result, tt.check, tt.found,
					tt.remedy)
			}
		})
	}
}

// withoutIOMMU returns a host without an IOMMU, on which VFIO insists on one.
func withoutIOMMU(t *testing.T, cmdline string) *testHost {
	h := newHost(t, lookalike.WithoutIOMMU())
	h.write(t, "proc/cmdline", cmdline+"\n")
	must(t, h.LoadDriver("vfio-pci"))
	must(t, h.SetParameter("vfio", "enable_unsafe_noiommu_mode", "N"))
	must(t, h.AddPF(lookalike.PF{Address: pfA, Services: "sym;asym"}))
	must(t, h.SetVFs(pfA, 2))
	return h
}

// results returns the results of some checks.
func results(findings []status.Finding, names ...string) (list []string) {
	for _, f := range findings {
		if slices.Contains(names, f.Check) {
			list = append(list, f.Check+" "+f.Result)
		}
	}
	return list
}

func TestGroupsOfNoIOMMUModeAreNoIOMMU(t *testing.T) {
	h := newHost(t, lookalike.WithoutIOMMU())
	must(t, h.LoadDriver("vfio-pci"))
	h.addVFs(t, lookalike.PF{Address: pfA, Services: "sym;asym"})
	if got := results(Run(t.Context(), h.config), "iommu"); !slices.Equal(got, []string{"iommu skipped"}) {
		t.Errorf("%v, want it to be skipped", got)
	}
}

func TestGuestWithVFsIsHealthy(t *testing.T) {
	h := newHost(t)
	must(t, h.LoadDriver("vfio-pci"))
	must(t, h.AddVF(lookalike.VF{Address: "0000:00:05.0"}))
	findings := Run(t.Context(), h.config)
	want := []string{"devices ok", "pf-driver skipped", "firmware skipped", "vfs ok", "vfio-nodes skipped",
		"debugfs skipped"}
	got := results(findings, "devices", "pf-driver", "firmware", "vfs", "vfio-nodes", "debugfs")
	if diff := cmp.Diff(want, got); diff != "" || len(faults(findings)) > 0 {
		t.Errorf("faults %+v, results (-want +got):\n%s", faults(findings), diff)
	}
}

// A DRA driver has no resources at the kubelet.
func TestDRADriverIsChecked(t *testing.T) {
	h := newHealthyHost(t)
	h.config.Plugin.Resources = nil
	h.config.Plugin.DRA = &status.DRA{
		Driver: "qat.intel.com", Pool: "worker-1", Devices: 4, Healthy: 3, Gone: 1, Claims: make([]status.Claim, 2),
	}
	plugin := func() status.Finding {
		findings := Run(t.Context(), h.config)
		i := slices.IndexFunc(findings, func(f status.Finding) bool { return f.Check == "plugin" })
		return findings[i]
	}
	const ready = "the DRA driver devel is ready: qat.intel.com on worker-1, 3 of 4 healthy, 1 gone, claims: 2"
	if f := plugin(); f.Result != status.FindingOK || f.Found != ready {
		t.Errorf("%+v, want %q", f, ready)
	}
	h.config.Plugin.Checks = append(h.config.Plugin.Checks, status.Check{Name: "runtime", Err: "it ignores CDI"})
	if f := plugin(); f.Result != status.FindingProblem || !strings.Contains(f.Found, "runtime: it ignores CDI") {
		t.Errorf("%+v, want the failed check", f)
	}
}

func TestChecksThatDoNotApplyAreSkipped(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(h *testHost)
		want   []string
	}{
		"igb_uio": {
			func(h *testHost) { h.config.Driver = "igb_uio" },
			[]string{"iommu skipped", "dpdk-driver problem", "vfio-nodes skipped"},
		},
		"mode kernel": {
			func(h *testHost) { h.config.Plugin.Mode = "kernel" },
			[]string{"iommu skipped", "dpdk-driver skipped", "vfio-nodes skipped"},
		},
		"dry run": {func(h *testHost) { h.config.DryRun = true }, []string{"uevents skipped"}},
		"no plugin and no kubelet": {
			func(h *testHost) { h.config.KubeletDir, h.config.Plugin = "", nil },
			[]string{"kubelet skipped", "plugin skipped"},
		},
		"firmware not visible": {
			func(h *testHost) {
				must(t, h.Unbind(pfB))
				h.config.Firmware = ""
			},
			[]string{"pf-driver problem", "firmware skipped"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHealthyHost(t)
			tt.change(h)
			var names []string
			for _, text := range tt.want {
				check, _, _ := strings.Cut(text, " ")
				names = append(names, check)
			}
			if diff := cmp.Diff(tt.want, results(Run(t.Context(), h.config), names...)); diff != "" {
				t.Errorf("results (-want +got):\n%s", diff)
			}
		})
	}
}

// Whether the process may ask the kernel for a uevent there depends on the user of the test.
func TestUserNamespaceReceivesNoUevents(t *testing.T) {
	if !testenv.InNamespaces(t, unix.CLONE_NEWNET) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	listen := func() (events.Source, error) { return events.ListenUevents() }
	got := checkUevents(ctx, &facts{host: Host{Sysfs: "/sys"}, listen: listen})
	const reason = "this process runs in a user namespace"
	if len(got) != 1 || got[0].Result != status.FindingProblem || !strings.HasPrefix(got[0].Found, reason) ||
		!strings.Contains(got[0].Remedy, "hostUsers: true") {
		t.Errorf("findings %+v, want a problem: %s", got, reason)
	}
}

// The kernel blocks the read of one PF and the end of one check.
func TestBlockedReadIsReportedAndHidesNothingElse(t *testing.T) {
	h := newHealthyHost(t)
	must(t, h.SetState(pfA, "down"))
	synctest.Test(t, func(t *testing.T) {
		unblock := make(chan struct{})
		defer close(unblock)
		read := func(r *device.Reader, a pci.Address) (*function, error) {
			f, err := readFunction(r, a)
			if a.String() == pfB {
				<-unblock
			}
			return f, err
		}
		h.config.Driver = device.DriverVFIO
		f := gather(t.Context(), h.config, read, nil)
		all := checks()
		for i := range all {
			switch all[i].name {
			case "memlock":
				all[i].run = func(context.Context, *facts) []status.Finding {
					<-unblock
					return nil
				}
			case "uevents", "kubelet": // a socket would end the bubble's clock
				all[i].run = func(context.Context, *facts) []status.Finding { return ok("") }
			}
		}
		findings := faults(run(t.Context(), f, all))
		want := []string{"sysfs warning", "pf-state problem", "memlock warning"}
		got := results(findings, "sysfs", "pf-state", "memlock")
		if diff := cmp.Diff(want, got); diff != "" || len(findings) != len(want) {
			t.Fatalf("findings %+v, results (-want +got):\n%s", findings, diff)
		}
		const blocked = pfB + ": the kernel blocks the read of "
		text := findings[0].Found
		if !strings.HasPrefix(text, blocked) || !strings.HasSuffix(text, pfB+"/sriov_numvfs") {
			t.Errorf("found %q", text)
		}
	})
}
