// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	kubeletSocket = "kubelet.sock"

	// maxSocketPath is the longest path that fits into sockaddr_un.sun_path with its
	// final NUL (unix(7)). The kubelet dials the full path: a relative one does not help.
	maxSocketPath = 107

	// The shortest name that socketName returns is like "~6098a1044e4f6b7c.sock". maxDir leaves
	// room for it.
	socketSuffix = ".sock"
	hashDigits   = 16
	maxDir       = maxSocketPath - len("/~") - hashDigits - len(socketSuffix)

	// maxNamespace leaves room for "requests.", which quotas prepend to the name of a
	// resource (k8s.io/kubernetes/pkg/apis/core/v1/helper, IsExtendedResourceName).
	maxNamespace = 253 - len("requests.")
)

// dnsSubdomain matches a DNS-1123 subdomain (k8s.io/apimachinery/pkg/util/validation).
var dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// checkNamespace returns an error if the kubelet rejects resources of the namespace. The
// error states what is allowed.
func checkNamespace(namespace string) error {
	switch {
	case len(namespace) > maxNamespace:
		return fmt.Errorf("namespace %q has %d characters: at most %d are allowed",
			namespace, len(namespace), maxNamespace)
	case !dnsSubdomain.MatchString(namespace):
		return fmt.Errorf("invalid namespace %q: must be a DNS name of lower-case letters, digits, '-' and '.', "+
			"such as \"color.example.com\"", namespace)
	case strings.HasPrefix(namespace, "requests."):
		return fmt.Errorf("invalid namespace %q: Kubernetes reserves the prefix \"requests.\" for quotas", namespace)
	case strings.HasSuffix(namespace, "kubernetes.io"):
		return fmt.Errorf("invalid namespace %q: Kubernetes reserves names that end with \"kubernetes.io\"", namespace)
	}
	return nil
}

// fullName returns the name by which pods request the resource: "qat.intel.com/cy".
func fullName(namespace, resource string) string { return namespace + "/" + resource }

// socketName returns the name of the resource's socket in dir. The name is unique to the resource
// and the same in each process. It fits into a socket's path both in dir and in the kubelet's
// own directory. dir must have at most maxDir bytes.
//
// The name is like "qat.intel.com-cy.sock" if that fits and the namespace contains no '-'.
// Otherwise the namespace and the resource are shortened if necessary, and a hash of both follows:
// "a.com-b-c~6098a1044e4f6b7c.sock". The hash is necessary with a '-' in the namespace, because the
// name would not show where the namespace ends. No resource name contains '~'.
func socketName(dir, namespace, resource string) string {
	room := maxSocketPath - max(len(dir+"/"), len(pluginapi.DevicePluginPath)) - len(socketSuffix)
	if plain := namespace + "-" + resource; len(plain) <= room && !strings.Contains(namespace, "-") {
		return plain + socketSuffix
	}
	sum := sha256.Sum256([]byte(fullName(namespace, resource)))
	hash := "~" + hex.EncodeToString(sum[:])[:hashDigits]
	room -= len(hash + "-")
	if room < len("x-y") {
		return hash + socketSuffix
	}
	n := min(len(namespace), max(room/2, room-len(resource))) // if both are long, each gets half
	return namespace[:n] + "-" + resource[:min(len(resource), room-n)] + hash + socketSuffix
}
