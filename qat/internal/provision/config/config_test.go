// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

// families are those of the PF IDs.
var families = func() map[uint16]*device.Family {
	m := map[uint16]*device.Family{}
	for _, f := range device.Families() {
		m[f.PF] = f
	}
	return m
}()

func address(text string) pci.Address {
	a, ok := pci.Parse(text)
	if !ok {
		panic(text + " is not an address")
	}
	return a
}

// write writes files into a new directory, which it returns.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadChoosesFile(t *testing.T) {
	const vfs, conf, invalid = "rules: [{vfs: all}]", "ServicesEnabled=dc", "rules: 1"
	for _, tt := range []struct {
		name, node string
		files      map[string]string
		want       string
	}{
		{"no file", "a", nil, ""},
		{"files of other nodes", "a", map[string]string{"qat-b.yaml": vfs, "qat-.yaml": vfs, "qat.yml": vfs}, ""},
		{"YAML", "a", map[string]string{"qat.yaml": vfs}, "qat.yaml"},
		{"INI", "a", map[string]string{"qat.conf": conf}, "qat.conf"},
		{"of the node", "a", map[string]string{"qat-a.yaml": vfs, "qat.yaml": invalid}, "qat-a.yaml"},
		{"of the node, INI", "a", map[string]string{"qat-a.conf": conf, "qat.yaml": invalid}, "qat-a.conf"},
		{
			"of the node, and both formats for the others", "a",
			map[string]string{"qat-a.yaml": vfs, "qat.yaml": vfs, "qat.conf": conf}, "qat-a.yaml",
		},
		{"without a node name", "", map[string]string{"qat-.yaml": invalid, "qat.yaml": vfs}, "qat.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, want := write(t, tt.files), tt.want
			if want != "" {
				want = filepath.Join(dir, want)
			}
			c, err := Load(dir, tt.node, device.DriverVFIO)
			if err != nil {
				t.Fatal(err)
			}
			if c.File() != want {
				t.Errorf("file %q, want %q", c.File(), want)
			}
			if _, rule, ok := c.Desired(PF{Family: families[0x4940]}); ok != (want != "") || rule == "" == ok {
				t.Errorf("rule %q, %v", rule, ok)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	const vfs, conf = "rules: [{vfs: all}]", "ServicesEnabled=dc"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string // DIR stands for the directory
	}{
		{
			"both formats", map[string]string{"qat.yaml": vfs, "qat.conf": conf},
			"DIR/qat.yaml and DIR/qat.conf exist: keep one of them",
		},
		{
			"both formats of the node", map[string]string{"qat-a.yaml": vfs, "qat-a.conf": conf, "qat.yaml": vfs},
			"DIR/qat-a.yaml and DIR/qat-a.conf exist: keep one of them",
		},
		{
			"invalid YAML", map[string]string{"qat-a.yaml": "rules:\n- vfs: 1", "qat.yaml": vfs},
			"DIR/qat-a.yaml:2: vfs: invalid value 1 (!!int): must be all or 0",
		},
		{
			"invalid INI", map[string]string{"qat.conf": "AutoresetEnabled=1"},
			`DIR/qat.conf:1: AutoresetEnabled: invalid value "1": must be on or off`,
		},
		{
			"too large", map[string]string{"qat.yaml": vfs + strings.Repeat("\n", maxSize-len(vfs)+1)},
			"DIR/qat.yaml: larger than the limit of 1048576 bytes",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := write(t, tt.files)
			c, err := Load(dir, "a", device.DriverVFIO)
			if diff := cmp.Diff(strings.ReplaceAll(tt.want, "DIR", dir), message(err)); diff != "" || c != nil {
				t.Errorf("%v, error (-want +got):\n%s", c, diff)
			}
		})
	}
}

func TestLoadUpToSizeLimit(t *testing.T) {
	const vfs = "rules: [{vfs: all}]"
	dir := write(t, map[string]string{"qat.yaml": vfs + strings.Repeat("\n", maxSize-len(vfs))})
	if _, err := Load(dir, "", device.DriverVFIO); err != nil {
		t.Error(err)
	}
}

func TestLoadUnreadable(t *testing.T) {
	dir := write(t, map[string]string{"file": ""})
	if err := os.MkdirAll(filepath.Join(dir, "a", "qat.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "loop"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "b", "qat.conf"), 0o644); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop", "qat.yaml")
	if err := os.Symlink("qat.yaml", loop); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"absent": "read the provisioning directory: stat " + dir + "/absent: no such file or directory",
		"file":   "read the provisioning directory: " + dir + "/file is not a directory",
		"a":      dir + "/a/qat.yaml: not a regular file",
		"b":      dir + "/b/qat.conf: not a regular file",
		"loop":   "open " + loop + ": too many levels of symbolic links",
	} {
		c, err := Load(filepath.Join(dir, name), "", device.DriverVFIO)
		if message(err) != want || c != nil {
			t.Errorf("%s: %v, error %v, want %s", name, c, err, want)
		}
	}
}

