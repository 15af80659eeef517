package devtree_test

import (
	"strings"
	"testing"

	"qatplugin/devtree"
)

func TestPutNamesTheRuleThatADeviceBreaks(t *testing.T) {
	node := func(host, container, permissions string) func(*devtree.Device) {
		return func(d *devtree.Device) { d.DeviceNodes = []devtree.DeviceNode{{host, container, permissions}} }
	}
	mount := func(host, container string) func(*devtree.Device) {
		return func(d *devtree.Device) { d.Mounts = []devtree.Mount{{HostPath: host, ContainerPath: container}} }
	}
	env := func(name string) func(*devtree.Device) {
		return func(d *devtree.Device) { d.Env = map[string]string{name: "1"} }
	}
	cdi := func(name string) func(*devtree.Device) {
		return func(d *devtree.Device) { d.CDINames = []string{name} }
	}
	for _, tt := range []struct {
		name      string
		breakRule func(d *devtree.Device)
		want      string
	}{
		{"no ID", func(d *devtree.Device) { d.ID = "" }, `a device has an empty ID`},
		{"an ID that gRPC cannot carry", func(d *devtree.Device) { d.ID = "a\xff" }, `device "a\xff": the ID is not UTF-8`},
		{"no health", func(d *devtree.Device) { d.Health = "" }, `device "a": health "" is neither "Healthy" nor "Unhealthy"`},
		{"a health of its own", func(d *devtree.Device) { d.Health = "healthy" }, `device "a": health "healthy" is neither "Healthy" nor "Unhealthy"`},
		{"unhealthy for no reason", func(d *devtree.Device) { d.Health = devtree.Unhealthy }, `device "a" is Unhealthy without a reason`},
		{"a node of -1", func(d *devtree.Device) { d.NUMANodes = []int{-1} }, `device "a": NUMA node -1 is negative; leave it out when the platform does not say`},
		{"nodes out of order", func(d *devtree.Device) { d.NUMANodes = []int{1, 0} }, `device "a": NUMA nodes [1 0] are not ascending`},
		{"a relative device node", node("dev/vfio/1", "/dev/vfio/1", "rw"), `device "a": device node "dev/vfio/1" to "/dev/vfio/1": both paths must be absolute`},
		{"a device node nowhere in the container", node("/dev/vfio/1", "", "rw"), `device "a": device node "/dev/vfio/1" to "": both paths must be absolute`},
		{"a device node without permissions", node("/dev/vfio/1", "/dev/vfio/1", ""), `device "a": device node "/dev/vfio/1": permissions "" are not of r, w and m`},
		{"a device node with a strange permission", node("/dev/vfio/1", "/dev/vfio/1", "rxw"), `device "a": device node "/dev/vfio/1": permissions "rxw" are not of r, w and m`},
		{"a relative mount", mount("sys", "/sys"), `device "a": mount "sys" to "/sys": both paths must be absolute`},
		{"a mount nowhere in the container", mount("/sys", "sys"), `device "a": mount "/sys" to "sys": both paths must be absolute`},
		{"a variable without a name", env(""), `device "a": "" is not the name of an environment variable`},
		{"a variable with = in its name", env("A=B"), `device "a": "A=B" is not the name of an environment variable`},
		{"a variable with NUL in its name", env("A\x00"), `device "a": "A\x00" is not the name of an environment variable`},
		{"a CDI name without a device", cdi("intel.com/qat="), `device "a": "intel.com/qat=" is not a CDI device name (vendor/class=name)`},
		{"a CDI name without =", cdi("intel.com/qat"), `device "a": "intel.com/qat" is not a CDI device name (vendor/class=name)`},
		{"a CDI name without a class", cdi("intel.com/=a"), `device "a": "intel.com/=a" is not a CDI device name (vendor/class=name)`},
		{"a CDI name without a vendor", cdi("/qat=a"), `device "a": "/qat=a" is not a CDI device name (vendor/class=name)`},
		{"a CDI name without a kind", cdi("a=b/c"), `device "a": "a=b/c" is not a CDI device name (vendor/class=name)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := vf("a")
			tt.breakRule(d)
			err := new(devtree.Tree).Edit().Put("cy", d)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got error  %v\nwant error %s", err, tt.want)
			}
		})
	}
}

func TestPutOfNoDeviceIsAnError(t *testing.T) {
	if err := new(devtree.Tree).Edit().Put("cy", nil); err == nil || err.Error() != "no device given" {
		t.Errorf("got error %v", err)
	}
}

func TestPutTakesADeviceThatUsesEveryField(t *testing.T) {
	if err := new(devtree.Tree).Edit().Put("cy", everything("a")); err != nil {
		t.Error(err)
	}
}

func TestResourceNamesAreThoseThatKubernetesTakes(t *testing.T) {
	const characters = `letters, digits, '-', '_' and '.' are allowed, the first and the last a letter or digit`
	long := strings.Repeat("x", 64)
	for _, tt := range []struct{ name, want string }{
		{"cy", ""},
		{"cy2_dc0", ""},
		{"sym-dc", ""},
		{"A.b_C-9", ""},
		{"7", ""},
		{long[1:], ""},
		{long, `resource name "` + long + `" has 64 bytes, at most 63 are allowed`},
		{"", `resource name "": ` + characters},
		{"sym;dc", `resource name "sym;dc": ` + characters},
		{"-cy", `resource name "-cy": ` + characters},
		{"cy.", `resource name "cy.": ` + characters},
		{"cy\n", `resource name "cy\n": ` + characters},
		{"qat.intel.com/cy", `resource name "qat.intel.com/cy": ` + characters},
		{"größe", `resource name "größe": ` + characters},
	} {
		got := ""
		if err := devtree.CheckResourceName(tt.name); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("name %q:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
		b := new(devtree.Tree).Edit()
		for what, err := range map[string]error{"Put": b.Put(tt.name, vf("a")), "Keep": b.Keep(tt.name)} {
			if (err != nil) != (tt.want != "") || err != nil && err.Error() != tt.want {
				t.Errorf("%s(%q) says %v, want %q", what, tt.name, err, tt.want)
			}
		}
	}
}
