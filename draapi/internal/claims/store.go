// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/inventory"
)

// A Config describes a driver to a [Store].
type Config struct {
	Driver      string
	Pool        string
	CDIDir      string // absolute
	MetadataDir string // absolute; of the metadata files, or "" for none

	// GetClaim returns the claim from the API server. A Store calls it again if it fails for a
	// reason that may pass.
	GetClaim func(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error)

	// Inventory returns the newest Inventory, or nil before the first one.
	Inventory func() *inventory.Inventory

	// BeforeWrite is called before the file of a claim is written. It may modify the Edits. An
	// error refuses the claim.
	BeforeWrite func(context.Context, *Claim) error

	// Attributes returns the attributes of a device, for its metadata.
	Attributes func(*devtree.Device) map[resourcev1.QualifiedName]resourcev1.DeviceAttribute

	// Changed is called when the devices that claims hold may have changed.
	Changed func()

	Log klog.Logger
}

// A Ref names a claim.
type Ref struct{ Namespace, Name, UID string }

// String returns "namespace/name".
func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// A Claim is an allocated claim, as far as it concerns the driver. A prepared one must not be
// modified.
type Claim struct {
	Ref
	podClaim string    // name of the claim in the pod, if it was made from a template
	Prepared time.Time // when the file was written
	Devices  []Device  // in the order of the allocation; not empty
}

// A Device is a device of a Claim.
type Device struct {
	Name        string // in the pool
	Request     string // "request/subrequest" of a prioritized list
	AdminAccess bool   // the claim does not hold the device
	ShareID     string
	ID          string // of the device in the Tree
	Resource    string // when the claim was prepared
	CDINames    []string
	nodes       []string // as nodesOf, when the file was written

	// Device is the device when the claim was prepared. If an earlier process has prepared it,
	// only the ID is known. Edits are only used until the file is written.
	Device *devtree.Device
	Edits  devtree.ContainerEdits
}

// A Store holds the prepared claims. Any goroutine may call its methods.
type Store struct {
	Config

	turn chan struct{} // holds one token, which a call takes before it locks the directory

	// disk is held while the files are read, and from a change of a file until files shows it.
	disk sync.Mutex

	mu     sync.Mutex // guards the fields below
	loaded bool       // Load has succeeded
	files  map[string]*file
	busy   map[string]chan struct{} // by UID of a claim with a call in progress; closed at its end
}

// New returns a Store that knows no claims until [Store.Load] has read them.
func New(c Config) *Store {
	s := &Store{
		Config: c,
		turn:   make(chan struct{}, 1),
		files:  map[string]*file{},
		busy:   map[string]chan struct{}{},
	}
	s.turn <- struct{}{}
	return s
}

// List returns the prepared claims, sorted by namespace, name and UID.
func (s *Store) List() []*Claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*Claim
	for _, f := range s.files {
		if f.claim != nil {
			list = append(list, f.claim)
		}
	}
	slices.SortFunc(list, func(a, b *Claim) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return list
}

// errNotLoaded is returned until the files of earlier processes have been read.
var errNotLoaded = errors.New("the claims that earlier processes have prepared have not been read yet")

// Held returns the devices that claims hold, by ID.
func (s *Store) Held() map[string]*devtree.Device {
	held := map[string]*devtree.Device{}
	for _, c := range s.List() {
		for i := range c.Devices {
			if d := &c.Devices[i]; !d.AdminAccess {
				held[d.ID] = d.Device
			}
		}
	}
	return held
}

// Holders returns which claim holds a device: device ID → "namespace/name". It returns an error
// before Load has succeeded.
func (s *Store) Holders() (map[string]string, error) {
	s.mu.Lock()
	loaded := s.loaded
	s.mu.Unlock()
	if !loaded {
		return nil, errNotLoaded
	}
	holders := map[string]string{}
	for _, c := range s.List() {
		for i := range c.Devices {
			if d := &c.Devices[i]; !d.AdminAccess {
				holders[d.ID] = c.String()
			}
		}
	}
	return holders, nil
}

