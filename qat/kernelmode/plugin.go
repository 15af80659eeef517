package kernelmode

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/qat"
	"qatplugin/qat/internal/follow"
)

// Config is what a Plugin is told. The zero value of a field means its default.
type Config struct {
	SysfsRoot     string        // where the host's sysfs is seen here; /sys
	DevRoot       string        // where the host's /dev is seen here; /dev
	EtcRoot       string        // the directory of the devices' configuration files, <type>_dev<N>.conf; /etc
	ADFCtl        string        // the program that is asked for the devices, by path or by name in $PATH; adf_ctl
	ADFCtlTimeout time.Duration // after which the program is killed; 10s
	AuditInterval time.Duration // how often everything is read again to find what no event told; 10m. Negative: never

	// Sources open what the plugin listens to, and OpenWatcher what follows directories (nil: nothing does). Each is opened before the
	// first look, and again, with back-off, while it cannot be or when it broke.
	Sources     []func() (events.Source, error)
	OpenWatcher func() (qat.Watcher, error)
}

// Plugin reports the QAT processes that a host is configured for. It is made for kubeletapi's Manager.
type Plugin struct {
	follow.Vitals
	cfg  Config
	left atomic.Pointer[[]Omission]
}

// New makes a Plugin. An error names the value that is not allowed.
func New(cfg Config) (*Plugin, error) {
	if cfg.ADFCtl == "" {
		cfg.ADFCtl = defaultADFCtl
	}
	if cfg.ADFCtlTimeout == 0 {
		cfg.ADFCtlTimeout = defaultADFCtlTimeout
	}
	if cfg.AuditInterval == 0 {
		cfg.AuditInterval = defaultAuditInterval
	}
	if cfg.ADFCtlTimeout < 0 {
		return nil, fmt.Errorf("timeout of adf_ctl %v: allowed is more than 0", cfg.ADFCtlTimeout)
	}
	var err error
	for _, r := range []struct {
		root   *string
		preset string
	}{{&cfg.SysfsRoot, "/sys"}, {&cfg.DevRoot, "/dev"}, {&cfg.EtcRoot, "/etc"}} {
		if *r.root == "" {
			*r.root = r.preset
		}
		if *r.root, err = realRoot(*r.root); err != nil {
			return nil, err
		}
	}
	return &Plugin{cfg: cfg, Vitals: follow.NewVitals(follow.NewHearing(cfg.SysfsRoot, follow.Writer{Root: cfg.SysfsRoot}))}, nil
}

// realRoot is a root without links on its way, as inotify needs it. One that is not there yet is taken as it is.
func realRoot(root string) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(root); err == nil {
		return real, nil
	}
	return root, nil
}

// Watch publishes a Tree of what is there, and a new one whenever that changed, until ctx ends. It is called once. publish is called
// from one goroutine; everything that Watch started has ended when it returns.
func (p *Plugin) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	ctl := adfCtl{program: p.cfg.ADFCtl, timeout: p.cfg.ADFCtlTimeout}
	return p.watch(ctx, ctl.status, publish)
}

func (p *Plugin) watch(ctx context.Context, status func(context.Context) ([]byte, error), publish func(*devtree.Tree)) error {
	ctx, cancel := context.WithCancel(ctx)
	l := newLoop(p, func() ([]byte, error) { return status(ctx) }, publish)
	defer l.runs.Wait()
	defer l.listeners.Wait()
	defer cancel()
	open := p.cfg.Sources
	if p.cfg.OpenWatcher != nil {
		open = append(slices.Clone(open), l.watches.Open(p.cfg.OpenWatcher))
	}
	for _, open := range open {
		deliver := follow.Listener{Open: open, Sink: l, Closed: &l.vitals.Hearing.Closed}.Listen() // subscribe, then look
		l.listeners.Go(func() { deliver(ctx) })
	}
	l.loop(ctx)
	return nil
}

// LeftOut lists what is there but not served, and why, as of the last look. It may be called at any time; the list is not to be changed.
func (p *Plugin) LeftOut() []Omission {
	if left := p.left.Load(); left != nil {
		return *left
	}
	return nil
}

// PostAllocate completes what one container gets: QAT_SECTION_NAME_<resource>_0 and so on name the sections of its units in the order in which
// the kubelet asked for them, QAT_SECTION_NAME that of the first. It looks once more whether each node is there, and is an error that
// names the one that is not.
func (p *Plugin) PostAllocate(_ context.Context, resource string, devices []*devtree.Device, edits *devtree.ContainerEdits) error {
	if edits.Env == nil {
		edits.Env = make(map[string]string, len(devices)+1)
	}
	seen := map[string]bool{} // units share their nodes
	for k, d := range devices {
		section := d.Env[sectionVariable]
		if section == "" {
			return fmt.Errorf("allocate %q: the unit names no section", d.ID)
		}
		for _, n := range d.DeviceNodes {
			if seen[n.HostPath] {
				continue
			}
			seen[n.HostPath] = true
			if !exists(filepath.Join(p.cfg.DevRoot, strings.TrimPrefix(n.HostPath, "/dev/"))) {
				return fmt.Errorf("allocate %q: the node %s has gone", d.ID, n.HostPath)
			}
		}
		edits.Env[sectionVariable+"_"+resource+"_"+strconv.Itoa(k)] = section
		if k == 0 {
			edits.Env[sectionVariable] = section
		}
	}
	klog.V(3).InfoS("Allocated", "resource", resource, "units", len(devices))
	return nil
}
