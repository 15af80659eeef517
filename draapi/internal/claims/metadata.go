// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/api/metadata"
	"k8s.io/dynamic-resource-allocation/api/metadata/v1alpha1"

	"qatplugin/devtree"
)

// addMetadata writes a file for each request of the claim, which describes the devices of the
// request, and adds it to what containers with these devices get. It does nothing unless
// Config.MetadataDir is set.
//
// The contents and the paths in containers are those of KEP-5304
// (k8s.io/dynamic-resource-allocation/api/metadata, doc.go). Upstream's library gives each file a
// CDI device of its own (k8s.io/dynamic-resource-allocation/kubeletplugin, metadata.go). Here, it
// is part of the devices of the request, so that the claim has one CDI file.
func (s *Store) addMetadata(claim *Claim) error {
	if s.MetadataDir == "" {
		return nil
	}
	objects := map[string]*v1alpha1.DeviceMetadata{} // by request
	for i := range claim.Devices {
		d := &claim.Devices[i]
		request, _, _ := strings.Cut(d.Request, "/")
		object := objects[request]
		if object == nil {
			object = newMetadata(claim, d.Request)
			objects[request] = object
		}
		object.Requests[0].Devices = append(object.Requests[0].Devices, v1alpha1.Device{
			Driver: s.Driver, Pool: s.Pool, Name: d.Name, Attributes: s.Attributes(d.Device),
		})
	}
	paths := map[string]string{} // by request
	for request, object := range objects {
		path := filepath.Join(s.MetadataDir, claim.UID, request, "metadata.json")
		if err := writeJSON(path, object); err != nil {
			return fmt.Errorf("write the metadata of the claim's devices: %w", err)
		}
		paths[request] = path
	}
	for i := range claim.Devices {
		d := &claim.Devices[i]
		request, _, _ := strings.Cut(d.Request, "/")
		inContainer := metadata.ResourceClaimFilePath(s.Driver, claim.Name, request)
		if claim.podClaim != "" {
			inContainer = metadata.ResourceClaimTemplateFilePath(s.Driver, claim.podClaim, request)
		}
		d.Edits.Mounts = append(d.Edits.Mounts, devtree.Mount{
			HostPath: paths[request], ContainerPath: inContainer, ReadOnly: true,
		})
	}
	return nil
}

// newMetadata returns the metadata of a request without devices.
func newMetadata(claim *Claim, request string) *v1alpha1.DeviceMetadata {
	object := &v1alpha1.DeviceMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "DeviceMetadata"},
		ObjectMeta: metav1.ObjectMeta{
			Name: claim.Name, Namespace: claim.Namespace, UID: types.UID(claim.UID), Generation: 1,
		},
		Requests: []v1alpha1.DeviceMetadataRequest{{Name: request}},
	}
	if claim.podClaim != "" {
		object.PodClaimName = &claim.podClaim
	}
	return object
}

// writeJSON writes a file whose directory it creates, unless the file has that content already. A
// file that is there belongs to the same claim. The CDI file is written after it.
func writeJSON(path string, object any) error {
	text, err := json.MarshalIndent(object, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if before, err := os.ReadFile(path); err == nil && bytes.Equal(before, text) {
		return nil // a container may read it
	}
	return os.WriteFile(path, text, 0o644)
}

// removeMetadata removes the metadata files of a claim.
func (s *Store) removeMetadata(uid string) error {
	if s.MetadataDir == "" {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(s.MetadataDir, uid)); err != nil {
		return fmt.Errorf("remove the metadata of the claim's devices: %w", err)
	}
	return nil
}

// RemoveUnused removes metadata files of claims that are not prepared. A process leaves them
// behind if it is killed before it writes, or after it has removed, the CDI file.
func (s *Store) RemoveUnused(ctx context.Context) error {
	if s.MetadataDir == "" {
		return nil
	}
	entries, err := os.ReadDir(s.MetadataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock := func() {}
	if err == nil {
		unlock, err = s.lock(ctx) // another process may have written only the first file of a claim
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.Load(); err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := os.Lstat(s.path(e.Name())); errors.Is(err, fs.ErrNotExist) && uidPattern.MatchString(e.Name()) {
			if err := s.removeMetadata(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}
