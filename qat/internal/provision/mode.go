// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/hostwatch"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/provision/config"
	"qatplugin/qat/internal/readpool"
)

// A Withdrawer keeps VFs from containers. Package dpdk implements it.
type Withdrawer interface {
	// Withdraw withdraws the VFs of a PF: from its return on, no container gets one of them, for
	// this reason. An empty reason offers them again.
	Withdraw(pf pci.Address, reason string)

	// LastAllocated returns when a VF was last allocated by this process; zero: never.
	LastAllocated(vf pci.Address) time.Time
}

// Config configures the mode.
type Config struct {
	Dir        string // directory of the configuration files, without symbolic links
	Node       string // name of this node; "" if unknown
	Driver     string // the DPDK driver
	Sysfs      string // root, without symbolic links
	Reader     *device.Reader
	Writer     Writer // does all writes to sysfs
	Withdrawer Withdrawer
	Served     []string // kernel VF drivers of the families whose VFs the plugin binds; nil: all
	NoBind     bool     // the plugin binds no VFs
	Force      bool     // remove VFs that containers hold

	// Holders returns which VFs pods hold: VF → "namespace/pod". It returns within seconds, and at
	// once when the context ends. HeldBy is what they are if not pods, for reasons.
	Holders func(context.Context) (map[pci.Address]string, error)
	HeldBy  string

	// FirstLook is called once, when all PFs have been read and those that are to change are
	// withdrawn, but for PFs whose reads the kernel blocks.
	FirstLook func()
}

// mode provisions the PFs of one host.
type mode struct {
	cfg        Config
	ctx        context.Context
	classifier classifier
	rules      rules
	host       host
	load       func() (*config.Config, error)
	watches    *hostwatch.Watches
	mark       func(key Key, since time.Time)
	pool       *readpool.Pool[pci.Address, readResult, device.Progress]
	jobs       jobs

	// Of the loop's goroutine:
	config     *config.Config // in force; nil: none was ever good
	configErr  string         // why the current files cannot be used; "" if they can
	configAt   time.Time      // when to read the files again; zero: not without an event
	pfs        map[pci.Address]*pf
	owner      map[pci.Address]pci.Address // VF → PF
	unreadable map[pci.Address]*failedRead // functions, PFs or not, whose last read failed
	skipped    map[string]string
	listErr    error
	wake       time.Time // when Reconcile must run; zero: never
	firstLook  sync.Once
}

// New returns the mode for one call of [hostwatch.Run].
func New(ctx context.Context, cfg Config, h hostwatch.Host[Key]) hostwatch.Mode[Key] {
	host := &sysfsHost{sysfs: cfg.Sysfs, reader: cfg.Reader, watches: h.Watches}
	load := func() (*config.Config, error) { return config.Load(cfg.Dir, cfg.Node, cfg.Driver) }
	return newMode(ctx, cfg, h, host, load)
}

func newMode(
	ctx context.Context, cfg Config, h hostwatch.Host[Key], host host, load func() (*config.Config, error),
) *mode {
	done := func() { h.Mark(Key{kind: keyDone}, time.Now()) }
	return &mode{
		cfg:        cfg,
		ctx:        ctx,
		classifier: classifier{sysfs: cfg.Sysfs, dir: cfg.Dir},
		rules:      rules{isBound: cfg.Reader.IsBound, served: cfg.Served, noBind: cfg.NoBind},
		host:       host,
		load:       load,
		watches:    h.Watches,
		mark:       h.Mark,
		pool:       readpool.New(host.read, done),
		jobs:       jobs{done: done},
		pfs:        map[pci.Address]*pf{},
		owner:      map[pci.Address]pci.Address{},
		unreadable: map[pci.Address]*failedRead{},
		skipped:    map[string]string{},
	}
}

// Classify returns the key that an event concerns.
func (m *mode) Classify(e *events.Event) (Key, hostwatch.Verdict) { return m.classifier.classify(e) }

// Reconcile reads the PFs that the batch names or that are due, and starts what follows for each
// PF. An audit reads all of them.
func (m *mode) Reconcile(now time.Time, b *hostwatch.Batch[Key]) hostwatch.State {
	m.wake = time.Time{}
	addresses := m.named(b.Keys, now)
	if slices.Contains(b.Keys, Key{kind: keyConfig}) {
		m.configAt = hostwatch.Earlier(m.configAt, now.Add(settleTime))
	}
	isDue := !m.configAt.IsZero() && !now.Before(m.configAt)
	if (b.All || b.Audit || isDue) && m.loadConfig() {
		addresses = slices.AppendSeq(addresses, maps.Keys(m.pfs)) // inotify does not report drivers of VFs
	}
	addresses = append(addresses, m.endJobs(now)...)
	if b.All || b.Audit {
		addresses = append(addresses, m.all()...)
	}
	m.read(append(addresses, m.due(now)...), now)
	clear(m.skipped)
	for a, pf := range m.pfs {
		if reason := m.reconcile(a, pf, now); reason != "" {
			m.skipped[a.String()] = reason
		}
		m.wakeAt(pf.readAt)
	}
	for a, read := range m.unreadable {
		m.wakeAt(read.at)
		if m.pfs[a] == nil && m.config != nil && m.config.File() != "" {
			m.skipped[a.String()] = read.reason
		}
	}
	m.wakeAt(m.configAt)
	m.wakeAt(m.pool.NextOverdue())
	m.firstLook.Do(m.cfg.FirstLook)
	return hostwatch.State{Skipped: m.skipped, Next: m.wake, Complete: m.listErr == nil}
}

func (m *mode) wakeAt(at time.Time) { m.wake = hostwatch.Earlier(m.wake, at) }

// loadConfig reads the configuration, and reports whether it changed. If it is wrong, the last good
// one stays in force.
func (m *mode) loadConfig() (changed bool) {
	m.configAt = time.Time{}
	m.watches.Want(m.cfg.Dir, 0)
	loaded, err := m.load()
	if err != nil {
		if text := err.Error(); text != m.configErr {
			m.configErr = text
			klog.ErrorS(err, "Cannot use the provisioning configuration, the last good one stays in force",
				"directory", m.cfg.Dir, "inForce", m.config != nil)
		}
		return false
	}
	if m.config != nil && m.configErr == "" && reflect.DeepEqual(loaded, m.config) {
		return false
	}
	m.config, m.configErr = loaded, ""
	if loaded.File() == "" {
		klog.InfoS("There is no provisioning configuration for this node, nothing is provisioned",
			"directory", m.cfg.Dir, "node", m.cfg.Node)
		return true
	}
	klog.InfoS("Provisioning configuration loaded", "file", loaded.File())
	return true
}

// Outcome describes what became of a key.
func (m *mode) Outcome(key Key) string {
	a := key.address
	if owner, ok := m.owner[a]; ok {
		a = owner
	}
	pf := m.pfs[a]
	switch {
	case key.kind != keyFunction:
		return "reconciled " + key.String()
	case pf == nil:
		return "no PF there"
	case pf.desired == nil:
		return "no rule for the PF"
	case m.skipped[a.String()] != "":
		return "not provisioned: " + m.skipped[a.String()]
	case pf.job != nil:
		return "the PF is being provisioned"
	}
	return "provisioned"
}

// Close waits for reads and writes in progress, for a limited time. Writes to a PF that have begun
// go on, so that the PF is not left down.
func (m *mode) Close() {
	if !hostwatch.AwaitClosed(m.jobs.Wait, m.pool.Close) {
		klog.InfoS("Ending while a PF is provisioned, or the kernel blocks a read of one")
	}
}
