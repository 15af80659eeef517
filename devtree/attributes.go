// SPDX-License-Identifier: Apache-2.0

package devtree

import "regexp"

// The limits of the DRA API (k8s.io/api/resource/v1, types.go).
const (
	maxAttributeValue = 64 // DeviceAttributeMaxValueLength, bytes
)

// Version is an attribute value that compares as a semantic version (semver.org, 2.0.0): "1.2.3".
type Version string

// IsValid reports whether the DRA API accepts v: a semantic version of at most 64 bytes.
func (v Version) IsValid() bool {
	return len(v) <= maxAttributeValue && semanticVersion.MatchString(string(v))
}

// semanticVersion is the rule of the DRA API (k8s.io/kubernetes/pkg/apis/resource/validation,
// semverRe).
var semanticVersion = regexp.MustCompile(`^` + number + `\.` + number + `\.` + number +
	`(-` + preRelease + `(\.` + preRelease + `)*)?` +
	`(\+` + build + `(\.` + build + `)*)?$`)

const (
	number     = `(0|[1-9]\d*)`
	preRelease = `(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)`
	build      = `[0-9a-zA-Z-]+`
)
