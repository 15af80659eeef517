// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/dynamic-resource-allocation/api/metadata"
	"k8s.io/dynamic-resource-allocation/devicemetadata"
	cdilib "tags.cncf.io/container-device-interface/pkg/cdi"

	"qatplugin/devtree"
)

// containerFiles returns what a container with the devices finds at the paths of KEP-5304, as the
// library for containers reads it.
func containerFiles(t *testing.T, dir string, cdiNames []string) map[string]*metadata.DeviceMetadata {
	t.Helper()
	cache, err := cdilib.NewCache(cdilib.WithSpecDirs(dir), cdilib.WithAutoRefresh(false))
	if err != nil {
		t.Fatal(err)
	}
	container := &oci.Spec{}
	if _, err := cache.InjectDevices(container, cdiNames...); err != nil {
		t.Fatal(err)
	}
	files := map[string]*metadata.DeviceMetadata{}
	for _, m := range container.Mounts {
		file, err := os.Open(m.Source)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		var content metadata.DeviceMetadata
		if err := devicemetadata.DecodeMetadataFromStream(json.NewDecoder(file), &content); err != nil {
			t.Fatalf("%s: %v", m.Source, err)
		}
		files[m.Destination] = &content
	}
	return files
}

func TestContainersFindMetadataOfTheirDevices(t *testing.T) {
	dir, metadataDir := t.TempDir(), filepath.Join(t.TempDir(), "metadata")
	s := newStore(t, dir, "1", "2", "3")
	s.MetadataDir = metadataDir
	s.Attributes = func(d *devtree.Device) map[resourcev1.QualifiedName]resourcev1.DeviceAttribute {
		return map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"id": {StringValue: &d.ID}}
	}
	ref := s.allocate("a", "uid-a", "1", "2", "3")
	results := s.objects["default/a"].Status.Allocation.Devices.Results
	results[0].Request, results[1].Request, results[2].Request = "one", "any/first", "one"
	device := func(id string) metadata.Device {
		return metadata.Device{
			Driver: driver, Pool: pool, Name: id,
			Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"id": {StringValue: &id}},
		}
	}
	for podClaim, base := range map[string]string{
		"":    "/var/run/kubernetes.io/dra-device-attributes/resourceclaims/a/",
		"col": "/var/run/kubernetes.io/dra-device-attributes/resourceclaimtemplates/col/",
	} {
		s.objects["default/a"].Annotations = map[string]string{resourcev1.PodResourceClaimAnnotation: podClaim}
		object := metav1.ObjectMeta{Name: "a", Namespace: "default", UID: "uid-a", Generation: 1}
		var podClaimName *string
		if podClaim != "" {
			podClaimName = &podClaim
		}
		want := map[string]*metadata.DeviceMetadata{
			base + "one/color.example.com-metadata.json": {
				ObjectMeta: object, PodClaimName: podClaimName, Requests: []metadata.DeviceMetadataRequest{
					{Name: "one", Devices: []metadata.Device{device("1"), device("3")}},
				},
			},
			base + "any/color.example.com-metadata.json": {
				ObjectMeta: object, PodClaimName: podClaimName, Requests: []metadata.DeviceMetadataRequest{
					{Name: "any/first", Devices: []metadata.Device{device("2")}},
				},
			},
		}
		if diff := cmp.Diff(want, containerFiles(t, dir, names(s.mustPrepare(ref)))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		s.mustUnprepare(ref)
		entries, err := os.ReadDir(metadataDir)
		if err != nil || len(entries) > 0 {
			t.Errorf("after unprepare, %s has %v: %v", metadataDir, entries, err)
		}
	}
}

func TestMetadataOfClaimsThatHaveEndedIsRemoved(t *testing.T) {
	dir, metadataDir := t.TempDir(), t.TempDir()
	s := newStore(t, dir, "1")
	s.MetadataDir = metadataDir
	s.Attributes = func(*devtree.Device) map[resourcev1.QualifiedName]resourcev1.DeviceAttribute { return nil }
	s.mustPrepare(s.allocate("a", "uid-a", "1"))
	if err := os.MkdirAll(filepath.Join(metadataDir, "uid-b", "one"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveUnused(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(metadataDir, "uid-a", "r0", "metadata.json")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(metadataDir, "uid-b")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the metadata of a claim that has ended: %v", err)
	}
}
