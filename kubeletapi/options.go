package kubeletapi

import (
	"math/rand/v2"
	"time"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Option changes what a Manager is built with.
type Option func(*config)

// config is the Manager's world. Options for tests stand in the tests.
type config struct {
	dir string // of kubelet.sock and the plugins' sockets

	cdiDir, cdiClass string // see WithCDI; no directory, no CDI

	backOffFirst, backOffMax time.Duration // pauses between attempts to register, or to listen

	registerDeadline time.Duration // for one Register call, connecting included
	streamDeadline   time.Duration // from the end of a Register call to the kubelet's ListAndWatch
	settle           time.Duration // from the end of the kubelet's stream to a new registration with the same kubelet
	checkInterval    time.Duration // between looks when there is no directory watch
	stopDeadline     time.Duration // for what the plugin has to end when Run ends
	flushDeadline    time.Duration // for the kubelet to read its last answers then
	repeatInterval   time.Duration // between log lines of an error that stays the same

	watchDir func(dir string) (*dirWatch, error)
}

func defaultConfig() config {
	return config{
		dir: pluginapi.DevicePluginPath,
		// A kubelet.sock that was just bound may refuse for the moment until the kubelet listens: the first pause must be short.
		backOffFirst: 2 * time.Millisecond,
		backOffMax:   10 * time.Second,
		// The kubelet takes up to 10 s to connect to us before it answers (plugin/v1beta1/client.go, dial).
		registerDeadline: 10 * time.Second,
		streamDeadline:   10 * time.Second,
		// When a stream ends the kubelet drops the client that the resource has a moment later, even a new one, and marks its
		// devices unhealthy for good (plugin/v1beta1/handler.go, runClient). It must be done with that before we come again.
		settle:         100 * time.Millisecond,
		checkInterval:  2 * time.Second,
		stopDeadline:   5 * time.Second,
		flushDeadline:  200 * time.Millisecond,
		repeatInterval: 10 * time.Minute,
		watchDir:       watchDir,
	}
}

// WithKubeletDir sets the directory of kubelet.sock and of the plugins' sockets (default /var/lib/kubelet/device-plugins). It need
// not exist yet: it is waited for, and not made.
func WithKubeletDir(dir string) Option { return func(c *config) { c.dir = dir } }

// WithBackOff sets the pauses after failed attempts to register (default 2 ms and 10 s): first, then twice the one before, at
// most max. Up to half of each pause is taken off at random.
func WithBackOff(first, max time.Duration) Option {
	return func(c *config) { c.backOffFirst, c.backOffMax = first, max }
}

// WithRegisterDeadline sets how long one call of Register may take (default 10 s, as long as the kubelet takes to connect to a plugin).
func WithRegisterDeadline(d time.Duration) Option {
	return func(c *config) { c.registerDeadline = d }
}

// backOff says how long to wait after each failure.
type backOff struct{ last time.Duration }

func (b *backOff) next(c *config) time.Duration {
	b.last = min(max(c.backOffFirst, 2*b.last), c.backOffMax)
	return b.last - rand.N(b.last/2+1)
}

func (b *backOff) reset() { b.last = 0 }
