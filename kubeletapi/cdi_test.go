package kubeletapi

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"pgregory.net/rapid"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"qatplugin/devtree"
	"qatplugin/kubeletapi/kubelettest"
)

// real is a device whose nodes exist, as CDI asks for when it gives them to a container.
func real(id string) *devtree.Device {
	return &devtree.Device{ID: id, Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{HostPath: "/dev/zero", ContainerPath: "/dev/vfio/" + id, Permissions: "rw"},
			{HostPath: "/dev/null", ContainerPath: "/dev/null", Permissions: "r"},
		},
		Mounts: []devtree.Mount{{HostPath: "/tmp", ContainerPath: "/paint", ReadOnly: true}},
		Env:    map[string]string{"PAINT": "yellow", "A_POT": "full"},
	}}
}

// runtimeSees is what the CDI library, as a container runtime uses it, finds in dir: fully qualified names, ascending.
func runtimeSees(t rapid.TB, dir string) []string {
	t.Helper()
	cache := runtimeCache(t, dir)
	if errs := cache.GetErrors(); len(errs) > 0 {
		t.Fatalf("CDI complains of %v", errs)
	}
	return append([]string{}, cache.ListDevices()...)
}

func runtimeCache(t rapid.TB, dir string) *cdi.Cache {
	t.Helper()
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dir), cdi.WithAutoRefresh(false))
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

