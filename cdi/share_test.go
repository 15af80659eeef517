// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"
	"pgregory.net/rapid"

	"qatplugin/devtree"
)

// ownerDir is an environment variable. If it names a directory, the test program runs a Writer of
// class vf with the device 1 in it until it is killed.
const ownerDir = "CDI_TEST_OWNER_DIR"

func runOwner(dir string) error {
	w, err := NewWriter(Config{Dir: dir, Vendor: vendor, Class: "vf"}, func(*devtree.Tree) {})
	if err != nil {
		return err
	}
	b := new(devtree.Tree).Edit()
	if err := b.Put("yellow", color("1")); err != nil {
		return err
	}
	w.Update(b.Build())
	w.Run(klog.NewContext(context.Background(), klog.Logger{}))
	return nil
}

// eventually waits for cond.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// run runs a Writer with a real watch until the test ends or stop is called. It returns its log and
// the names that it has published last.
func run(t *testing.T, dir string, tree *devtree.Tree) (log *logBuffer, published func() []string, stop func()) {
	t.Helper()
	last := make(chan []string, 1)
	last <- nil
	w, err := NewWriter(Config{Dir: dir, Vendor: vendor, Class: "vf"}, func(tree *devtree.Tree) {
		<-last
		last <- names(tree)
	})
	if err != nil {
		t.Fatal(err)
	}
	log = &logBuffer{}
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), log.logger()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	w.Update(tree)
	published = func() []string {
		list := <-last
		last <- list
		return list
	}
	return log, published, stop
}

// The kernel releases the lock of a killed process. Nothing else reports its end.
func TestFileOfAKilledProcessIsTakenOver(t *testing.T) {
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	owner := exec.Command(program)
	owner.Env = append(os.Environ(), ownerDir+"="+dir)
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() {
		_ = owner.Process.Kill()
		_ = owner.Wait()
	}
	t.Cleanup(kill)
	one := []string{vendor + "/vf=1"}
	resolved := func() bool { return slices.Equal(one, openRuntime(t, dir).ListDevices()) }
	eventually(t, "the other process has written its spec", resolved)

	log, published, _ := run(t, dir, with(t, nil, "yellow", painted("1", "blue"), color("2")))
	eventually(t, "the second device has its name", func() bool {
		return slices.Equal([]string{vendor + "/vf=2"}, published())
	})
	eventually(t, "the log names the file", func() bool { return log.count(filepath.Base(specPath(dir, "vf"))) == 1 })
	kill()
	eventually(t, "both devices have their names", func() bool { return len(published()) == 2 })
	found := openRuntime(t, dir)
	if errs := found.GetErrors(); len(errs) > 0 {
		t.Errorf("the CDI library reports %v", errs)
	}
	if env := found.GetDevice(one[0]).ContainerEdits.Env; !slices.Contains(env, "PAINT=blue") {
		t.Errorf("the device of the killed process still has %q", env)
	}
	eventually(t, "the log says that it is solved", func() bool { return log.count("CDI problem solved") == 1 })
	if n := log.count("while another process defines them"); n != 1 {
		t.Errorf("the conflict is logged %d times:\n%s", n, log)
	}
}

func TestFreedDeviceIsDefinedAtOnce(t *testing.T) {
	dir := t.TempDir()
	first := startSyncer(dir, "vf")
	tree := with(t, nil, "yellow", color("1"), color("2"))
	first.mustSync(t, tree)
	log, published, _ := run(t, dir, with(t, nil, "blue", color("1")))
	eventually(t, "the conflict is found", func() bool { return log.count("another process defines") == 1 })
	first.mustSync(t, without(tree, "yellow", "1"))
	eventually(t, "the device has its name", func() bool { return len(published()) == 1 })
	runtimeDevices(t, dir) // reports no conflict
}

