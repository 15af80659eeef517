// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	cdilib "tags.cncf.io/container-device-interface/pkg/cdi"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/inventory"
)

const (
	driver = "color.example.com"
	pool   = "node-1"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		runChild(dir) // until it is killed
		return
	}
	goleak.VerifyTestMain(m)
}

// testStore is a Store whose API server and devices are in memory.
type testStore struct {
	*Store
	t testing.TB

	mu       sync.Mutex
	objects  map[string]*resourcev1.ResourceClaim // by namespace/name
	failure  func() error                         // of GetClaim; may be nil
	gets     int
	prepares int
	changes  int
	log      []string
	devices  *inventory.Inventory
}

// newStore returns a Store for a driver with these devices.
func newStore(t testing.TB, dir string, devices ...string) *testStore {
	s := &testStore{t: t, objects: map[string]*resourcev1.ResourceClaim{}}
	s.setDevices(devices...)
	s.Store = New(Config{
		Driver:   driver,
		Pool:     pool,
		CDIDir:   dir,
		GetClaim: s.getObject,
		Inventory: func() *inventory.Inventory {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.devices
		},
		BeforeWrite: func(context.Context, *Claim) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.prepares++
			return nil
		},
		Changed: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changes++
		},
		Log: funcr.New(func(_, args string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.log = append(s.log, args)
		}, funcr.Options{Verbosity: 2}),
	})
	return s
}

func (s *testStore) setDevices(ids ...string) {
	b := new(devtree.Tree).Edit()
	for _, id := range ids {
		err := b.Put("paint", &devtree.Device{ID: id, Health: devtree.Healthy, ContainerEdits: devtree.ContainerEdits{
			Env: map[string]string{"COLOR_" + id: id},
		}})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices = inventory.New(nil, b.Build(), nil)
}

// allocate adds a claim with these devices, each for a request of its own.
func (s *testStore) allocate(name, uid string, devices ...string) Ref {
	object := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid)},
		Status:     resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{}},
	}
	for i, d := range devices {
		object.Status.Allocation.Devices.Results = append(object.Status.Allocation.Devices.Results,
			resourcev1.DeviceRequestAllocationResult{
				Request: fmt.Sprintf("r%d", i), Driver: driver, Pool: pool, Device: d,
			})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects["default/"+name] = object
	return Ref{"default", name, uid}
}

func (s *testStore) getObject(_ context.Context, namespace, name string) (*resourcev1.ResourceClaim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gets++
	if s.failure != nil {
		if err := s.failure(); err != nil {
			return nil, err
		}
	}
	object := s.objects[namespace+"/"+name]
	if object == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "resourceclaims"}, name)
	}
	return object, nil
}

func (s *testStore) fail(f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = f
}

// count returns how often GetClaim and Prepare were called since the last call.
func (s *testStore) count() (gets, prepares int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gets, prepares = s.gets, s.prepares
	s.gets, s.prepares = 0, 0
	return gets, prepares
}

// logged returns the number of lines in the log that contain part.
func (s *testStore) logged(part string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.log {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func (s *testStore) mustPrepare(ref Ref) *Claim {
	s.t.Helper()
	c, err := s.Prepare(s.t.Context(), ref)
	if err != nil {
		s.t.Fatalf("prepare %s: %v", ref, err)
	}
	return c
}

func (s *testStore) mustUnprepare(ref Ref) {
	s.t.Helper()
	if _, err := s.Unprepare(s.t.Context(), ref); err != nil {
		s.t.Fatalf("unprepare %s: %v", ref, err)
	}
}

// text returns the text of an error, or "".
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// names returns the CDI names of the claim.
func names(c *Claim) (list []string) {
	for i := range c.Devices {
		list = append(list, c.Devices[i].CDINames...)
	}
	return list
}

// wantRuntimeDevices checks which devices a container runtime finds. No file may be broken.
func wantRuntimeDevices(t testing.TB, dir string, want ...string) {
	t.Helper()
	cache, err := cdilib.NewCache(cdilib.WithSpecDirs(dir), cdilib.WithAutoRefresh(false))
	if err != nil {
		t.Fatal(err)
	}
	for path, errs := range cache.GetErrors() {
		t.Errorf("%s: %v", path, errs)
	}
	if diff := cmp.Diff(want, cache.ListDevices()); diff != "" && len(want)+len(cache.ListDevices()) > 0 {
		t.Errorf("devices of the runtime (-want +got):\n%s", diff)
	}
}