// The kubelet exchanges the target of ..data, and later removes the links to files that the
// ConfigMap does not have any more (pkg/volume/util/atomic_writer.go).
func TestLoadIgnoresLinkWithoutTarget(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "..1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "..1", "qat.yaml"), []byte("rules: []"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"..data": "..1", "qat.yaml": "..data/qat.yaml",
		"qat.conf": "..data/qat.conf", "qat-a.yaml": "..data/qat-a.yaml",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(dir, "a", device.DriverVFIO)
	if err != nil || c.File() != filepath.Join(dir, "qat.yaml") {
		t.Errorf("%+v, %v; want the file qat.yaml", c, err)
	}
}

func TestDPDKDriver(t *testing.T) {
	const text = "rules: [{driver: igb_uio}]"
	rules, err := parseYAML("qat.yaml", text, device.DriverIGBUIO)
	if err != nil || rules[0].desired.Driver != "" {
		t.Errorf("%+v, %v; want the driver of the plugin", rules, err)
	}
}

// parse returns the configuration of a YAML file.
func parse(t testing.TB, text string) *Config {
	t.Helper()
	rules, err := parseYAML("dir/qat.yaml", text, device.DriverVFIO)
	if err != nil {
		t.Fatal(err)
	}
	return &Config{file: "dir/qat.yaml", rules: rules}
}

func TestMatch(t *testing.T) {
	pf := PF{Address: address("0000:6b:00.0"), NUMANode: 1, Family: families[0x4942]}
	for _, tt := range []struct {
		match string
		want  bool
	}{
		{`{}`, true},
		{`{pfs: ["0000:6b:00.0"]}`, true},
		{`{pfs: ["0000:6b:00.1"]}`, false},
		{`{pfs: ["0001:6b:00.0"]}`, false},
		{`{pfs: ["0000:01:00.0", "0000:6b:00.0"]}`, true},
		{`{pfs: ["0000:6b:00.0-0000:6c:00.0"]}`, true},
		{`{pfs: ["0000:6a:00.0-0000:6b:00.0"]}`, true},
		{`{pfs: ["0000:6a:1f.7-0000:6b:00.1"]}`, true},
		{`{pfs: ["0000:6b:00.1-ffff:ff:1f.7"]}`, false},
		{`{pfs: ["0000:00:00.0-0000:6a:1f.7"]}`, false},
		{`{pfs: ["0000:00:00.0-10000:00:00.0"]}`, true},
		{`{numaNodes: [1]}`, true},
		{`{numaNodes: [0, 1]}`, true},
		{`{numaNodes: [0, 2]}`, false},
		{`{families: [401xx]}`, true},
		{`{families: [c6xx, 401xx]}`, true},
		{`{families: [4xxx, 402xx]}`, false}, // the same driver
		{`{pfs: ["0000:6b:00.0"], numaNodes: [1], families: [401xx]}`, true},
		{`{pfs: ["0000:6b:00.1"], numaNodes: [1], families: [401xx]}`, false},
		{`{pfs: ["0000:6b:00.0"], numaNodes: [0], families: [401xx]}`, false},
		{`{pfs: ["0000:6b:00.0"], numaNodes: [1], families: [6xxx]}`, false},
	} {
		if _, _, ok := parse(t, "rules: [{match: "+tt.match+"}]").Desired(pf); ok != tt.want {
			t.Errorf("%s: matches %v, want %v", tt.match, ok, tt.want)
		}
	}
	pf.NUMANode = -1
	if _, _, ok := parse(t, "rules: [{match: {numaNodes: [0]}}]").Desired(pf); ok {
		t.Error("a PF whose NUMA node is unknown is on node 0")
	}
}

func TestBothIDsOfDH895xCCMatch(t *testing.T) {
	c := parse(t, "rules: [{match: {families: [dh895xcc]}}]")
	for _, id := range []uint16{0x0434, 0x0435} {
		if _, _, ok := c.Desired(PF{Family: families[id]}); !ok {
			t.Errorf("PF %#x does not match", id)
		}
	}
}

