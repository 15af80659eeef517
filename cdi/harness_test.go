// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fsnotify/fsnotify"
	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
	cdilib "tags.cncf.io/container-device-interface/pkg/cdi"

	"qatplugin/devtree"
)

const (
	vendor  = "color.example.com"
	program = "colors"
)

var equateEmpty = cmpopts.EquateEmpty()

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		fmt.Println(runOwner(dir)) // until it is killed
		return
	}
	goleak.VerifyTestMain(m)
}

// testSyncer is a syncer of which the test sees what it publishes and logs.
type testSyncer struct {
	*syncer
	out *devtree.Tree // published last
	log logBuffer

	onPublish func(*devtree.Tree) // called first, unless nil
	writeErr  error               // what writing a file returns; nil to write it
	removeErr error               // what removing a file returns; nil to remove it
}

func startSyncer(dir, class string) *testSyncer {
	s := &testSyncer{}
	publish := func(tree *devtree.Tree) {
		if s.onPublish != nil {
			s.onPublish(tree)
		}
		s.out = tree
	}
	replace := func(path string, text []byte) error {
		if s.writeErr != nil {
			return &os.PathError{Op: "replace", Path: path, Err: s.writeErr}
		}
		return replaceFile(path, text)
	}
	remove := func(path string) error {
		if s.removeErr != nil {
			return &os.PathError{Op: "remove", Path: path, Err: s.removeErr}
		}
		return removeFile(path)
	}
	config := Config{Dir: dir, Vendor: vendor, Class: class}
	s.syncer = newSyncer(config, program, s.log.logger(), publish, disk{replace, remove, noWatch}, func() {})
	return s
}

// noWatch watches nothing: the test calls sync when the directory has changed.
func noWatch(string, func(fsnotify.Event) bool, func()) (*watch, error) { return nil, nil }

// mustSync fails the test if there is a problem with a file.
func (s *testSyncer) mustSync(t rapid.TB, tree *devtree.Tree) {
	t.Helper()
	if found := s.sync(tree); found.retryable() {
		t.Fatalf("sync found %v", found)
	}
}

// logBuffer collects log lines up to V(2).
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) logger() logr.Logger {
	return funcr.New(func(_, args string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		fmt.Fprintln(&b.text, args)
	}, funcr.Options{Verbosity: 2})
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// count returns the number of lines that contain part.
func (b *logBuffer) count(part string) int {
	n := 0
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

// color returns a healthy device with all kinds of edits. Its nodes exist, which the
// CDI library requires when it injects them.
func color(id string) *devtree.Device {
	return &devtree.Device{ID: id, Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{
		DeviceNodes: []devtree.DeviceNode{
			{HostPath: "/dev/zero", ContainerPath: "/dev/color/" + id, Permissions: "rw"},
			{HostPath: "/dev/null", ContainerPath: "/dev/null", Permissions: "r"},
		},
		Mounts: []devtree.Mount{{HostPath: "/tmp", ContainerPath: "/paint", ReadOnly: true}},
		Env:    map[string]string{"PAINT": "yellow", "A_POT": "full"},
	}}
}

// painted returns the device with other edits.
func painted(id, paint string) *devtree.Device {
	d := color(id)
	d.Env["PAINT"] = paint
	return d
}

// with returns the Tree after before in which the resource also has the devices.
func with(t rapid.TB, before *devtree.Tree, resource string, devices ...*devtree.Device) *devtree.Tree {
	t.Helper()
	b := before.Edit()
	for _, d := range devices {
		if err := b.Put(resource, d); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build()
}

// without returns the Tree after before in which the resource lacks the devices.
func without(before *devtree.Tree, resource string, ids ...string) *devtree.Tree {
	b := before.Edit()
	for _, id := range ids {
		b.Remove(resource, id)
	}
	return b.Build()
}

// names returns the CDI names in the Tree, by resource and device.
func names(tree *devtree.Tree) (list []string) {
	for r := range tree.Resources() {
		for d := range r.Devices() {
			list = append(list, d.CDINames...)
		}
	}
	return list
}

// openRuntime returns the CDI library's view of the directory, which is the view of a
// container runtime.
func openRuntime(t rapid.TB, dir string) *cdilib.Cache {
	t.Helper()
	cache, err := cdilib.NewCache(cdilib.WithSpecDirs(dir), cdilib.WithAutoRefresh(false))
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

// runtimeDevices returns the CDI names that a runtime finds in dir, ascending. It
// fails the test if the runtime finds an error.
func runtimeDevices(t rapid.TB, dir string) []string {
	t.Helper()
	cache := openRuntime(t, dir)
	if errs := cache.GetErrors(); len(errs) > 0 {
		t.Fatalf("the CDI library reports %v", errs)
	}
	return append([]string{}, cache.ListDevices()...)
}

func specPath(dir, class string) string {
	return filepath.Join(dir, vendor+"-"+class+"_device-plugin.json")
}

// fileNames returns the names of all files but locks.
func fileNames(t testing.TB, dir string) []string {
	t.Helper()
	return slices.DeleteFunc(allNames(t, dir), func(name string) bool { return strings.HasSuffix(name, lockSuffix) })
}

func allNames(t testing.TB, dir string) []string {
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

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func stat(t testing.TB, path string) os.FileInfo {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