// acquire waits until no other call for the claim is in progress. The caller must call release.
func (s *Store) acquire(ctx context.Context, uid string) (release func(), err error) {
	for {
		s.mu.Lock()
		other := s.busy[uid]
		if other == nil {
			done := make(chan struct{})
			s.busy[uid] = done
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.busy, uid)
				close(done)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another call for the claim: %w", ctx.Err())
		}
	}
}

// find returns the prepared claim, or nil.
func (s *Store) find(uid string) *Claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[uid]; f != nil {
		return f.claim
	}
	return nil
}

// Prepare prepares the claim and returns it. If it is prepared already, with the same devices, the
// result is the same as before, apart from what [Store.Refresh] writes, even if the devices have
// changed or left the node. Concurrent calls for one claim run one after the other. Prepare returns
// when ctx ends, if the functions of Config do.
func (s *Store) Prepare(ctx context.Context, ref Ref) (*Claim, error) {
	if !uidPattern.MatchString(ref.UID) {
		return nil, fmt.Errorf("invalid UID %q: must consist of letters, digits, '-', '_' and '.'", ref.UID)
	}
	release, err := s.acquire(ctx, ref.UID)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := s.Load(); err != nil { // another process may have prepared or unprepared the claim
		return nil, err
	}
	prepared := s.find(ref.UID)
	object, err := s.getClaim(ctx, ref, prepared != nil)
	if err != nil {
		// An API server that starts refuses what its RBAC objects allow, until it has read them.
		if prepared != nil && (isTransient(err) || apierrors.IsForbidden(err)) {
			s.Log.V(2).Info("Answering for a prepared claim without the API server", "claim", ref,
				"reason", err.Error())
			return prepared, nil
		}
		return nil, err
	}
	claim, err := s.allocated(ref, object)
	if err != nil {
		return nil, err
	}
	if prepared != nil {
		if prepared.sameDevices(claim) {
			if !s.isOutdated(prepared) || s.write(ctx, claim, true) != nil {
				return prepared, nil
			}
			s.Changed()
			return claim, nil
		}
		// The claim was deallocated and allocated again, and the kubelet has not unprepared it.
		s.Log.Info("Preparing a claim again, because its allocation has changed", "claim", ref, "uid", ref.UID)
	}
	if err := s.write(ctx, claim, false); err != nil {
		return nil, err
	}
	s.Log.V(2).Info("Prepared a claim", "claim", ref, "uid", ref.UID, "devices", claim.ids())
	s.Changed()
	return claim, nil
}

// write completes the claim and writes its files. again means that it is prepared already.
func (s *Store) write(ctx context.Context, claim *Claim, again bool) error {
	if err := s.resolve(claim); err != nil {
		return err
	}
	if err := s.checkHolders(claim); err != nil {
		return err
	}
	if err := s.BeforeWrite(ctx, claim); err != nil {
		return err
	}
	if err := claim.validate(); err != nil {
		return err
	}
	return s.commit(ctx, claim, again)
}

// Unprepare forgets the claim and removes its file. It returns the claim, or nil if it was not
// prepared.
func (s *Store) Unprepare(ctx context.Context, ref Ref) (*Claim, error) {
	release, err := s.acquire(ctx, ref.UID)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := s.Load(); err != nil {
		return nil, err
	}
	claim := s.find(ref.UID)
	if err := s.remove(ctx, ref.UID); err != nil {
		return claim, err
	}
	if claim != nil {
		s.Log.V(2).Info("Unprepared a claim", "claim", ref, "uid", ref.UID, "devices", claim.ids())
		s.Changed()
	}
	return claim, nil
}

