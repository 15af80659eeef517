package qat

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/qat/internal/follow"
)

// Config is what a Plugin is told. The zero value of a field means its default.
type Config struct {
	SysfsRoot       string        // where the host's sysfs is seen here; /sys
	DevRoot         string        // where the host's /dev is seen here; /dev
	DPDKDriver      string        // the driver that VFs are bound to: one of [DPDKDrivers]; vfio-pci
	VFIOInterface   string        // how containers get VFIO devices: one of [VFIOInterfaces]; auto
	KernelVFDrivers []string      // the families that are served, by their VF drivers: some of [KernelVFDrivers]; all
	MaxNumDevices   int           // how many VFs are listed at most; 0: no limit
	Policy          Policy        // which of the free VFs a container should get
	ObserveOnly     bool          // bind nothing
	Steal           bool          // bind also VFs that a driver other than their own kernel driver has
	DryRun          bool          // say each write to sysfs in the log, and do none
	HealthInterval  time.Duration // how often each PF is asked for its heartbeat, at least 1s; 5s. Negative: never
	AuditInterval   time.Duration // how often everything is read again to find what no event told; 10m. Negative: never

	// Sources open what the plugin listens to, and OpenWatcher what follows directories (nil: nothing does). Each is opened before the
	// first look, and again, with back-off, while it cannot be or when it broke.
	Sources     []func() (events.Source, error)
	OpenWatcher func() (Watcher, error)
}

const (
	defaultHealthInterval = 5 * time.Second
	// MinHealthInterval keeps twice the distance that the slowest driver asks for between two heartbeats (500 ms, Gen2).
	MinHealthInterval = time.Second

	// settlePatience is how long Watch waits for reads and writes under way when its context ended.
	settlePatience = time.Second

	defaultAuditInterval = 10 * time.Minute
	// deafAuditInterval is how often everything is read while a source is broken or a directory could not be watched.
	deafAuditInterval = 30 * time.Second
)

// DPDKDrivers are the drivers that VFs can be bound to.
func DPDKDrivers() []string { return []string{driverVFIO, driverUIO} }

// Plugin reports the QAT VFs of a host. It is made for kubeletapi's Manager.
type Plugin struct {
	preference
	follow.Vitals
	cfg       Config
	host      *host
	noteWrite func(file, value string) // for tests: each write to sysfs, or what a dry run would write
}

