// SPDX-License-Identifier: Apache-2.0

package devtree

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Health is the state of a device, as the kubelet spells it.
type Health string

// The states that the device plugin API defines
// (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1, constants.go).
const (
	Healthy   Health = "Healthy"
	Unhealthy Health = "Unhealthy"
)

// A plugin may check its devices once more before a container gets them. It wraps one of
// these errors if a device is no longer what the Tree says, and the kubelet learns of it.
var (
	ErrGone  = errors.New("the device has gone")       // it no longer exists
	ErrUnfit = errors.New("the device cannot be used") // it exists, but not in a usable state
)

// Device is one allocatable unit of a resource. It must not be modified once it is part
// of a Tree.
type Device struct {
	ID        string // unique within the resource, like a PCI address; with CDI also a CDI device name
	Health    Health // new containers only get Healthy devices
	Reason    string // why the device is Unhealthy, for humans; empty if it is Healthy
	NUMANodes []int  // the closest NUMA nodes, ascending; empty if the platform does not say

	ContainerEdits // what a container with the device gets

	// The following fields are for the DRA API (package draapi). The device plugin API has nothing
	// like them.

	// Cause is the class of Reason for programs, such as "heartbeat". It may be empty. It must be a
	// label value of Kubernetes: at most 63 letters, digits, '-', '_' and '.'.
	Cause string

	// Attributes maps names to values of type string, bool, int64 or Version, at most 32 of them. A
	// name is a C identifier of at most 32 bytes, such as "pfIndex". A DNS subdomain of at most 63
	// bytes and a slash may precede it, as in "resource.kubernetes.io/numaNode". A string has at
	// most 64 bytes.
	Attributes map[string]any
}

// Equal reports whether d and other are equal in all fields, or both nil.
func (d *Device) Equal(other *Device) bool {
	if d == other {
		return true
	}
	if d == nil || other == nil {
		return false
	}
	return d.ID == other.ID && d.Health == other.Health && d.Reason == other.Reason &&
		slices.Equal(d.NUMANodes, other.NUMANodes) &&
		slices.Equal(d.DeviceNodes, other.DeviceNodes) && slices.Equal(d.Mounts, other.Mounts) &&
		maps.Equal(d.Env, other.Env) && maps.Equal(d.Annotations, other.Annotations) &&
		slices.Equal(d.CDINames, other.CDINames) &&
		d.Cause == other.Cause && maps.Equal(d.Attributes, other.Attributes)
}

// clone returns a deep copy of d.
func (d *Device) clone() *Device {
	c := *d
	c.NUMANodes = slices.Clone(d.NUMANodes)
	c.DeviceNodes = slices.Clone(d.DeviceNodes)
	c.Mounts = slices.Clone(d.Mounts)
	c.Env = maps.Clone(d.Env)
	c.Annotations = maps.Clone(d.Annotations)
	c.CDINames = slices.Clone(d.CDINames)
	c.Attributes = maps.Clone(d.Attributes)
	return &c
}

// check returns an error that states the first rule that d breaks.
func (d *Device) check() error {
	if d == nil {
		return errors.New("device is nil")
	}
	if d.ID == "" {
		return errors.New("device without an ID")
	}
	if rule := d.brokenRule(); rule != "" {
		return fmt.Errorf("device %q: %s", d.ID, rule)
	}
	if err := d.Validate(); err != nil {
		return fmt.Errorf("device %q: %w", d.ID, err)
	}
	return nil
}

func (d *Device) brokenRule() string {
	idFlaw, reasonFlaw := textFlaw(d.ID), textFlaw(d.Reason)
	causeFlaw, attributesFlaw := causeFlaw(d.Cause), attributesFlaw(d.Attributes)
	switch {
	case idFlaw != "": // gRPC rejects a list with such an ID as a whole
		return "ID " + idFlaw
	case reasonFlaw != "":
		return fmt.Sprintf("reason %q %s", d.Reason, reasonFlaw)
	case d.Health != Healthy && d.Health != Unhealthy:
		return fmt.Sprintf("invalid health %q: must be %q or %q", d.Health, Healthy, Unhealthy)
	case d.Health == Unhealthy && d.Reason == "":
		return fmt.Sprintf("%s without a reason", Unhealthy)
	case d.Health == Healthy && d.Reason != "":
		return fmt.Sprintf("%s with a reason", Healthy)
	case !slices.Equal(d.NUMANodes, slices.Compact(slices.Sorted(slices.Values(d.NUMANodes)))):
		return fmt.Sprintf("NUMA nodes %v are not strictly ascending", d.NUMANodes)
	case len(d.NUMANodes) > 0 && d.NUMANodes[0] < 0:
		return fmt.Sprintf("negative NUMA node %d: must be omitted if the platform does not say", d.NUMANodes[0])
	case d.Health == Healthy && d.Cause != "":
		return fmt.Sprintf("%s with a cause", Healthy)
	case causeFlaw != "":
		return causeFlaw
	case attributesFlaw != "":
		return attributesFlaw
	}
	return ""
}
