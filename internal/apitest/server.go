// SPDX-License-Identifier: Apache-2.0

// Package apitest is a Kubernetes API server in memory, for tests of a DRA driver.
//
// A [Server] stores ResourceSlices, ResourceClaims and Nodes. It serves them over HTTP, in JSON and
// protobuf, with resource versions, field selectors and watches, and it checks ResourceSlices by
// the API's rules. Tests change its objects directly, read the requests that it has received, and
// make requests fail. [Server.Config] returns a client configuration that needs no network and no
// real time, so that it works in a testing/synctest bubble. A Server is also an [http.Handler].
package apitest

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// A Server is an API server. Any goroutine may use it.
type Server struct {
	codecs codecs

	mu       sync.Mutex // guards all following fields
	down     bool
	fault    func(*Request) *Fault
	noTaints bool
	requests []*Request
	version  int64 // resource version of the newest change
	uids     int64
	slices   map[string]*resourcev1.ResourceSlice
	claims   map[string]*resourcev1.ResourceClaim // by namespace/name
	nodes    map[string]*corev1.Node
	history  []change
	oldest   int64         // a watch from a resource version before this one has expired
	changed  chan struct{} // closed and replaced with each change
	ended    chan struct{} // closed and replaced when all watches end
}

// A change is what happened to a ResourceSlice.
type change struct {
	version int64
	event   watch.EventType
	slice   *resourcev1.ResourceSlice
}

// A Request is a request that a [Server] has received.
type Request struct {
	Time      time.Time
	Verb      string // "get", "list", "watch", "create", "update", "delete" or "deletecollection"
	Resource  string // such as "resourceslices"
	Namespace string
	Name      string // of the object; empty for "list", "watch" and "deletecollection"
}

// String returns verb, resource and name.
func (r *Request) String() string { return strings.TrimSpace(r.Verb + " " + r.Resource + " " + r.Name) }

// IsWrite reports whether the request changes an object.
func (r *Request) IsWrite() bool {
	return slices.Contains([]string{"create", "update", "delete", "deletecollection"}, r.Verb)
}

// A Fault is what goes wrong with a request.
type Fault struct {
	Code       int    // HTTP status of the answer; 0 if the connection breaks instead of an answer
	RetryAfter int    // seconds; 0 for no such header
	Message    string // of the answer
	Done       bool   // the server does what it was asked for, before it fails
}

// neverSleep removes a handler of errors, which each watch that fails calls. It sleeps until 1 ms
// after the last error. In a testing/synctest bubble, where time begins in the year 2000, that
// takes decades.
var neverSleep = sync.OnceFunc(func() { utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1] })

// New returns a Server without objects.
func New() *Server {
	neverSleep()
	return &Server{
		codecs:  newCodecs(),
		version: 1000,
		oldest:  1000,
		slices:  map[string]*resourcev1.ResourceSlice{},
		claims:  map[string]*resourcev1.ResourceClaim{},
		nodes:   map[string]*corev1.Node{},
		changed: make(chan struct{}),
		ended:   make(chan struct{}),
	}
}

// Fail calls f with each request from now on. If f returns a Fault, the request fails with it. f
// may block. Nil ends that.
func (s *Server) Fail(f func(*Request) *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// SetDown makes the server refuse connections and ends all watches, or makes it accept connections
// again.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	if down {
		s.endWatches()
	}
}

// SetTaints says whether the feature gate DRADeviceTaints is on, as it is by default. Without it,
// the server drops the taints of devices.
func (s *Server) SetTaints(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noTaints = !on
}

// EndWatches ends all watches, as the API server does after some minutes.
func (s *Server) EndWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endWatches()
}

func (s *Server) endWatches() {
	close(s.ended)
	s.ended = make(chan struct{})
}

// Compact forgets all changes: a watch that starts before the newest resource version has expired.
func (s *Server) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.history, s.oldest = nil, s.version
}

// Backup returns a function that restores the slices and the resource version of now, as an
// administrator restores etcd, and ends all watches.
func (s *Server) Backup() (restore func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version, saved := s.version, maps.Clone(s.slices)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.version, s.slices = version, maps.Clone(saved)
		s.history, s.oldest = nil, version
		s.endWatches()
	}
}

// Requests returns all requests so far, in the order in which they arrived.
func (s *Server) Requests() []*Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Writes returns the requests so far that change an object.
func (s *Server) Writes() []*Request {
	return slices.DeleteFunc(s.Requests(), func(r *Request) bool { return !r.IsWrite() })
}

// AddNode adds a Node, or replaces the one with that name by another one with another UID.
func (s *Server) AddNode(node *corev1.Node) *corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	node = node.DeepCopy()
	s.stamp(&node.ObjectMeta)
	s.nodes[node.Name] = node
	return node.DeepCopy()
}

// Node returns the Node with that name, or nil.
func (s *Server) Node(name string) *corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[name].DeepCopy()
}

// DeleteNode deletes a Node.
func (s *Server) DeleteNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nodes, name)
}

// AddClaim adds a ResourceClaim, or replaces the one with that name. A claim without a UID gets
// one.
func (s *Server) AddClaim(claim *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
	s.mu.Lock()
	defer s.mu.Unlock()
	claim = claim.DeepCopy()
	uid := claim.UID
	s.stamp(&claim.ObjectMeta)
	if uid != "" {
		claim.UID = uid
	}
	s.claims[claim.Namespace+"/"+claim.Name] = claim
	return claim.DeepCopy()
}

