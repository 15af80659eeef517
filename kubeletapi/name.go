// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"qatplugin/devtree"
)

const (
	kubeletSocket = "kubelet.sock"

	// maxSocketPath is the longest path that fits into sockaddr_un.sun_path with its
	// final NUL (unix(7)). The kubelet dials the full path: a relative one does not help.
	maxSocketPath = 107

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

// socketPath returns the path of the resource's socket, "<dir>/qat.intel.com-cy.sock", or
// an error if it cannot have one.
func socketPath(dir, namespace, resource string) (string, error) {
	if err := devtree.CheckResourceName(resource); err != nil {
		return "", err
	}
	path := filepath.Join(dir, namespace+"-"+resource+".sock")
	return path, checkSocketPath(path)
}

func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("socket path %q has %d bytes: at most %d are allowed", path, len(path), maxSocketPath)
	}
	return nil
}
