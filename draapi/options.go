// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"

	"k8s.io/client-go/rest"

	"qatplugin/devtree"
)

// An Option changes a setting of a [Driver]. Run reports an invalid one.
type Option func(*config)

// WithNodeName sets the name of the Node object, which is also the name of the pool of devices. It
// is required.
func WithNodeName(name string) Option { return func(c *config) { c.nodeName = name } }

// WithRESTConfig sets how to reach the API server. It is required. The Driver needs these
// permissions: get of nodes, get of resourceclaims, and list, watch, create, update and delete of
// resourceslices.
func WithRESTConfig(r *rest.Config) Option { return func(c *config) { c.rest = r } }

// WithKubeletRoot sets the kubelet's directory, by default /var/lib/kubelet. The Driver creates
// sockets in plugins/<driver> and plugins_registry below it. The paths of both must be the same
// for the Driver and the kubelet.
func WithKubeletRoot(dir string) Option { return func(c *config) { c.kubeletRoot = dir } }

// WithCDIDir sets the directory for the CDI spec files of claims, by default /var/run/cdi. It must
// be one from which the container runtime reads specs. The Driver creates it if it is missing.
func WithCDIDir(dir string) Option { return func(c *config) { c.cdiDir = dir } }

// WithPodUID sets the UID of the driver's pod, and so allows a rolling update: the old and the new
// instance serve different sockets at the same time and share the state of claims. Without it, a
// second instance waits until the first one has ended. Both instances must use the same
// directories. The kubelet supports this since Kubernetes 1.33.
func WithPodUID(uid string) Option { return func(c *config) { c.podUID = uid } }

// WithGroupBy names an attribute, such as "pfAddress". Devices with equal values are in the same
// ResourceSlice unless they are too many for one, so that a change that concerns all of them takes
// one write. The first eight values have a slice of their own; further ones share slices.
func WithGroupBy(attribute string) Option { return func(c *config) { c.groupBy = attribute } }

// WithEviction sets which unhealthy devices evict the pods that use them: those for which evict
// returns true get a taint with the effect NoExecute, and all others NoSchedule. By default, no
// device evicts pods. evict must depend only on the device, and may be called from any goroutine.
// It is not called for devices that are unhealthy because the container runtime ignores CDI
// devices.
func WithEviction(evict func(*devtree.Device) bool) Option {
	return func(c *config) { c.evict = evict }
}

// WithDeviceMetadata also gives containers files with the attributes of their devices, as
// described by KEP-5304 (k8s.io/dynamic-resource-allocation/api/metadata).
func WithDeviceMetadata() Option { return func(c *config) { c.metadata = true } }

// WithAssumedCDI states that the container runtime supports CDI, whatever version the Node reports.
// It is for containerd 1.7.12 or a newer 1.7, where CDI is a setting, which the Node does not
// show. An older one cannot read the specs of claims, and pods fail with an error.
func WithAssumedCDI() Option { return func(c *config) { c.assumeCDI = true } }

// WithObserver adds an [Observer]. It may be given several times.
func WithObserver(o Observer) Option {
	return func(c *config) { c.observers = append(c.observers, o) }
}

type config struct {
	nodeName    string
	rest        *rest.Config
	kubeletRoot string
	cdiDir      string
	podUID      string
	groupBy     string
	evict       func(*devtree.Device) bool
	metadata    bool
	assumeCDI   bool
	observers   []Observer
}

func defaultConfig() config {
	return config{kubeletRoot: "/var/lib/kubelet", cdiDir: "/var/run/cdi"}
}

// dnsSubdomain matches a DNS-1123 subdomain (k8s.io/apimachinery/pkg/util/validation).
var dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

const (
	maxDriverName = 63  // resourcev1.DriverNameMaxLength
	maxNodeName   = 253 // resourcev1.PoolNameMaxLength, and of any object
)

// checkName returns an error if Kubernetes rejects the name of a driver. The error states what is
// allowed.
func checkName(name string) error {
	if len(name) > maxDriverName {
		return fmt.Errorf("driver name %q has %d characters: at most %d are allowed", name, len(name), maxDriverName)
	}
	if !dnsSubdomain.MatchString(name) || name[0] >= '0' && name[0] <= '9' {
		// It is also a vendor of CDI, which must begin with a letter.
		return fmt.Errorf("invalid driver name %q: must be a DNS name of lower-case letters, digits, '-' and '.' "+
			"that begins with a letter, such as \"color.example.com\"", name)
	}
	return nil
}

// uidPattern matches what may be part of a socket's name.
var uidPattern = regexp.MustCompile(`^[-A-Za-z0-9]*$`)

// resolve checks the settings and makes the directories absolute.
func (c *config) resolve() error {
	switch {
	case c.nodeName == "":
		return errors.New("WithNodeName is required: the name of the Node object")
	case len(c.nodeName) > maxNodeName || !dnsSubdomain.MatchString(c.nodeName):
		return fmt.Errorf("invalid node name %q: must be a DNS name of at most %d characters", c.nodeName, maxNodeName)
	case c.rest == nil:
		return errors.New("WithRESTConfig is required: how to reach the API server")
	case !uidPattern.MatchString(c.podUID):
		return fmt.Errorf("invalid pod UID %q: must consist of letters, digits and '-'", c.podUID)
	}
	for what, dir := range map[string]*string{"kubelet": &c.kubeletRoot, "CDI": &c.cdiDir} {
		if *dir == "" {
			return fmt.Errorf("invalid %s directory \"\": must be a path", what)
		}
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return fmt.Errorf("resolve %s directory %q: %w", what, *dir, err)
		}
		*dir = abs
	}
	return nil
}
