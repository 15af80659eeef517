// SPDX-License-Identifier: Apache-2.0

package devtree

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// The limits of the DRA API (k8s.io/api/resource/v1, types.go). Lengths are in bytes.
const (
	maxAttributes       = 32 // ResourceSliceMaxAttributesAndCapacitiesPerDevice
	maxAttributeDomain  = 63 // DeviceMaxDomainLength
	maxAttributeName    = 32 // DeviceMaxIDLength
	maxAttributeValue   = 64 // DeviceAttributeMaxValueLength
	maxCause            = 63 // of a label value (k8s.io/apimachinery/pkg/util/validation, IsValidLabelValue)
	attributeNameSyntax = "must be a C identifier, optionally after a DNS subdomain and a slash"
)

// Version is an attribute value that compares as a semantic version (semver.org, 2.0.0): "1.2.3".
type Version string

// IsValid reports whether the DRA API accepts v: a semantic version of at most 64 bytes.
func (v Version) IsValid() bool {
	return len(v) <= maxAttributeValue && semanticVersion.MatchString(string(v))
}

// semanticVersion matches what the DRA API accepts as a version
// (k8s.io/kubernetes/pkg/apis/resource/validation, semverRe).
var semanticVersion = regexp.MustCompile(`^` + versionNumber + `\.` + versionNumber + `\.` + versionNumber +
	`(-` + preRelease + `(\.` + preRelease + `)*)?` +
	`(\+` + build + `(\.` + build + `)*)?$`)

const (
	versionNumber = `(0|[1-9]\d*)`
	preRelease    = `(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)`
	build         = `[0-9a-zA-Z-]+`
)

// attributesFlaw returns why the DRA API rejects the attributes of a device, or ""
// (k8s.io/kubernetes/pkg/apis/resource/validation, validateDevice).
func attributesFlaw(attributes map[string]any) string {
	if len(attributes) > maxAttributes {
		return fmt.Sprintf("%d attributes: at most %d are allowed", len(attributes), maxAttributes)
	}
	for name, value := range attributes {
		if attributeFlaw(name, value) != "" {
			return firstAttributeFlaw(attributes)
		}
	}
	return ""
}

// firstAttributeFlaw returns the flaw of the attribute with the lowest name that has one.
func firstAttributeFlaw(attributes map[string]any) string {
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		if flaw := attributeFlaw(name, attributes[name]); flaw != "" {
			return flaw
		}
	}
	return ""
}

func attributeFlaw(name string, value any) string {
	domain, id, qualified := strings.Cut(name, "/")
	if !qualified {
		domain, id = "", name
	}
	switch {
	case len(domain) > maxAttributeDomain:
		return fmt.Sprintf("attribute %q: domain has %d bytes: at most %d are allowed",
			name, len(domain), maxAttributeDomain)
	case len(id) > maxAttributeName:
		return fmt.Sprintf("attribute %q: name has %d bytes: at most %d are allowed", name, len(id), maxAttributeName)
	case !isIdentifier(id), qualified && !isSubdomain(domain):
		return fmt.Sprintf("invalid attribute name %q: %s", name, attributeNameSyntax)
	}
	if flaw := valueFlaw(value); flaw != "" {
		return fmt.Sprintf("attribute %q: %s", name, flaw)
	}
	return ""
}

func valueFlaw(value any) string {
	switch v := value.(type) {
	case bool, int64:
	case string:
		if flaw := textFlaw(v); flaw != "" {
			return fmt.Sprintf("value %q %s", v, flaw)
		}
		if len(v) > maxAttributeValue {
			return fmt.Sprintf("value %q has %d bytes: at most %d are allowed", v, len(v), maxAttributeValue)
		}
	case Version:
		if !v.IsValid() {
			return fmt.Sprintf("invalid version %q: must be a semantic version of at most %d bytes, such as 1.2.3",
				v, maxAttributeValue)
		}
	default:
		return fmt.Sprintf("value of type %T: must be string, bool, int64 or Version", v)
	}
	return ""
}

// isIdentifier reports whether s is a C identifier
// (k8s.io/apimachinery/pkg/api/validate/content, IsCIdentifier).
func isIdentifier(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '_' && !isLetter(c) && (i == 0 || !isDigit(c)) {
			return false
		}
	}
	return s != ""
}

// isSubdomain reports whether s is a DNS subdomain in lower or upper case, like the name of a
// driver (k8s.io/kubernetes/pkg/apis/core/validation, ValidateCSIDriverName).
func isSubdomain(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; c != '-' && !isLetter(c) && !isDigit(c) {
				return false
			}
		}
	}
	return true
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

// causeFlaw returns why the cause of a device cannot be the value of a taint, or "".
func causeFlaw(cause string) string {
	switch {
	case cause == "":
		return ""
	case len(cause) > maxCause:
		return fmt.Sprintf("cause %q has %d bytes: at most %d are allowed", cause, len(cause), maxCause)
	case !labelText.MatchString(cause):
		return fmt.Sprintf("invalid cause %q: %s", cause, labelTextSyntax)
	}
	return ""
}
