// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"qatplugin/internal/dirwatch"
)

// An Option changes a setting of a [Manager]. Run reports an invalid one.
type Option func(*config)

// WithKubeletDir sets the directory of kubelet.sock and of the plugins' sockets. The
// default is /var/lib/kubelet/device-plugins. The Manager waits for the directory if it
// does not exist and never creates it.
func WithKubeletDir(dir string) Option { return func(c *config) { c.dir = dir } }

// config holds the settings of a Manager. Only tests change those without an Option.
type config struct {
	dir              string
	cdiEnabled       bool // see WithCDI
	cdiDir, cdiClass string
	observers        []Observer

	backOffMin, backOffMax time.Duration // between attempts to register or to listen
	registerTimeout        time.Duration // for one Register call, including the connection
	streamTimeout          time.Duration // between Register and the kubelet's ListAndWatch
	gracePeriod            time.Duration // before a registration that the kubelet may confuse with an ending one
	pollInterval           time.Duration // without a watch of the directory
	compareInterval        time.Duration // between two checks that the watched directory was not replaced
	stopTimeout            time.Duration // for the plugin's methods to return when Run ends
	preStartTimeout        time.Duration // for PreStartContainer to return then
	flushTimeout           time.Duration // for the kubelet to read its last answers then
	omitTimeout            time.Duration // before a resource that the Trees omit is withdrawn
	repeatInterval         time.Duration // between log messages of an error that persists

	pace pace // of each stream

	watchDir func(dir string) (*dirwatch.Watch, error)
}

func defaultConfig() config {
	return config{
		dir: pluginapi.DevicePluginPath,
		// The kubelet's socket exists and refuses connections for a moment before the
		// kubelet listens on it, so the first pause is short.
		backOffMin: 2 * time.Millisecond,
		backOffMax: 10 * time.Second,
		// The kubelet takes up to 10 s to connect to the plugin before it answers
		// (pkg/kubelet/cm/devicemanager/plugin/v1beta1/client.go, dial).
		registerTimeout: 10 * time.Second,
		streamTimeout:   10 * time.Second,
		// Shortly after a stream ends, the kubelet removes whatever client the resource
		// then has, even a new one, and marks its devices unhealthy for good
		// (pkg/kubelet/cm/devicemanager/plugin/v1beta1/handler.go, runClient).
		gracePeriod:     100 * time.Millisecond,
		pollInterval:    2 * time.Second,
		compareInterval: 10 * time.Second,
		stopTimeout:     5 * time.Second,
		preStartTimeout: pluginapi.KubeletPreStartContainerRPCTimeoutInSecs * time.Second,
		omitTimeout:     5 * time.Minute,
		flushTimeout:    200 * time.Millisecond,
		repeatInterval:  10 * time.Minute,
		// In a storm, such as 64 VFs that are bound one after the other, changes are less than
		// a millisecond apart. With 20 ms, a stream sends about 50 lists per second.
		pace:     pace{burst: 10, refill: time.Second, min: 2 * time.Millisecond, max: 20 * time.Millisecond},
		watchDir: dirwatch.New,
	}
}

// resolve checks the settings and makes the kubelet's directory absolute. It returns an error if
// the path of the directory leaves no room for the names of sockets.
func (c *config) resolve() error {
	if c.cdiEnabled && c.cdiDir == "" {
		return errors.New("invalid CDI directory \"\": must be a path, such as /var/run/cdi")
	}
	if c.dir == "" {
		return errors.New("invalid kubelet directory \"\": must be a path, such as " + pluginapi.DevicePluginPath)
	}
	dir, err := filepath.Abs(c.dir)
	if err != nil {
		return fmt.Errorf("resolve kubelet directory %q: %w", c.dir, err)
	}
	if len(dir) > maxDir {
		return fmt.Errorf("kubelet directory %q has %d bytes: at most %d are allowed, because the paths of sockets "+
			"are limited to %d", dir, len(dir), maxDir, maxSocketPath)
	}
	c.dir = dir
	return nil
}