// DeleteClaim deletes a ResourceClaim.
func (s *Server) DeleteClaim(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claims, namespace+"/"+name)
}

// Slices returns the ResourceSlices, sorted by name.
func (s *Server) Slices() (all []*resourcev1.ResourceSlice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.slices)) {
		all = append(all, s.slices[name].DeepCopy())
	}
	return all
}

// AddSlice creates a ResourceSlice, as another client would.
func (s *Server) AddSlice(slice *resourcev1.ResourceSlice) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.createSlice(slice.DeepCopy())
	return err
}

// EditSlice changes a ResourceSlice, as another client would.
func (s *Server) EditSlice(name string, edit func(*resourcev1.ResourceSlice)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.slices[name]
	if old == nil {
		return apierrors.NewNotFound(slicesResource, name)
	}
	slice := old.DeepCopy()
	edit(slice)
	_, err := s.updateSlice(slice)
	return err
}

// DeleteSlice deletes a ResourceSlice, as another client would.
func (s *Server) DeleteSlice(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.deleteSlice(name)
	return err
}

// DeleteSlices deletes all ResourceSlices of the Node, as the kubelet does when it starts
// (k8s.io/kubernetes/pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go, wipeResourceSlices).
func (s *Server) DeleteSlices(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.slices)) {
		if n := s.slices[name].Spec.NodeName; n != nil && *n == node {
			s.deleteSlice(name)
		}
	}
}

var (
	slicesResource = resourcev1.Resource("resourceslices")
	slicesKind     = resourcev1.SchemeGroupVersion.WithKind("ResourceSlice")
)

// stamp fills in what the server sets in a new object. The caller holds mu.
func (s *Server) stamp(m *metav1.ObjectMeta) {
	s.version++
	s.uids++
	m.UID = types.UID(fmt.Sprintf("%08d-0000-4000-8000-000000000000", s.uids))
	m.ResourceVersion = strconv.FormatInt(s.version, 10)
	m.Generation = 1
	m.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
}

func (s *Server) createSlice(slice *resourcev1.ResourceSlice) (*resourcev1.ResourceSlice, error) {
	if s.slices[slice.Name] != nil {
		return nil, apierrors.NewAlreadyExists(slicesResource, slice.Name)
	}
	if slice.ResourceVersion != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	s.prepare(slice)
	if errs := validateSlice(slice, nil); len(errs) > 0 {
		return nil, apierrors.NewInvalid(slicesKind.GroupKind(), slice.Name, errs)
	}
	s.stamp(&slice.ObjectMeta)
	s.store(watch.Added, slice)
	return slice, nil
}

func (s *Server) updateSlice(slice *resourcev1.ResourceSlice) (*resourcev1.ResourceSlice, error) {
	old := s.slices[slice.Name]
	if old == nil {
		return nil, apierrors.NewNotFound(slicesResource, slice.Name)
	}
	if slice.ResourceVersion != "" && slice.ResourceVersion != old.ResourceVersion {
		return nil, apierrors.NewConflict(slicesResource, slice.Name,
			errors.New("the object has been modified; please apply your changes to the latest version and try again"))
	}
	s.prepare(slice)
	if errs := validateSlice(slice, old); len(errs) > 0 {
		return nil, apierrors.NewInvalid(slicesKind.GroupKind(), slice.Name, errs)
	}
	slice.UID, slice.CreationTimestamp = old.UID, old.CreationTimestamp
	slice.Generation, slice.ResourceVersion = old.Generation, old.ResourceVersion
	if equal(slice, old) { // such an update is not stored (k8s.io/apiserver/pkg/storage/etcd3/store.go)
		return old, nil
	}
	if !equal(&slice.Spec, &old.Spec) {
		slice.Generation++
	}
	s.version++
	slice.ResourceVersion = strconv.FormatInt(s.version, 10)
	s.store(watch.Modified, slice)
	return slice, nil
}

func (s *Server) deleteSlice(name string) (*resourcev1.ResourceSlice, error) {
	old := s.slices[name]
	if old == nil {
		return nil, apierrors.NewNotFound(slicesResource, name)
	}
	last := old.DeepCopy()
	s.version++
	last.ResourceVersion = strconv.FormatInt(s.version, 10)
	s.store(watch.Deleted, last)
	return last, nil
}

// prepare drops what the feature gates do not allow and sets defaults
// (k8s.io/kubernetes/pkg/apis/resource/v1/defaults.go, SetDefaults_DeviceTaint).
func (s *Server) prepare(slice *resourcev1.ResourceSlice) {
	for i := range slice.Spec.Devices {
		d := &slice.Spec.Devices[i]
		if s.noTaints {
			d.Taints = nil
		}
		for k := range d.Taints {
			if d.Taints[k].TimeAdded == nil {
				d.Taints[k].TimeAdded = &metav1.Time{Time: time.Now().Truncate(time.Second)}
			}
		}
	}
}

// store stores the slice, or removes it after a deletion, and wakes the watches.
func (s *Server) store(event watch.EventType, slice *resourcev1.ResourceSlice) {
	slice.SetGroupVersionKind(schema.GroupVersionKind{})
	if event == watch.Deleted {
		delete(s.slices, slice.Name)
	} else {
		s.slices[slice.Name] = slice
	}
	s.history = append(s.history, change{version: s.version, event: event, slice: slice})
	close(s.changed)
	s.changed = make(chan struct{})
}

var _ http.Handler = (*Server)(nil)
