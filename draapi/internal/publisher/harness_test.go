// SPDX-License-Identifier: Apache-2.0

package publisher_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/apiclient"
	"qatplugin/draapi/internal/inventory"
	"qatplugin/draapi/internal/publisher"
	"qatplugin/internal/apitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	driver = "color.example.com"
	node   = "n1"
	prefix = node + "-" + driver + "-" // of the names of slices
)

// A rig is a Publisher and its API server in a synctest bubble.
type rig struct {
	t      *testing.T
	server *apitest.Server
	config publisher.Config

	*publisher.Publisher
	inventory *inventory.Inventory
	held      map[string]*devtree.Device
	seen      int // requests that writes has returned
	stop      func()

	mu  sync.Mutex // guards log
	log []string
}

// newRig returns a rig whose Publisher does not run yet.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, server: apitest.New(), held: map[string]*devtree.Device{}}
	client, err := apiclient.New(r.server.Config())
	if err != nil {
		t.Fatal(err)
	}
	r.config = publisher.Config{Driver: driver, Node: node, Client: client, GroupBy: "pf"}
	r.server.AddNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
	t.Cleanup(func() {
		if r.stop != nil {
			r.stop()
		}
	})
	return r
}

// start runs a new Publisher, after the previous one has ended.
func (r *rig) start() {
	if r.stop != nil {
		r.stop()
	}
	r.Publisher = publisher.New(r.config)
	logger := funcr.New(func(_, args string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.log = append(r.log, args)
	}, funcr.Options{})
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logger))
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	r.stop = func() { cancel(); <-done }
}

// publish gives the Publisher the devices, each in the form "PF.VF" with '!' appended if it is
// Unhealthy.
func (r *rig) publish(devices ...string) {
	r.t.Helper()
	b := new(devtree.Tree).Edit()
	for _, text := range devices {
		id, isUnhealthy := strings.CutSuffix(text, "!")
		pf, _, _ := strings.Cut(id, ".")
		d := &devtree.Device{ID: id, Health: devtree.Healthy, Attributes: map[string]any{"pf": pf}}
		if isUnhealthy {
			d.Health, d.Reason, d.Cause = devtree.Unhealthy, "its heartbeat failed", "heartbeat"
		}
		if err := b.Put("cy", d); err != nil {
			r.t.Fatal(err)
		}
	}
	r.inventory = inventory.New(r.inventory, b.Build(), r.held)
	r.Update(r.inventory)
}

// pool returns the slices at the API server, one line for each, with its devices. The generation is
// that of the pool.
func (r *rig) pool() string {
	var b strings.Builder
	for _, s := range r.server.Slices() {
		fmt.Fprintf(&b, "%s generation %d of %d:", s.Name, s.Spec.Pool.Generation, s.Spec.Pool.ResourceSliceCount)
		for _, d := range s.Spec.Devices {
			fmt.Fprintf(&b, " %s", d.Name)
			for _, taint := range d.Taints {
				fmt.Fprintf(&b, "(%s=%s:%s)", taint.Key, taint.Value, taint.Effect)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// expect waits until nothing happens any more without the passing of time, and then compares the
// slices at the API server.
func (r *rig) expect(want string) {
	r.t.Helper()
	synctest.Wait()
	if got := r.pool(); got != want {
		r.t.Fatalf("the API server has\n%swant\n%s", got, want)
	}
}

// vfs returns the devices "PF.0" to "PF.<n-1>".
func vfs(pf string, n int) (devices []string) {
	for i := range n {
		devices = append(devices, fmt.Sprintf("%s.%02d", pf, i))
	}
	return devices
}

// line returns the line of pool for a slice.
func line(number int, generation, count int, devices ...string) string {
	names := slices.Clone(devices)
	for i := range names {
		names[i] = " " + strings.ReplaceAll(names[i], ".", "-")
	}
	return fmt.Sprintf("%s%d generation %d of %d:%s\n", prefix, number, generation, count, strings.Join(names, ""))
}

// writes returns the writes that the API server has received since the last call.
func (r *rig) writes() (texts []string) {
	r.t.Helper()
	synctest.Wait()
	all := r.server.Requests()
	for _, request := range all[r.seen:] {
		if request.IsWrite() {
			texts = append(texts, strings.Replace(request.String(), "resourceslices "+prefix, "", 1))
		}
	}
	r.seen = len(all)
	return texts
}

// expectWrites compares the writes since the last call with want, such as "update 0".
func (r *rig) expectWrites(want ...string) {
	r.t.Helper()
	if got := r.writes(); !slices.Equal(got, want) {
		r.t.Fatalf("writes %q, want %q", got, want)
	}
}

// logged returns how many lines of the log contain text.
func (r *rig) logged(text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range r.log {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// editSlices changes all slices, as another client would.
func (r *rig) editSlices(edit func(*resourcev1.ResourceSlice)) {
	r.t.Helper()
	for _, s := range r.server.Slices() {
		if err := r.server.EditSlice(s.Name, edit); err != nil {
			r.t.Error(err)
		}
	}
}

// addSlice adds an empty slice of another client.
func (r *rig) addSlice(name, driver, node, pool string) {
	r.t.Helper()
	r.addSliceOf(name, driver, node, pool, 0)
}

// addSliceOf adds an empty slice of another client, with that generation of the pool.
func (r *rig) addSliceOf(name, driver, node, pool string, generation int64) {
	r.t.Helper()
	if err := r.server.AddSlice(&resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: resourcev1.ResourceSliceSpec{
			Driver:   driver,
			NodeName: &node,
			Pool:     resourcev1.ResourcePool{Name: pool, Generation: generation, ResourceSliceCount: 1},
		},
	}); err != nil {
		r.t.Fatal(err)
	}
}

// burst returns the largest number of writes that the API server has received in less than a
// second.
func (r *rig) burst() (largest int) {
	writes := r.server.Writes()
	for i := range writes {
		n := 0
		for _, w := range writes[i:] {
			if w.Time.Sub(writes[i].Time) < time.Second {
				n++
			}
		}
		largest = max(largest, n)
	}
	return largest
}

func (r *rig) slice(number int) *resourcev1.ResourceSlice {
	r.t.Helper()
	for _, s := range r.server.Slices() {
		if s.Name == fmt.Sprintf("%s%d", prefix, number) {
			return s
		}
	}
	r.t.Fatalf("there is no slice %d", number)
	return nil
}