// Two processes that start at the same time may define the same device, which no runtime resolves.
// The file with the higher number gives way.
func TestConflictIsSolved(t *testing.T) {
	dir := t.TempDir()
	first, second := startSyncer(dir, "vf"), startSyncer(dir, "vf")
	first.mustSync(t, with(t, nil, "yellow", color("1")))
	second.mustSync(t, with(t, nil, "blue", color("2")))
	both := with(t, nil, "blue", color("1"), color("2"))
	text := specText(vendor+"/vf", []*entry{mustEntry(t, color("1")), mustEntry(t, color("2"))})
	if err := replaceFile(second.specPath("vf", 2), text); err != nil {
		t.Fatal(err)
	}
	second.own["vf"][0].read()
	if n := len(openRuntime(t, dir).GetErrors()); n == 0 {
		t.Fatal("the CDI library reports no conflict")
	}
	first.mustSync(t, first.tree)
	second.mustSync(t, both)
	if diff := cmp.Diff([]string{vendor + "/vf=1", vendor + "/vf=2"}, runtimeDevices(t, dir)); diff != "" {
		t.Errorf("on disk (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{vendor + "/vf=2"}, names(second.out)); diff != "" {
		t.Errorf("names of the second process (-want +got):\n%s", diff)
	}
}

// Writers that start in the same moment agree in the end, and again when some of them end.
func TestSimultaneousStartEndsWithoutConflict(t *testing.T) {
	dir := t.TempDir()
	type writer struct {
		published func() []string
		stop      func()
	}
	var writers []writer
	for _, paint := range []string{"red", "green", "blue"} {
		tree := with(t, nil, "yellow", painted("1", paint), painted("2", paint), painted(paint, paint))
		_, published, stop := run(t, dir, tree)
		writers = append(writers, writer{published, stop})
	}
	for ; len(writers) > 0; writers = writers[1:] {
		eventually(t, "each device has one name, and no conflict is left", func() bool {
			var list []string
			for _, w := range writers {
				list = append(list, w.published()...)
			}
			slices.Sort(list)
			distinct := slices.Compact(slices.Clone(list))
			found := openRuntime(t, dir)
			isFound := func(name string) bool { return found.GetDevice(name) != nil }
			return len(list) == 2+len(writers) && len(distinct) == len(list) &&
				len(found.GetErrors()) == 0 && !slices.ContainsFunc(list, func(n string) bool { return !isFound(n) })
		})
		writers[0].stop()
	}
}

func mustEntry(t *testing.T, d *devtree.Device) *entry {
	t.Helper()
	e, err := newEntry("vf", d)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// While a plugin starts again, its containers do too. Another plugin that starts meanwhile leaves
// its files alone, unless it has one of the devices itself.
func TestFileOfAnotherProgramThatEndedStays(t *testing.T) {
	dir := t.TempDir()
	brushes := startSyncer(dir, "")
	brushes.program = "brushes"
	brushes.mustSync(t, with(t, with(t, nil, "brush", color("1")), "pot", color("2"), color("3")))
	brushes.close()
	s := startSyncer(dir, "")
	s.mustSync(t, with(t, nil, "pot", color("2")))
	if diff := cmp.Diff([]string{vendor + "/brush=1", vendor + "/pot=2"}, runtimeDevices(t, dir)); diff != "" {
		t.Errorf("on disk (-want +got):\n%s", diff)
	}
}

// Vendor a-b with class c and vendor a with class b-c have the same file names.
func TestSpecOfAnotherKindIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "x-vf")
	writeFile(t, s.specPath("x-vf", 1), `{"cdiVersion":"0.5.0","kind":"`+vendor+`-x/vf","devices":[`+
		`{"name":"1","containerEdits":{"env":["A=1"]}}]}`)
	s.mustSync(t, with(t, nil, "yellow", color("1")))
	if diff := cmp.Diff([]string{vendor + "-x/vf=1", vendor + "/x-vf=1"}, runtimeDevices(t, dir)); diff != "" {
		t.Errorf("on disk (-want +got):\n%s", diff)
	}
}

// If another program puts something else in place of a file, the Writer replaces it while there are
// devices, and otherwise leaves it.
func TestForeignFileIsNotRemoved(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "vf")
	s.mustSync(t, with(t, nil, "yellow", color("1")))
	foreign := `{"cdiVersion":"0.5.0","kind":"other.example.com/vf"}`
	writeFile(t, specPath(dir, "vf"), foreign)
	s.mustSync(t, nil)
	if text, err := os.ReadFile(specPath(dir, "vf")); err != nil || string(text) != foreign {
		t.Errorf("the file is %q, %v", text, err)
	}
}