func TestDesired(t *testing.T) {
	yes, no := true, false
	const settings = "{services: [dc, sym], vfs: all, autoReset: true, pmIdle: false, driver: kernel}"
	for _, tt := range []struct {
		name, rules string
		pf          uint16
		want        Desired
		rule        string
	}{
		{
			"all settings", "rules:\n- " + settings, 0x4940,
			Desired{Services: []string{"dc", "sym"}, VFs: All, AutoReset: &yes, PMIdle: &no, Driver: DriverKernel},
			"qat.yaml:2",
		},
		{"Gen2 has only VFs", "rules:\n- " + settings, 0x37c8, Desired{VFs: All, Driver: DriverKernel}, "qat.yaml:2"},
		{"no settings", "rules:\n- name: left \"alone\"\n", 0x4940, Desired{}, `qat.yaml:2 "left \"alone\""`},
		{"no VFs", "rules:\n- vfs: 0\n- vfs: all\n", 0x4948, Desired{VFs: None}, "qat.yaml:2"},
		{"the plugin's driver", "rules: [{driver: vfio-pci}]", 0x4948, Desired{}, "qat.yaml:1"},
		{
			"the second rule", "rules:\n- match:\n    families: [4xxx]\n  vfs: 0\n- name: rest\n  vfs: all\n", 0x4948,
			Desired{VFs: All}, `qat.yaml:5 "rest"`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, rule, ok := parse(t, tt.rules).Desired(PF{Family: families[tt.pf]})
			if diff := cmp.Diff(tt.want, d); diff != "" || rule != tt.rule || !ok {
				t.Errorf("rule %q, %v, want %q; desired state (-want +got):\n%s", rule, ok, tt.rule, diff)
			}
		})
	}
}

func TestConfigWithoutRulesMatchesNothing(t *testing.T) {
	for _, c := range []*Config{{}, parse(t, "rules: []")} {
		for _, f := range families {
			if d, rule, ok := c.Desired(PF{Family: f}); ok || rule != "" || !cmp.Equal(d, Desired{}) {
				t.Errorf("%s: %+v, rule %q, %v; want none", f.Name, d, rule, ok)
			}
		}
	}
}

func pfs() *rapid.Generator[PF] {
	return rapid.Custom(func(t *rapid.T) PF {
		return PF{
			Address: pci.Address{
				Domain: rapid.Uint32Range(0, 1).Draw(t, "domain"), Bus: rapid.Uint8().Draw(t, "bus"),
				Device: rapid.Uint8Max(31).Draw(t, "device"), Function: rapid.Uint8Max(7).Draw(t, "function"),
			},
			NUMANode: rapid.IntRange(-1, 2).Draw(t, "node"),
			Family:   rapid.SampledFrom(device.Families()).Draw(t, "family"),
		}
	})
}

// TestFirstMatchCounts compares a configuration of several rules with its rules alone.
func TestFirstMatchCounts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		all := rapid.SliceOfN(pfs(), 1, 8).Draw(rt, "PFs")
		var rules []string
		for i := range rapid.IntRange(0, 6).Draw(rt, "rules") {
			var match []string
			if rapid.Bool().Draw(rt, "by address") {
				a, b := rapid.SampledFrom(all).Draw(rt, "from").Address, rapid.SampledFrom(all).Draw(rt, "to").Address
				if b.Compare(a) < 0 {
					a, b = b, a
				}
				match = append(match, fmt.Sprintf(`pfs: ["%s-%s"]`, a, b))
			}
			if rapid.Bool().Draw(rt, "by node") {
				match = append(match, fmt.Sprintf("numaNodes: [%d]", rapid.IntRange(0, 2).Draw(rt, "node")))
			}
			if rapid.Bool().Draw(rt, "by family") {
				match = append(match, "families: ["+rapid.SampledFrom(all).Draw(rt, "family").Family.ConfigName()+"]")
			}
			rules = append(rules, fmt.Sprintf("- {name: r%d, match: {%s}}\n", i, strings.Join(match, ", ")))
		}
		whole := parse(t, "rules: [] ")
		if len(rules) > 0 {
			whole = parse(t, "rules:\n"+strings.Join(rules, ""))
		}
		for _, pf := range all {
			want := ""
			for i, rule := range rules {
				if _, _, ok := parse(t, "rules:\n"+rule).Desired(pf); ok {
					want = fmt.Sprintf(`qat.yaml:%d "r%d"`, i+2, i)
					break
				}
			}
			if _, got, ok := whole.Desired(pf); got != want || ok != (want != "") {
				rt.Fatalf("%+v: rule %q, %v; want %q", pf, got, ok, want)
			}
		}
	})
}