func TestContainerGetsTheSameThroughCDIAsWithoutIt(t *testing.T) {
	dir, specs, h := kubeletDir(t), filepath.Join(t.TempDir(), "run/cdi"), newFakePlugin() // which is made
	k := startKubelet(t, dir)
	run(t, dir, h, WithCDI(specs, "vf"))
	h.publish(with(t, nil, "yellow", real("0000:6b:00.1")))
	waitIDs(t, k, yellow, "0000:6b:00.1")

	answer, err := k.Allocate(t.Context(), yellow, []string{"0000:6b:00.1"})
	if err != nil {
		t.Fatal(err)
	}
	got := answer.ContainerResponses[0]
	if len(got.CdiDevices) != 1 || got.CdiDevices[0].Name != namespace+"/vf=0000:6b:00.1" {
		t.Fatalf("CDI devices %v", got.CdiDevices)
	}
	container := &oci.Spec{}
	if _, err := runtimeCache(t, specs).InjectDevices(container, got.CdiDevices[0].Name); err != nil {
		t.Fatal(err)
	}
	var nodes, wantNodes []string
	for i, n := range container.Linux.Devices {
		nodes = append(nodes, n.Path+" "+container.Linux.Resources.Devices[i].Access)
	}
	for _, n := range got.Devices {
		wantNodes = append(wantNodes, n.ContainerPath+" "+n.Permissions)
	}
	if diff := cmp.Diff(wantNodes, nodes); diff != "" || len(nodes) != 2 {
		t.Errorf("nodes: the response's, and CDI's (-want +got):\n%s", diff)
	}
	if d := container.Linux.Devices[0]; d.Major != 1 || d.Minor != 5 {
		t.Errorf("the node is %d:%d, want that of the host's path, /dev/zero", d.Major, d.Minor)
	}
	wantMount := oci.Mount{Source: "/tmp", Destination: "/paint", Options: []string{"rbind", "rprivate", "ro"}}
	if diff := cmp.Diff([]oci.Mount{wantMount}, container.Mounts); diff != "" || len(got.Mounts) != 1 {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"A_POT=full", "PAINT=yellow"}, container.Process.Env); diff != "" || len(got.Envs) != 2 {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

// A list that names a device comes only when a runtime finds its spec, and a device that goes takes its spec along.
func TestSpecIsThereBeforeTheKubeletHears(t *testing.T) {
	dir, specs, h := kubeletDir(t), t.TempDir(), newFakePlugin()
	var leaving atomic.Bool // specs may go while a list from before is looked at
	k := startKubelet(t, dir, kubelettest.OnList(func(l kubelettest.List) {
		sees := runtimeCache(t, specs).ListDevices() // the file may go while it is read
		if i := slices.IndexFunc(l.Devices, func(d *pluginapi.Device) bool { return !slices.Contains(sees, namespace+"/vf="+d.ID) }); i >= 0 && !leaving.Load() {
			t.Errorf("the kubelet hears of %s, and its spec is not there", l.Devices[i].ID)
		}
	}))
	run(t, dir, h, WithCDI(specs, "vf"))
	now := &devtree.Tree{}
	for i := range 50 {
		id := strconv.Itoa(i)
		now = with(t, now, "yellow", real(id))
		h.publish(now)
		waitList(t, k, yellow, id, func(l kubelettest.List) bool { return healthOf(l, id) != "" })
	}
	leaving.Store(true)
	h.publish(tree(t, now, "yellow"))
	waitIDs(t, k, yellow)
	eventually(t, "the file goes with its last device", func() bool { return len(names(t, specs)) == 0 })
}

func TestFilesOfAFormerRunAreTakenOverOrRemovedAndNoOthers(t *testing.T) {
	specs := t.TempDir()
	c, _ := startCDI(t, specs, "")
	c.bring(with(t, with(t, nil, "yellow", real("1")), "blue", real("1")))
	keep := filepath.Join(specs, namespace+"-yellow_device-plugin.json")
	before, _, err := identify(keep)
	if err != nil {
		t.Fatal(err)
	}
	old := "." + namespace + "-yellow_device-plugin.json.1.tmp"
	others := map[string]string{
		namespace + "-green_device-plugin.json":            `{"cdiVersion":"0.5.0","kind":"other.example.com/green","devices":[]}`, // not of our kind
		namespace + "-green.json":                          `{"kind":"` + namespace + `/green"}`,                                   // no name of ours
		"x." + namespace + "-g_device-plugin.json":         `{"kind":"` + namespace + `/g"}`,                                       // another vendor
		namespace + "-torn_device-plugin.json":             `{"kind":`,
		"." + namespace + "-blue_device-plugin.json.2.tmp": "being written",
	}
	for name, text := range maps.Collect(func(yield func(string, string) bool) {
		_ = yield(old, "") && yield("readme.txt", "") && func() bool { maps.All(others)(yield); return true }()
	}) {
		write(t, filepath.Join(specs, name), text)
	}
	hourAgo := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(specs, old), hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}

	c, _ = startCDI(t, specs, "") // blue is no more
	if !c.bring(with(t, nil, "yellow", real("1"))) {
		t.Error("not all went well")
	}
	want := slices.Sorted(maps.Keys(others))
	want = append(want, "readme.txt", filepath.Base(keep))
	slices.Sort(want)
	if diff := cmp.Diff(want, names(t, specs)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for name, text := range others {
		if got, err := os.ReadFile(filepath.Join(specs, name)); err != nil || string(got) != text {
			t.Errorf("%s is now %q (%v)", name, got, err)
		}
	}
	if after, _, err := identify(keep); err != nil || after != before {
		t.Errorf("the file that says the same was written again (%v)", err)
	}
}

func TestManagerThatEndsLeavesItsSpecs(t *testing.T) {
	dir, specs, h := kubeletDir(t), t.TempDir(), newFakePlugin()
	k := startKubelet(t, dir)
	r := run(t, dir, h, WithCDI(specs, ""))
	h.publish(with(t, nil, "yellow", real("1")))
	waitIDs(t, k, yellow, "1")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{namespace + "/yellow=1"}, runtimeSees(t, specs)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDeviceThatCDICannotHaveIsServedWithout(t *testing.T) {
	none := &devtree.Device{ID: "none", Health: devtree.Healthy}
	other := real("1")
	other.Env["PAINT"] = "blue"
	own := real("own")
	own.CDINames = []string{"vendor.example.com/pot=7"}
	for _, tt := range []struct {
		name, class string
		edit        func(b *devtree.Builder)
		want        []string // CDI names of all devices
		log         string
	}{
		{"an ID that is no name", "vf", func(b *devtree.Builder) { put(t, b, "yellow", real("/dev/1")) }, nil, `/dev/1`},
		{"nothing to give", "vf", func(b *devtree.Builder) { put(t, b, "yellow", none) }, nil, ""},
		{"a resource that is no class", "", func(b *devtree.Builder) { put(t, b, "7up", real("1")) }, nil, "should start with letter"},
		{"one ID in two resources", "", func(b *devtree.Builder) { put(t, b, "yellow", real("1")); put(t, b, "blue", other) },
			[]string{namespace + "/blue=1", namespace + "/yellow=1"}, ""},
		{"one name for two that differ", "vf", func(b *devtree.Builder) { put(t, b, "yellow", real("1")); put(t, b, "blue", other) },
			[]string{namespace + "/vf=1"}, "two devices that differ"},
		{"one name for two that do not", "vf", func(b *devtree.Builder) { put(t, b, "yellow", real("1")); put(t, b, "blue", real("1")) },
			[]string{namespace + "/vf=1", namespace + "/vf=1"}, ""},
		{"a class with a dot, and a name of another vendor", "pot.full", func(b *devtree.Builder) { put(t, b, "yellow", own) },
			[]string{"vendor.example.com/pot=7", namespace + "/pot.full=own"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			specs := t.TempDir()
			c, log := startCDI(t, specs, tt.class)
			b := new(devtree.Tree).Edit()
			put(t, b, "yellow", real("well"))
			tt.edit(b)
			for range 2 {
				if !c.bring(b.Build()) {
					t.Error("not all went well")
				}
				put(t, b, "green", real("well2")) // a second Tree must not say it all again
			}
			var got []string
			for r := range c.out.Resources() {
				for d := range r.Devices() {
					if !strings.HasPrefix(d.ID, "well") {
						got = append(got, d.CDINames...)
					}
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("CDI names (-want +got):\n%s", diff)
			}
			runtimeSees(t, specs) // without a complaint
			if tt.log == "" && log.String() != "" || tt.log != "" && log.count(tt.log) != 1 {
				t.Errorf("want one line with %q in the log:\n%s", tt.log, log)
			}
		})
	}
}

func TestSpecThatCannotBeWrittenStopsNothingAndIsTriedAgain(t *testing.T) {
	for _, tt := range []struct {
		err  unix.Errno
		toDo string
	}{
		{unix.EROFS, "mount the directory writable"}, {unix.EACCES, "let the plugin write"}, {unix.ENOSPC, "make room"}, {unix.EIO, "input/output error"},
	} {
		t.Run(tt.err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				specs := t.TempDir()
				c, log := startCDI(t, specs, "vf")
				var failing atomic.Bool // a timer's goroutine reads it
				failing.Store(true)
				c.replace = func(path string, text []byte) error {
					if failing.Load() {
						return &os.PathError{Op: "write", Path: path, Err: tt.err}
					}
					return replaceFile(path, text)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var last devtree.Publisher
				c.publish = last.Publish
				go c.run(ctx)
				c.take(with(t, nil, "yellow", real("1")))
				synctest.Wait()
				if d := last.Tree().Resource("yellow").Device("1"); d == nil || len(d.CDINames) > 0 {
					t.Fatalf("the device is served as %+v", d)
				}
				time.Sleep(time.Hour) // of the bubble
				synctest.Wait()
				if n := log.count(tt.toDo); n < 2 || n > 7 {
					t.Errorf("%d lines say what to do, want one every ten minutes:\n%s", n, log)
				}
				failing.Store(false)
				time.Sleep(cdiRetryMax)
				synctest.Wait()
				if d := last.Tree().Resource("yellow").Device("1"); len(d.CDINames) != 1 {
					t.Errorf("the device is served as %+v", d)
				}
				runtimeSees(t, specs)
				if log.count("are kept again") != 1 {
					t.Errorf("the log does not say that all is well:\n%s", log)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}
