// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"strings"
	"testing"

	"qatplugin/devtree"
)

func TestPutStatesBrokenRule(t *testing.T) {
	node := func(host, container, permissions string) func(*devtree.Device) {
		return func(d *devtree.Device) { d.DeviceNodes = []devtree.DeviceNode{{host, container, permissions}} }
	}
	mount := func(host, container string) func(*devtree.Device) {
		return func(d *devtree.Device) { d.Mounts = []devtree.Mount{{HostPath: host, ContainerPath: container}} }
	}
	env := func(name, value string) func(*devtree.Device) {
		return func(d *devtree.Device) { d.Env = map[string]string{name: value} }
	}
	annotation := func(key, value string) func(*devtree.Device) {
		return func(d *devtree.Device) { d.Annotations = map[string]string{key: value} }
	}
	cdi := func(name string) func(*devtree.Device) {
		return func(d *devtree.Device) { d.CDINames = []string{name} }
	}
	const (
		health      = `device "a": invalid health %: must be "Healthy" or "Unhealthy"`
		nodePaths   = `device "a": device node %: both paths must be absolute`
		permissions = `device "a": device node "/dev/vfio/1": invalid permissions %: must be one or more of r, w and m`
		mountPaths  = `device "a": mount %: both paths must be absolute`
		envName     = `device "a": invalid environment variable name %`
		cdiName     = `device "a": invalid CDI device name %: must have the form vendor/class=name`
	)
	for _, tt := range []struct {
		name        string
		breakRule   func(d *devtree.Device)
		want, value string // the error, and what replaces % in it
	}{
		{"no ID", func(d *devtree.Device) { d.ID = "" }, `device without an ID`, ""},
		{"ID not UTF-8", func(d *devtree.Device) { d.ID = "a\xff" }, `device "a\xff": ID is not valid UTF-8`, ""},
		{"ID with NUL", func(d *devtree.Device) { d.ID = "a\x00" }, `device "a\x00": ID contains a NUL byte`, ""},
		{"no health", func(d *devtree.Device) { d.Health = "" }, health, `""`},
		{"unknown health", func(d *devtree.Device) { d.Health = "healthy" }, health, `"healthy"`},
		{
			"unhealthy without reason", func(d *devtree.Device) { d.Health = devtree.Unhealthy },
			`device "a": Unhealthy without a reason`, "",
		},
		{
			"reason not UTF-8",
			func(d *devtree.Device) { d.Health, d.Reason = devtree.Unhealthy, "\xff" },
			`device "a": reason "\xff" is not valid UTF-8`, "",
		},
		{"healthy with reason", func(d *devtree.Device) { d.Reason = "down" }, `device "a": Healthy with a reason`, ""},
		{
			"NUMA node -1", func(d *devtree.Device) { d.NUMANodes = []int{-1} },
			`device "a": negative NUMA node -1: must be omitted if the platform does not say`, "",
		},
		{
			"unsorted NUMA nodes", func(d *devtree.Device) { d.NUMANodes = []int{1, 0} },
			`device "a": NUMA nodes [1 0] are not strictly ascending`, "",
		},
		{
			"NUMA node twice", func(d *devtree.Device) { d.NUMANodes = []int{0, 1, 1} },
			`device "a": NUMA nodes [0 1 1] are not strictly ascending`, "",
		},
		{
			"relative host path of node", node("dev/vfio/1", "/dev/vfio/1", "rw"),
			nodePaths, `"dev/vfio/1" to "/dev/vfio/1"`,
		},
		{"no container path of node", node("/dev/vfio/1", "", "rw"), nodePaths, `"/dev/vfio/1" to ""`},
		{"no permissions", node("/dev/vfio/1", "/dev/vfio/1", ""), permissions, `""`},
		{"unknown permission", node("/dev/vfio/1", "/dev/vfio/1", "rxw"), permissions, `"rxw"`},
		{
			"host path of node not UTF-8", node("/dev/\xff", "/dev/a", "rw"),
			`device "a": device node "/dev/\xff" to "/dev/a": host path is not valid UTF-8`, "",
		},
		{
			"container path of node with NUL", node("/dev/a", "/dev/\x00", "rw"),
			`device "a": device node "/dev/a" to "/dev/\x00": container path contains a NUL byte`, "",
		},
		{"relative host path of mount", mount("sys", "/sys"), mountPaths, `"sys" to "/sys"`},
		{"relative container path of mount", mount("/sys", "sys"), mountPaths, `"/sys" to "sys"`},
		{
			"host path of mount with NUL", mount("/sys\x00", "/sys"),
			`device "a": mount "/sys\x00" to "/sys": host path contains a NUL byte`, "",
		},
		{
			"container path of mount not UTF-8", mount("/sys", "/\xc0\x80"),
			`device "a": mount "/sys" to "/\xc0\x80": container path is not valid UTF-8`, "",
		},
		{"variable without name", env("", "1"), envName, `""`},
		{"variable name with =", env("A=B", "1"), envName, `"A=B"`},
		{"variable name with NUL", env("A\x00", "1"), envName, `"A\x00"`},
		{"variable name not UTF-8", env("A\xff", "1"), envName, `"A\xff"`},
		{
			"variable not UTF-8", env("A", "\xff"),
			`device "a": value "\xff" of environment variable "A" is not valid UTF-8`, "",
		},
		{
			"variable with NUL", env("A", "1\x00"),
			`device "a": value "1\x00" of environment variable "A" contains a NUL byte`, "",
		},
		{"annotation without key", annotation("", "1"), `device "a": annotation without a key`, ""},
		{
			"annotation key not UTF-8", annotation("k\xff", "1"),
			`device "a": annotation key "k\xff" is not valid UTF-8`, "",
		},
		{
			"annotation with NUL", annotation("k", "1\x00"),
			`device "a": value "1\x00" of annotation "k" contains a NUL byte`, "",
		},
		{"CDI name without device", cdi("intel.com/qat="), cdiName, `"intel.com/qat="`},
		{"CDI name without =", cdi("intel.com/qat"), cdiName, `"intel.com/qat"`},
		{"CDI name without class", cdi("intel.com/=a"), cdiName, `"intel.com/=a"`},
		{"CDI name without vendor", cdi("/qat=a"), cdiName, `"/qat=a"`},
		{"CDI name without kind", cdi("a=b/c"), cdiName, `"a=b/c"`},
		{
			"CDI name with a bad vendor", cdi("9intel.com/qat=a"),
			`device "a": invalid CDI device name "9intel.com/qat=a": ` +
				`invalid vendor. "9intel.com", should start with letter`, "",
		},
		{
			"CDI name with a bad device", cdi("intel.com/qat=a b"),
			`device "a": invalid CDI device name "intel.com/qat=a b": invalid character ' ' in device name "a b"`, "",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := vf("a")
			tt.breakRule(d)
			want := strings.Replace(tt.want, "%", tt.value, 1)
			err := new(devtree.Tree).Edit().Put("cy", d)
			if err == nil || err.Error() != want {
				t.Errorf("got error  %v\nwant error %s", err, want)
			}
		})
	}
}

