// SPDX-License-Identifier: Apache-2.0

package publisher

import (
	"maps"
	"sync"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
)

// A sliceCache knows the newest state of the slices of the driver on its node: from a watch, and
// from the answers to own writes, which arrive earlier. It is the store of a [cache.Reflector].
// The slices in it must not be modified.
type sliceCache struct {
	isOwn func(name string) bool // whether the publisher writes slices of that name
	wake  func()                 // called after each change

	mu       sync.Mutex // guards all following fields
	synced   bool       // the watch has listed all slices
	slices   map[string]*resourcev1.ResourceSlice
	versions map[string]string // resource version of the newest state, also of own slices that were deleted
	deleted  int               // how many own slices the watch has seen deleted
}

var _ cache.ReflectorStore = (*sliceCache)(nil)

func newSliceCache(isOwn func(string) bool, wake func()) *sliceCache {
	return &sliceCache{
		isOwn:    isOwn,
		wake:     wake,
		slices:   map[string]*resourcev1.ResourceSlice{},
		versions: map[string]string{},
	}
}

// all returns the slices by name, and whether they are all there are.
func (c *sliceCache) all() (all map[string]*resourcev1.ResourceSlice, synced bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.slices), c.synced
}

// deletions returns how many own slices the watch has seen deleted.
func (c *sliceCache) deletions() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deleted
}

// stored takes over the answer to an own write.
func (c *sliceCache) stored(slice *resourcev1.ResourceSlice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(slice)
}

func (c *sliceCache) set(slice *resourcev1.ResourceSlice) {
	if isNewer(slice.ResourceVersion, c.versions[slice.Name]) {
		c.slices[slice.Name], c.versions[slice.Name] = slice, slice.ResourceVersion
	}
}

// remove forgets a slice that does not exist at the resource version.
func (c *sliceCache) remove(name, version string) {
	if !isNewer(version, c.versions[name]) {
		return
	}
	if c.slices[name] != nil && c.isOwn(name) {
		c.deleted++
	}
	delete(c.slices, name)
	if c.isOwn(name) {
		c.versions[name] = version // so that an answer that arrives late does not bring it back
	} else {
		delete(c.versions, name)
	}
}

// forget removes a slice that an own request has deleted, unless it is newer.
func (c *sliceCache) forget(slice *resourcev1.ResourceSlice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.versions[slice.Name] == slice.ResourceVersion {
		delete(c.slices, slice.Name)
	}
}

// replace takes over a list of all slices that was requested after the last own write. If it is
// older than what the cache has, the API server was restored from a backup, or the watch is ahead
// of the list. The list counts in both cases: the next request corrects what the watch knew.
func (c *sliceCache) replace(list *resourcev1.ResourceSliceList) {
	objects := make([]any, len(list.Items))
	for i := range list.Items {
		objects[i] = &list.Items[i]
	}
	c.mu.Lock()
	for name, version := range c.versions {
		if isNewer(version, list.ResourceVersion) {
			delete(c.versions, name)
		}
	}
	c.mu.Unlock()
	_ = c.Replace(objects, list.ResourceVersion) // never fails
}

// Add implements [cache.ReflectorStore].
func (c *sliceCache) Add(object any) error { return c.Update(object) }

// Update implements [cache.ReflectorStore].
func (c *sliceCache) Update(object any) error {
	if slice, ok := object.(*resourcev1.ResourceSlice); ok {
		c.stored(slice)
		c.wake()
	}
	return nil
}

// Delete implements [cache.ReflectorStore].
func (c *sliceCache) Delete(object any) error {
	if slice, ok := object.(*resourcev1.ResourceSlice); ok {
		c.mu.Lock()
		c.remove(slice.Name, slice.ResourceVersion)
		c.mu.Unlock()
		c.wake()
	}
	return nil
}

// Replace implements [cache.ReflectorStore].
func (c *sliceCache) Replace(objects []any, version string) error {
	c.mu.Lock()
	exist := map[string]bool{}
	for _, o := range objects {
		if slice, ok := o.(*resourcev1.ResourceSlice); ok {
			exist[slice.Name] = true
			c.set(slice)
		}
	}
	for name := range c.slices {
		if !exist[name] {
			c.remove(name, version)
		}
	}
	c.synced = true
	c.mu.Unlock()
	c.wake()
	return nil
}

// Resync implements [cache.ReflectorStore].
func (c *sliceCache) Resync() error { return nil }

// isNewer reports whether a resource version is newer than another one, which may be empty. Since
// Kubernetes 1.35, resource versions of one resource can be compared (KEP-5504); before, etcd made
// them such that they could.
func isNewer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || order > 0
}
