package kubeletapi

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

// startCDI is a cdiSpecs that the test drives by hand, through bring.
func startCDI(t testing.TB, dir, class string) (*cdiSpecs, *logRecorder) {
	t.Helper()
	log := newLogRecorder()
	defaults := defaultConfig()
	defaults.cdiDir, defaults.cdiClass = dir, class
	return newCDISpecs(&defaults, namespace, log.logger().V(1), func(*devtree.Tree) {}), log
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSpecThatWasDeletedIsWrittenWithTheNextTree(t *testing.T) {
	specs := filepath.Join(t.TempDir(), "cdi")
	c, _ := startCDI(t, specs, "vf")
	now := with(t, nil, "yellow", real("1"))
	c.bring(now)
	if err := os.RemoveAll(specs); err != nil {
		t.Fatal(err)
	}
	c.bring(now)
	if diff := cmp.Diff([]string{namespace + "/vf=1"}, runtimeSees(t, specs)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSomethingInTheWayOfTheDirectoryStopsNothing(t *testing.T) {
	parent := t.TempDir()
	write(t, filepath.Join(parent, "run"), "a file")
	c, log := startCDI(t, filepath.Join(parent, "run/cdi"), "vf")
	if c.bring(with(t, nil, "yellow", real("1"))) {
		t.Error("all went well")
	}
	if d := c.out.Resource("yellow").Device("1"); d == nil || len(d.CDINames) > 0 {
		t.Errorf("the device is served as %+v", d)
	}
	if log.count("something else is in the way") == 0 {
		t.Errorf("the log does not say so:\n%s", log)
	}
}

func TestWriteThatFailsLeavesTheOldSpecAndNoOther(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "spec.json")
	if err := os.Mkdir(path, 0o755); err != nil { // nothing can be renamed over a directory
		t.Fatal(err)
	}
	if err := replaceFile(path, []byte("x")); err == nil {
		t.Error("no error")
	}
	if diff := cmp.Diff([]string{"spec.json"}, names(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestHealthIsNothingToCDI(t *testing.T) {
	specs := t.TempDir()
	c, _ := startCDI(t, specs, "vf")
	now := with(t, with(t, nil, "yellow", real("1")), "yellow", real("2"))
	c.bring(now)
	path := filepath.Join(specs, namespace+"-vf_device-plugin.json")
	before, _, _ := identify(path)
	ill := real("1")
	ill.Health, ill.Reason = devtree.Unhealthy, "on fire"
	c.bring(with(t, now, "yellow", ill))
	if after, _, _ := identify(path); after != before {
		t.Error("the file was written again")
	}
	if d := c.out.Resource("yellow").Device("1"); d.Health != devtree.Unhealthy || len(d.CDINames) != 1 {
		t.Errorf("handed on as %+v", d)
	}
}

func TestClassOrVendorThatCDIRefusesIsAnErrorOfRun(t *testing.T) {
	for _, tt := range []struct{ namespace, class, want string }{
		{namespace, "v f", `class "v f" of CDI devices`},
		{"3color.example.com", "vf", `namespace "3color.example.com" as the vendor of CDI devices`},
	} {
		m := NewManager(tt.namespace, newFakePlugin(), WithKubeletDir(kubeletDir(t)), WithCDI(t.TempDir(), tt.class))
		if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Run = %v, want %q", err, tt.want)
		}
	}
}

// After any history of Trees, failures of the disk included, a runtime sees exactly the newest Tree's devices once writing goes again, and the
// kubelet's side has the newest Tree, with a name for each device that a runtime finds.
func TestAnyHistoryEndsInTheNewestSpecs(t *testing.T) {
	parent := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		specs := filepath.Join(parent, strconv.Itoa(runs))
		class := rapid.SampledFrom([]string{"", "vf"}).Draw(rt, "class")
		c, _ := startCDI(t, specs, class)
		failing := false
		c.replace = func(path string, text []byte) error {
			if failing {
				return os.ErrPermission
			}
			return replaceFile(path, text)
		}
		now := &devtree.Tree{}
		for range rapid.IntRange(1, 15).Draw(rt, "trees") {
			b := now.Edit()
			if rapid.IntRange(0, 9).Draw(rt, "all new") == 0 {
				b = new(devtree.Tree).Edit()
			}
			for range rapid.IntRange(0, 4).Draw(rt, "changes") {
				resource := rapid.SampledFrom([]string{"yellow", "blue"}).Draw(rt, "resource")
				d := real(resource[:1] + strconv.Itoa(rapid.IntRange(0, 5).Draw(rt, "id")))
				d.Env["PAINT"] = rapid.SampledFrom([]string{"wet", "dry"}).Draw(rt, "paint")
				if rapid.Bool().Draw(rt, "goes") {
					b.Remove(resource, d.ID)
				} else {
					put(t, b, resource, d)
				}
			}
			now = b.Build()
			failing = rapid.IntRange(0, 3).Draw(rt, "the disk fails") == 0
			c.bring(now)
			requireNamed(rt, specs, now, c.out)
		}
		failing = false
		if !c.bring(now) {
			rt.Fatal("not all went well")
		}
		var want []string
		for r := range now.Resources() {
			for d := range r.Devices() {
				want = append(want, namespace+"/"+c.classOf(r.Name())+"="+d.ID)
			}
		}
		slices.Sort(want)
		got := []string(nil)
		if len(want) > 0 || exists(specs) {
			got = append(got, runtimeSees(rt, specs)...)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("a runtime sees (-want +got):\n%s", diff)
		}
		requireNamed(rt, specs, now, c.out)
		out := c.out
		if c.bring(now); c.out != out {
			rt.Fatal("the same Tree is handed on as another")
		}
	})
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// requireNamed holds that out is the Tree, and that a device has its name exactly if a runtime gives a container what the device says.
func requireNamed(t *rapid.T, specs string, tree, out *devtree.Tree) {
	t.Helper()
	cache := runtimeCache(t, specs)
	plain := out.Edit()
	for r := range out.Resources() {
		for d := range r.Devices() {
			if len(d.CDINames) > 1 {
				t.Fatalf("device %s has the names %q", d.ID, d.CDINames)
			}
			for _, name := range d.CDINames {
				if found := cache.GetDevice(name); found == nil || !slices.Contains(found.ContainerEdits.Env, "PAINT="+d.Env["PAINT"]) {
					t.Fatalf("device %s (%v) is named %s, which is %+v", d.ID, d.Env, name, found)
				}
			}
			d := *d
			d.CDINames = nil
			if err := plain.Put(r.Name(), &d); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !plain.Build().Equal(tree) {
		t.Fatalf("handed on:\n%swant:\n%s", plain.Build(), tree)
	}
}
