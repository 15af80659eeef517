// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"regexp"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	version    = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
)

// validateSlice checks a slice by those rules of the API that a driver can break
// (k8s.io/kubernetes/pkg/apis/resource/validation/validation.go, ValidateResourceSlice). old is the
// slice that an update replaces, or nil.
func validateSlice(slice, old *resourcev1.ResourceSlice) (errs field.ErrorList) {
	path, spec := field.NewPath("spec"), &slice.Spec
	errs = append(errs, validation.ValidateObjectMeta(&slice.ObjectMeta, false, validation.NameIsDNSSubdomain,
		field.NewPath("metadata"))...)
	errs = append(errs, domain(spec.Driver, path.Child("driver"))...)
	if errors := utilvalidation.IsDNS1123Subdomain(spec.Pool.Name); len(errors) > 0 {
		errs = append(errs, field.Invalid(path.Child("pool", "name"), spec.Pool.Name, errors[0]))
	}
	if spec.Pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(path.Child("pool", "resourceSliceCount"), spec.Pool.ResourceSliceCount,
			"must be greater than zero"))
	}
	if spec.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(path.Child("pool", "generation"), spec.Pool.Generation,
			"must be greater than or equal to zero"))
	}
	if spec.NodeName == nil || *spec.NodeName == "" {
		errs = append(errs, field.Required(path.Child("nodeName"), "of a slice with devices of a node"))
	}
	if old != nil {
		immutable := validation.ValidateImmutableField
		errs = append(errs, immutable(spec.Pool.Name, old.Spec.Pool.Name, path.Child("pool", "name"))...)
		errs = append(errs, immutable(spec.Driver, old.Spec.Driver, path.Child("driver"))...)
		errs = append(errs, immutable(spec.NodeName, old.Spec.NodeName, path.Child("nodeName"))...)
	}
	limit, names := resourcev1.ResourceSliceMaxDevices, map[string]bool{}
	for i := range spec.Devices {
		d, path := &spec.Devices[i], path.Child("devices").Index(i)
		if names[d.Name] {
			errs = append(errs, field.Duplicate(path, d.Name))
		}
		names[d.Name] = true
		if len(d.Taints) > 0 {
			limit = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
		}
		errs = append(errs, validateDevice(d, path)...)
	}
	if len(spec.Devices) > limit {
		errs = append(errs, field.TooMany(path.Child("devices"), len(spec.Devices), limit))
	}
	return errs
}

func validateDevice(d *resourcev1.Device, path *field.Path) (errs field.ErrorList) {
	if errors := utilvalidation.IsDNS1123Label(d.Name); len(errors) > 0 {
		errs = append(errs, field.Invalid(path.Child("name"), d.Name, errors[0]))
	}
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.TooMany(path, n, resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice))
	}
	for name, value := range d.Attributes {
		path := path.Child("attributes").Key(string(name))
		id := string(name)
		if before, after, found := strings.Cut(id, "/"); found {
			errs = append(errs, domain(before, path)...)
			id = after
		}
		if len(id) > resourcev1.DeviceMaxIDLength || !identifier.MatchString(id) {
			errs = append(errs, field.Invalid(path, id, "must be a C identifier of at most 32 bytes"))
		}
		values := 0
		for _, isSet := range []bool{
			value.BoolValue != nil, value.IntValue != nil, value.StringValue != nil, value.VersionValue != nil,
		} {
			if isSet {
				values++
			}
		}
		if values != 1 {
			errs = append(errs, field.Invalid(path, "", "exactly one value must be specified"))
		}
		if s := value.StringValue; s != nil && len(*s) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(path.Child("string"), "", resourcev1.DeviceAttributeMaxValueLength))
		}
		const maxValue = resourcev1.DeviceAttributeMaxValueLength
		if v := value.VersionValue; v != nil && (len(*v) > maxValue || !version.MatchString(*v)) {
			errs = append(errs, field.Invalid(path.Child("version"), *v, "must be as in semver.org spec 2.0.0"))
		}
	}
	if len(d.Taints) > resourcev1.DeviceTaintsMaxLength {
		errs = append(errs, field.TooMany(path.Child("taints"), len(d.Taints), resourcev1.DeviceTaintsMaxLength))
	}
	for i, taint := range d.Taints {
		path := path.Child("taints").Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(taint.Key, path.Child("key"))...)
		for _, message := range utilvalidation.IsValidLabelValue(taint.Value) {
			errs = append(errs, field.Invalid(path.Child("value"), taint.Value, message))
		}
		effects := []resourcev1.DeviceTaintEffect{"NoExecute", "NoSchedule", "None"}
		if !slices.Contains(effects, taint.Effect) {
			errs = append(errs, field.NotSupported(path.Child("effect"), taint.Effect, effects))
		}
	}
	return errs
}

// domain checks the name of a driver or the domain of an attribute.
func domain(name string, path *field.Path) (errs field.ErrorList) {
	if len(name) > resourcev1.DeviceMaxDomainLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.DeviceMaxDomainLength))
	}
	for _, message := range utilvalidation.IsDNS1123Subdomain(strings.ToLower(name)) {
		errs = append(errs, field.Invalid(path, name, message))
	}
	return errs
}