func TestOneProcessHoldsALock(t *testing.T) {
	spec := filepath.Join(t.TempDir(), "spec.json")
	var holders, taken atomic.Int32
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for taken.Load() < 1000 {
				l, err := acquire(spec)
				if errors.Is(err, errOwned) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if holders.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				taken.Add(1)
				holders.Add(-1)
				if err := l.remove(spec); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
}

// The Writers of other processes take over at once, and do not wait for their poll.
func TestEndReleasesTheFilesAndWakesOthers(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "vf")
	s.mustSync(t, with(t, nil, "yellow", color("1")))
	free := make(chan bool, 1)
	w, err := watchDir(dir, s.isRelevant, func() {
		l, err := acquire(specPath(dir, "vf"))
		if err == nil {
			l.release()
		}
		select {
		case free <- err == nil:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	s.close()
	select {
	case isFree := <-free:
		if !isFree {
			t.Error("others are woken before the lock is free")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("others are not woken")
	}
}

func TestEndRemovesTheLockOfAFileThatWasNotWritten(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "vf")
	s.writeErr = syscall.ENOSPC
	if found := s.sync(with(t, nil, "yellow", color("1"))); len(found) == 0 {
		t.Error("no problem reported")
	}
	s.close()
	if names, err := os.ReadDir(dir); len(names) > 0 || err != nil {
		t.Errorf("%v left behind, error %v", names, err)
	}
}

func TestRemovedLockIsTakenAgain(t *testing.T) {
	dir := t.TempDir()
	first := startSyncer(dir, "vf")
	tree := with(t, nil, "yellow", color("1"))
	first.mustSync(t, tree)
	if err := os.Remove(lockPath(first.specPath("vf", 1))); err != nil {
		t.Fatal(err)
	}
	first.mustSync(t, tree)
	second := startSyncer(dir, "vf")
	second.mustSync(t, with(t, nil, "yellow", painted("1", "blue")))
	if got := names(second.out); len(got) > 0 {
		t.Errorf("a second process has the names %q", got)
	}

	// If another process is faster, the file is its own.
	if err := os.Remove(lockPath(first.specPath("vf", 1))); err != nil {
		t.Fatal(err)
	}
	second.mustSync(t, second.tree)
	first.mustSync(t, tree)
	if len(names(first.out)) > 0 || len(names(second.out)) != 1 {
		t.Errorf("the first process has the names %q, the second %q", names(first.out), names(second.out))
	}
	runtimeDevices(t, dir) // reports no conflict
}

// A file and its lock go together.
func TestNoLockIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	s := startSyncer(dir, "")
	s.mustSync(t, with(t, with(t, nil, "yellow", color("1")), "blue", color("1")))
	s.mustSync(t, nil)
	if left := allNames(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestSpecNames(t *testing.T) {
	c := &Config{Dir: "/cdi", Vendor: "a.b"}
	for _, tt := range []struct {
		name, class string
		n           int
	}{
		{"a.b-vf_device-plugin.json", "vf", 1},
		{"a.b-vf_device-plugin-2.json", "vf", 2},
		{"a.b-v_f-g_device-plugin-17.json", "v_f-g", 17},
		{"a.b-x_device-plugin-2_device-plugin.json", "x_device-plugin-2", 1},
		{"a.b-vf_device-plugin-1.json", "", 0}, // it has no number
		{"a.b-vf_device-plugin-02.json", "", 0},
		{"a.b-_device-plugin.json", "", 0},
		{"a.b-vf.json", "", 0},
		{"axb-vf_device-plugin.json", "", 0},
		{".a.b-vf_device-plugin.json", "", 0},
		{"a.b-vf_device-plugin.json.tmp", "", 0},
	} {
		class, n, ok := c.parseSpecName(tt.name)
		if ok != (tt.n > 0) || ok && (class != tt.class || n != tt.n) {
			t.Errorf("%s: class %q, number %d, %t, want %q, %d", tt.name, class, n, ok, tt.class, tt.n)
		}
		if ok && filepath.Join(c.Dir, tt.name) != c.specPath(class, n) {
			t.Errorf("%s: path %q", tt.name, c.specPath(class, n))
		}
	}
}

func TestRelevantEvents(t *testing.T) {
	c := &Config{Dir: "/cdi", Vendor: "a.b"}
	for _, tt := range []struct {
		name string
		op   fsnotify.Op
		want bool
	}{
		{"a.b-vf_device-plugin.json", fsnotify.Create, true},
		{"a.b-vf_device-plugin-2.json", fsnotify.Write, true},
		{".a.b-vf_device-plugin.json.lock", fsnotify.Remove, true},
		{".a.b-vf_device-plugin.json.lock", fsnotify.Chmod, true},
		{".a.b-vf_device-plugin.json.lock", fsnotify.Write, false},
		{".a.b-vf_device-plugin.json.123.tmp", fsnotify.Remove, false},
		{"other.json", fsnotify.Create, false},
	} {
		if got := c.isRelevant(fsnotify.Event{Name: "/cdi/" + tt.name, Op: tt.op}); got != tt.want {
			t.Errorf("%s of %s: %t, want %t", tt.op, tt.name, got, tt.want)
		}
	}
}

func TestDirectoryThatCannotBeWatchedIsPolled(t *testing.T) {
	s := startSyncer(t.TempDir(), "vf")
	s.disk.watch = func(string, func(fsnotify.Event) bool, func()) (*watch, error) {
		return nil, errors.New("no more watches")
	}
	found := s.sync(with(t, nil, "yellow", color("1")))
	if !found.polled() || found.retryable() {
		t.Errorf("found %v", found)
	}
	if got := names(s.out); len(got) != 1 {
		t.Errorf("published the names %q", got)
	}
}

// Several processes act one after another, and may end or be killed at any time. A runtime never
// finds a device twice. Each name that a running process has published resolves to the edits of
// that process. After each process has synced again, every wanted device has a name.
func TestAnyProcessesShareADirectory(t *testing.T) {
	parent := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		dir := filepath.Join(parent, strconv.Itoa(runs))
		processes := make([]*testSyncer, 3)
		trees := make([]*devtree.Tree, len(processes))
		start := func(i int) {
			processes[i] = startSyncer(dir, "vf")
			processes[i].program = strconv.Itoa(i % 2)
			trees[i] = &devtree.Tree{}
		}
		for i := range processes {
			start(i)
		}
		sync := func(i int) {
			processes[i].mustSync(rt, trees[i])
			runtimeDevices(rt, dir) // reports no conflict
		}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			i := rapid.IntRange(0, len(processes)-1).Draw(rt, "process")
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				processes[i].close()
				start(i)
			case 1:
				if err := os.RemoveAll(specPath(dir, "vf")); err != nil {
					rt.Fatal(err)
				}
			default:
				id := strconv.Itoa(rapid.IntRange(0, 4).Draw(rt, "id"))
				paint := rapid.SampledFrom([]string{"", "wet", "dry"}).Draw(rt, "paint")
				if paint == "" {
					trees[i] = without(trees[i], "yellow", id)
				} else {
					trees[i] = with(rt, trees[i], "yellow", painted(id, paint+strconv.Itoa(i)))
				}
			}
			sync(i)
		}
		for range 2 { // after a device is freed, a process that wants it must look
			for i := range processes {
				sync(i)
			}
		}
		found := openRuntime(rt, dir)
		named := map[string]bool{}
		for i, p := range processes {
			for d := range p.out.Resource("yellow").Devices() {
				for _, name := range d.CDINames {
					if named[name] {
						rt.Fatalf("two processes have published the name %s", name)
					}
					named[name] = true
					env := found.GetDevice(name).ContainerEdits.Env
					if !slices.Contains(env, "PAINT="+d.Env["PAINT"]) {
						rt.Fatalf("device %s of process %d has %q", name, i, env)
					}
				}
			}
		}
		for _, tree := range trees {
			for d := range tree.Resource("yellow").Devices() {
				if !named[vendor+"/vf="+d.ID] {
					rt.Fatalf("no process has published a name of device %s", d.ID)
				}
			}
		}
		for _, p := range processes {
			p.close()
		}
	})
}
