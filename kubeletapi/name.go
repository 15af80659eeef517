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

	// maxSocketPath is what fits into sockaddr_un.sun_path with its final NUL (unix(7)). The kubelet dials the same path, so there is no
	// way around it with a shorter name of ours.
	maxSocketPath = 107

	// maxNamespace leaves room for the "requests." that quota puts before a resource's name (k8s.io/kubernetes/pkg/apis/core/v1/helper,
	// IsExtendedResourceName).
	maxNamespace = 253 - len("requests.")
)

// dnsSubdomain is k8s.io/apimachinery/pkg/util/validation's DNS-1123 subdomain.
var dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// CheckNamespace says why the kubelet would refuse resources of the namespace ("qat.intel.com"), nil when it takes them.
func CheckNamespace(namespace string) error {
	switch {
	case len(namespace) > maxNamespace:
		return fmt.Errorf("namespace %q has %d characters, at most %d are allowed", namespace, len(namespace), maxNamespace)
	case !dnsSubdomain.MatchString(namespace):
		return fmt.Errorf("namespace %q: a DNS name of lower case letters, digits, '-' and '.' is wanted, for example \"color.example.com\"", namespace)
	case strings.HasPrefix(namespace, "requests."):
		return fmt.Errorf("namespace %q: Kubernetes keeps \"requests.\" for quota", namespace)
	case namespace == "kubernetes.io" || strings.HasSuffix(namespace, "kubernetes.io"):
		return fmt.Errorf("namespace %q: Kubernetes keeps kubernetes.io for itself", namespace)
	}
	return nil
}

// ResourceName is the name by which pods ask for the resource: "qat.intel.com/cy".
func ResourceName(namespace, resource string) string { return namespace + "/" + resource }

// SocketName is the name of the resource's socket in the kubelet's directory: "qat.intel.com-cy.sock".
func SocketName(namespace, resource string) string { return namespace + "-" + resource + ".sock" }

// socketPath is the path of the resource's socket, or why there can be none.
func socketPath(dir, namespace, resource string) (string, error) {
	if err := devtree.CheckResourceName(resource); err != nil {
		return "", err
	}
	path := filepath.Join(dir, SocketName(namespace, resource))
	return path, checkSocketPath(path)
}

func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("socket path %q has %d bytes, at most %d fit into a socket's address (sun_path)", path, len(path), maxSocketPath)
	}
	return nil
}