// allocated returns the claim with the devices of this driver and pool that it was allocated.
func (s *Store) allocated(ref Ref, object *resourcev1.ResourceClaim) (*Claim, error) {
	if string(object.UID) != ref.UID {
		return nil, fmt.Errorf("the claim was deleted and created again: its UID is %s, and %s is to be prepared",
			object.UID, ref.UID)
	}
	if object.Status.Allocation == nil {
		return nil, errors.New("the claim is not allocated")
	}
	for _, c := range object.Status.Allocation.Devices.Config {
		if c.Opaque != nil && c.Opaque.Driver == s.Driver {
			return nil, fmt.Errorf("the claim or its DeviceClass has a configuration for driver %s, which takes none",
				s.Driver)
		}
	}
	claim := &Claim{Ref: ref, podClaim: object.Annotations[resourcev1.PodResourceClaimAnnotation]}
	for _, r := range object.Status.Allocation.Devices.Results {
		switch {
		case r.Driver != s.Driver:
			continue
		case r.Pool != s.Pool:
			return nil, fmt.Errorf("device %s is of pool %s, and the pool of this node is %s", r.Device, r.Pool, s.Pool)
		}
		d := Device{Name: r.Device, Request: r.Request, AdminAccess: r.AdminAccess != nil && *r.AdminAccess}
		if r.ShareID != nil {
			d.ShareID = string(*r.ShareID)
		}
		claim.Devices = append(claim.Devices, d)
	}
	if len(claim.Devices) == 0 {
		return nil, fmt.Errorf("the claim is allocated no device of driver %s", s.Driver)
	}
	return claim, nil
}

// resolve finds the devices of the claim in the newest Inventory. It returns an error if one is
// missing or, unless it is for admin access, unhealthy.
func (s *Store) resolve(claim *Claim) error {
	devices := s.Inventory()
	if devices == nil {
		return errors.New("the devices of this node have not been read yet; the kubelet tries again")
	}
	for i := range claim.Devices {
		d := &claim.Devices[i]
		found := devices.Find(d.Name)
		switch {
		case found == nil || found.Gone:
			return fmt.Errorf("device %s has left the node since the scheduler chose it; the kubelet tries again, "+
				"in case it returns", d.Name)
		case found.Device.Health != devtree.Healthy && !d.AdminAccess:
			return fmt.Errorf("device %s is unhealthy: %s", d.Name, cmp.Or(found.Device.Reason, "no reason given"))
		}
		d.ID, d.Resource, d.Device = found.Device.ID, found.Resource, found.Device
		d.nodes = nodesOf(found.Device)
		d.Edits = devtree.ContainerEdits{}
		d.Edits.Merge(&found.Device.ContainerEdits) // copies
	}
	return nil
}

// checkHolders returns an error if another claim holds a device of the claim.
func (s *Store) checkHolders(claim *Claim) error {
	var wanted []*Device
	for i := range claim.Devices {
		if d := &claim.Devices[i]; !d.AdminAccess {
			wanted = append(wanted, d)
		}
	}
	for _, other := range s.List() {
		if other.UID == claim.UID {
			continue
		}
		for _, d := range wanted {
			isHeld := func(o Device) bool { return o.ID == d.ID && !o.AdminAccess }
			if slices.ContainsFunc(other.Devices, isHeld) {
				return fmt.Errorf("device %s is held by claim %s (UID %s), which the kubelet has not unprepared",
					d.Name, other, other.UID)
			}
		}
	}
	return nil
}

// sameDevices reports whether both claims were allocated the same devices for the same requests.
func (c *Claim) sameDevices(other *Claim) bool {
	return slices.EqualFunc(c.Devices, other.Devices, func(a, b Device) bool {
		return a.Name == b.Name && a.Request == b.Request && a.AdminAccess == b.AdminAccess && a.ShareID == b.ShareID
	})
}

// validate returns an error if CDI cannot describe the edits of a device.
func (c *Claim) validate() error {
	for i := range c.Devices {
		d := &c.Devices[i]
		if err := d.Edits.Validate(); err != nil {
			return fmt.Errorf("container edits of device %s: %w", d.Name, err)
		}
		if len(d.Edits.DeviceNodes)+len(d.Edits.Mounts)+len(d.Edits.Env) == 0 {
			return fmt.Errorf("device %s has no device node, mount or variable to give to a container", d.Name)
		}
	}
	return nil
}

// ids returns the IDs of the devices, each once.
func (c *Claim) ids() []string {
	ids := map[string]bool{}
	for i := range c.Devices {
		ids[c.Devices[i].ID] = true
	}
	return slices.Sorted(maps.Keys(ids))
}
