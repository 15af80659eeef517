// SPDX-License-Identifier: Apache-2.0

package devtree_test

import (
	"fmt"
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
	cause := func(text string) func(*devtree.Device) {
		return func(d *devtree.Device) { d.Health, d.Reason, d.Cause = devtree.Unhealthy, "down", text }
	}
	attribute := func(name string, value any) func(*devtree.Device) {
		return func(d *devtree.Device) { d.Attributes = map[string]any{"a": true, name: value, "z": 1} }
	}
	long := strings.Repeat("x", 65)
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

		badCause = `device "a": invalid cause %: ` +
			`must consist of letters, digits, '-', '_' and '.', and begin and end with a letter or digit`
		attributeName = `device "a": invalid attribute name %: ` +
			`must be a C identifier, optionally after a DNS subdomain and a slash`
		badVersion = `device "a": attribute "v": invalid version %: ` +
			`must be a semantic version of at most 64 bytes, such as 1.2.3`
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
		{
			"healthy with cause", func(d *devtree.Device) { d.Cause = "heartbeat" },
			`device "a": Healthy with a cause`, "",
		},
		{"cause with a space", cause("no heartbeat"), badCause, `"no heartbeat"`},
		{"cause that ends with -", cause("pf-"), badCause, `"pf-"`},
		{"cause not ASCII", cause("größe"), badCause, `"größe"`},
		{
			"long cause", cause(long[:64]),
			`device "a": cause "` + long[:64] + `" has 64 bytes: at most 63 are allowed`, "",
		},
		{"attribute without a name", attribute("", true), attributeName, `""`},
		{"attribute name that begins with a digit", attribute("2x", true), attributeName, `"2x"`},
		{"attribute name with -", attribute("pf-index", true), attributeName, `"pf-index"`},
		{"attribute name not ASCII", attribute("größe", true), attributeName, `"größe"`},
		{"attribute with a domain alone", attribute("example.com/", true), attributeName, `"example.com/"`},
		{"attribute with an empty domain", attribute("/x", true), attributeName, `"/x"`},
		{"attribute with two slashes", attribute("example.com/a/b", true), attributeName, `"example.com/a/b"`},
		{"attribute with a bad domain", attribute("example..com/x", true), attributeName, `"example..com/x"`},
		{"attribute with _ in its domain", attribute("my_domain/x", true), attributeName, `"my_domain/x"`},
		{"attribute with a domain that ends with -", attribute("example-/x", true), attributeName, `"example-/x"`},
		{
			"long attribute name", attribute(long[:33], true),
			`device "a": attribute "` + long[:33] + `": name has 33 bytes: at most 32 are allowed`, "",
		},
		{
			"long domain", attribute(long[:64]+"/x", true),
			`device "a": attribute "` + long[:64] + `/x": domain has 64 bytes: at most 63 are allowed`, "",
		},
		{
			"attribute of another type", attribute("n", 3),
			`device "a": attribute "n": value of type int: must be string, bool, int64 or Version`, "",
		},
		{
			"attribute without a value", attribute("n", nil),
			`device "a": attribute "n": value of type <nil>: must be string, bool, int64 or Version`, "",
		},
		{
			"attribute that is a list", attribute("n", []string{"a"}),
			`device "a": attribute "n": value of type []string: must be string, bool, int64 or Version`, "",
		},
		{
			"long string", attribute("s", long),
			`device "a": attribute "s": value "` + long + `" has 65 bytes: at most 64 are allowed`, "",
		},
		{"string not UTF-8", attribute("s", "\xff"), `device "a": attribute "s": value "\xff" is not valid UTF-8`, ""},
		{"version of two numbers", attribute("v", devtree.Version("1.2")), badVersion, `"1.2"`},
		{"version with a leading zero", attribute("v", devtree.Version("1.02.3")), badVersion, `"1.02.3"`},
		{"version with v", attribute("v", devtree.Version("v1.2.3")), badVersion, `"v1.2.3"`},
		{"long version", attribute("v", devtree.Version("1.2.3-"+long[:59])), badVersion, `"1.2.3-` + long[:59] + `"`},
		{
			"too many attributes",
			func(d *devtree.Device) {
				d.Attributes = map[string]any{}
				for i := range 33 {
					d.Attributes[fmt.Sprint("a", i)] = true
				}
			},
			`device "a": 33 attributes: at most 32 are allowed`, "",
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

func TestPutAcceptsAttributesAtTheLimits(t *testing.T) {
	long := strings.Repeat("x", 64)
	d := unhealthy("a")
	d.Cause = "A" + long[:61] + "0"
	d.Attributes = map[string]any{
		long[:32]:                         long,
		"_":                               "",
		"A9_z":                            int64(-1 << 63),
		long[:63] + "/" + long[:32]:       false,
		"Resource.Kubernetes.io/numaNode": int64(1),
		"0-9.a/b":                         devtree.Version("1.2.3-" + long[:58]),
		"version":                         devtree.Version("0.10.0-rc.1+build.007"),
	}
	for i := len(d.Attributes); i < 32; i++ {
		d.Attributes[fmt.Sprint("a", i)] = true
	}
	if err := new(devtree.Tree).Edit().Put("cy", d); err != nil {
		t.Error(err)
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