func TestPutRejectsNilDevice(t *testing.T) {
	if err := new(devtree.Tree).Edit().Put("cy", nil); err == nil || err.Error() != "device is nil" {
		t.Errorf("got error %v", err)
	}
}

func TestPutAcceptsEveryField(t *testing.T) {
	if err := new(devtree.Tree).Edit().Put("cy", full("a")); err != nil {
		t.Error(err)
	}
}

func TestResourceNameRules(t *testing.T) {
	long := strings.Repeat("x", 64)
	const rule = `: must consist of letters, digits, '-', '_' and '.', and begin and end with a letter or digit`
	for _, tt := range []struct{ name, want string }{
		{"cy", ""},
		{"cy2_dc0", ""},
		{"sym-dc", ""},
		{"A.b_C-9", ""},
		{"7", ""},
		{long[1:], ""},
		{long, `resource name "` + long + `" has 64 bytes: at most 63 are allowed`},
		{"", `invalid resource name ""` + rule},
		{"sym;dc", `invalid resource name "sym;dc"` + rule},
		{"-cy", `invalid resource name "-cy"` + rule},
		{"cy.", `invalid resource name "cy."` + rule},
		{"cy\n", `invalid resource name "cy\n"` + rule},
		{"qat.intel.com/cy", `invalid resource name "qat.intel.com/cy"` + rule},
		{"größe", `invalid resource name "größe"` + rule},
	} {
		b := new(devtree.Tree).Edit()
		for caller, err := range map[string]error{
			"Put":  b.Put(tt.name, vf("a")),
			"Keep": b.Keep(tt.name),
		} {
			if (err != nil) != (tt.want != "") || err != nil && err.Error() != tt.want {
				t.Errorf("%s(%q):\ngot  %v\nwant %s", caller, tt.name, err, tt.want)
			}
		}
	}
}