// New makes a Plugin. An error names the value that is not allowed, and what is.
func New(cfg Config) (*Plugin, error) {
	if cfg.SysfsRoot == "" {
		cfg.SysfsRoot = "/sys"
	}
	if cfg.DevRoot == "" {
		cfg.DevRoot = "/dev"
	}
	if cfg.DPDKDriver == "" {
		cfg.DPDKDriver = driverVFIO
	}
	if cfg.VFIOInterface == "" {
		cfg.VFIOInterface = vfioAuto
	}
	if len(cfg.KernelVFDrivers) == 0 {
		cfg.KernelVFDrivers = KernelVFDrivers()
	}
	if cfg.HealthInterval == 0 {
		cfg.HealthInterval = defaultHealthInterval
	}
	if cfg.HealthInterval > 0 && cfg.HealthInterval < MinHealthInterval {
		return nil, fmt.Errorf("health interval of %v: allowed is %v and more", cfg.HealthInterval, MinHealthInterval)
	}
	if cfg.AuditInterval == 0 {
		cfg.AuditInterval = defaultAuditInterval
	}
	if !slices.Contains(DPDKDrivers(), cfg.DPDKDriver) {
		return nil, fmt.Errorf("DPDK driver %q: allowed are %s", cfg.DPDKDriver, strings.Join(DPDKDrivers(), ", "))
	}
	if !slices.Contains(VFIOInterfaces(), cfg.VFIOInterface) {
		return nil, fmt.Errorf("VFIO interface %q: allowed are %s", cfg.VFIOInterface, strings.Join(VFIOInterfaces(), ", "))
	}
	for _, d := range cfg.KernelVFDrivers {
		if !slices.Contains(KernelVFDrivers(), d) {
			return nil, fmt.Errorf("kernel VF driver %q: allowed are %s", d, strings.Join(KernelVFDrivers(), ", "))
		}
	}
	if cfg.MaxNumDevices < 0 {
		return nil, fmt.Errorf("limit of %d devices: allowed is 0, no limit, and more", cfg.MaxNumDevices)
	}
	var err error
	for _, root := range []*string{&cfg.SysfsRoot, &cfg.DevRoot} {
		if *root, err = realRoot(*root); err != nil {
			return nil, err
		}
	}
	if err := cfg.Policy.check(); err != nil {
		return nil, err
	}
	p := &Plugin{cfg: cfg, host: newHost(cfg)}
	p.Vitals = follow.NewVitals(follow.NewHearing(cfg.SysfsRoot, follow.Writer{Root: cfg.SysfsRoot, Dry: cfg.DryRun}))
	p.policy = cfg.Policy
	return p, nil
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

func newHost(cfg Config) *host {
	return &host{sysfs: cfg.SysfsRoot, dev: cfg.DevRoot, dpdkDriver: cfg.DPDKDriver, vfio: cfg.VFIOInterface, watch: func(string, uint64) {}}
}

// Watch publishes a Tree of what is there, and a new one whenever that changed, until ctx ends. It is called once. publish is called
// from one goroutine. Everything that Watch started has ended when it returns, but for a read or write that the kernel keeps waiting.
func (p *Plugin) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := newLoop(p, publish)
	b := newBinder(ctx, p.host, l.mark)
	p.configure(b)
	l.fold = newFold(p.host, b, follow.NewDirectories(), p.cfg.KernelVFDrivers, p.cfg.MaxNumDevices)
	l.fold.prefer = &p.preference
	l.fold.health.interval, l.fold.health.mark = p.cfg.HealthInterval, l.mark
	l.fold.health.answered = l.fold.faults.clear
	defer settle(func() {
		b.wait()
		l.fold.health.wait()
	})
	open := p.cfg.Sources
	if p.cfg.OpenWatcher != nil {
		open = append(slices.Clone(open), l.fold.directories.Open(p.cfg.OpenWatcher))
	}
	for _, open := range open {
		deliver := follow.Listener{Open: open, Sink: l, Closed: &l.vitals.Hearing.Closed}.Listen() // subscribe, then look
		l.listeners.Go(func() { deliver(ctx) })
	}
	defer l.listeners.Wait()
	defer cancel()
	l.run(ctx)
	return nil
}

func (p *Plugin) configure(b *binder) {
	b.observe, b.steal, b.write.Dry, b.write.Note = p.cfg.ObserveOnly, p.cfg.Steal, p.cfg.DryRun, p.noteWrite
}

// settle waits for what reads and writes sysfs, a while: the kernel can keep a reader or writer waiting for as long as a workload holds a
// device, and nothing can call it back. What is still waiting then ends with the process.
func settle(wait func()) {
	done := make(chan struct{})
	go func() {
		wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(settlePatience):
		klog.InfoS("Ending while the kernel keeps a read or write of sysfs waiting")
	}
}

// PostAllocate completes what one container gets: QAT0, QAT1 and so on name its VFs in the order in which the kubelet asked for them.
// It looks once more whether each VF is there and usable, and is an error that names the one that is not.
func (p *Plugin) PostAllocate(_ context.Context, _ string, devices []*devtree.Device, edits *devtree.ContainerEdits) error {
	if edits.Env == nil {
		edits.Env = make(map[string]string, len(devices))
	}
	for i, d := range devices {
		a, ok := ParseAddress(d.ID)
		if !ok {
			return fmt.Errorf("allocate %q: it is not a PCI address", d.ID)
		}
		now, err := newHost(p.cfg).look(a)
		switch {
		case err != nil:
			return fmt.Errorf("allocate %s: %w", d.ID, err)
		case now == nil:
			return fmt.Errorf("allocate %s: %w", d.ID, devtree.ErrGone)
		case !p.host.bound(now.Driver):
			return fmt.Errorf("allocate %s: %w: driver %s does not hold it any more", d.ID, devtree.ErrUnfit, p.cfg.DPDKDriver)
		case now.Node.Missing != "":
			return fmt.Errorf("allocate %s: %w: %s", d.ID, devtree.ErrUnfit, now.Node.Missing)
		case len(d.DeviceNodes) > 0 && d.DeviceNodes[0].HostPath != "/dev/"+now.Node.Name:
			return fmt.Errorf("allocate %s: %w: its node is /dev/%s now", d.ID, devtree.ErrUnfit, now.Node.Name)
		}
		edits.Env["QAT"+strconv.Itoa(i)] = d.ID
	}
	klog.V(3).InfoS("Allocated", "devices", len(devices))
	return nil
}
