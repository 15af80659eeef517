// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tags.cncf.io/container-device-interface/pkg/parser"
	"tags.cncf.io/container-device-interface/specs-go"

	"qatplugin/devtree"
)

// A Spec is the content of a spec file that its owner writes as a whole, such as a file for the
// devices of one claim. A [Writer] does not use it.
type Spec struct {
	Kind        string            // "<vendor>/<class>"
	Annotations map[string]string // keys are like those of a Kubernetes object
	Devices     []SpecDevice      // at least one
}

// A SpecDevice is a device of a Spec.
type SpecDevice struct {
	Name  string                 // without vendor and class
	Edits devtree.ContainerEdits // CDI has no annotations for containers; CDINames are ignored
}

// specVersion is the first version of CDI with annotations (specs-go, version.go).
const specVersion = "0.6.0"

// Write replaces the spec file at path atomically: a reader gets the old file or the new one. It
// does not sync to disk, because no container that needs the file survives a crash of the machine.
// It returns an error if CDI does not allow a name, or a device without edits.
func (s *Spec) Write(path string) error {
	vendor, class := parser.ParseQualifier(s.Kind)
	if err := parser.ValidateVendorName(vendor); err != nil {
		return fmt.Errorf("CDI kind %q: %w", s.Kind, err)
	}
	if err := parser.ValidateClassName(class); err != nil {
		return fmt.Errorf("CDI kind %q: %w", s.Kind, err)
	}
	out := specs.Spec{Version: specVersion, Kind: s.Kind, Annotations: s.Annotations}
	for _, d := range s.Devices {
		if err := parser.ValidateDeviceName(d.Name); err != nil {
			return fmt.Errorf("CDI device name %q: %w", d.Name, err)
		}
		if len(d.Edits.DeviceNodes)+len(d.Edits.Mounts)+len(d.Edits.Env) == 0 {
			return fmt.Errorf("CDI device %q has no device node, mount or variable: CDI cannot describe it", d.Name)
		}
		out.Devices = append(out.Devices, specs.Device{Name: d.Name, ContainerEdits: containerEdits(&d.Edits)})
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(path, append(escapeForYAML(text), '\n'))
}

// ReadSpec reads the spec file at path, which another program may have written. The devices of the
// result have names, and no edits.
func ReadSpec(path string) (*Spec, error) {
	text, err := readText(path)
	if err != nil {
		return nil, err
	}
	var parsed struct {
		Kind        string
		Annotations map[string]string
		Devices     []struct{ Name string }
	}
	if err := json.Unmarshal(text, &parsed); err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	s := &Spec{Kind: parsed.Kind, Annotations: parsed.Annotations}
	for _, d := range parsed.Devices {
		s.Devices = append(s.Devices, SpecDevice{Name: d.Name})
	}
	return s, nil
}

// RemoveSpec removes the spec file at path. A missing file is not an error.
func RemoveSpec(path string) error { return removeFile(path) }

// RemoveAbandoned removes temporary files that a process left behind when it was killed while it
// replaced a spec file whose name starts with prefix. It leaves files alone that are younger than a
// minute, because a running process may still be writing them.
func RemoveAbandoned(dir, prefix string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // a directory without files, or one that writing a file reports
	}
	for _, e := range entries {
		name, isTemporary := strings.CutSuffix(e.Name(), temporarySuffix)
		if !isTemporary || !strings.HasPrefix(name, "."+prefix) || !strings.Contains(name, ".json.") {
			continue
		}
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) >= abandonedAge {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
