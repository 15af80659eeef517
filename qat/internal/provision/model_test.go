// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

// dpdkDriver is the driver that the plugin binds VFs to.
const dpdkDriver = device.DriverVFIO

// A model is a host with PFs that follow the rules of the kernel, a kubelet, and mode dpdk. Its
// methods may be called from any goroutine.
type model struct {
	dryRun  bool          // the plugin only logs what it would write
	onWrite func(w write) // called after each write; nil: nothing

	mu sync.Mutex // guards all following fields

	// The kernel:
	pfs          map[pci.Address]*facts
	incarnations uint64
	refused      map[pci.Address]map[write]error // writes that fail
	blocked      map[pci.Address]chan struct{}   // PFs whose VFs a process holds open; closed: it ends
	rescan       chan struct{}                   // has a value while sriov_numvfs of any PF is written
	noIOMMU      bool
	readTime     time.Duration       // how long a read takes
	readErr      error               // of each read
	earlier      bool                // the kernel is an earlier one, see store
	writes       []string            // "<address> <write>", also refused ones
	changed      func(a pci.Address) // sends an event of a PF; nil: no event
	crashed      bool                // the plugin has ended: its writes have no effect

	// The kubelet:
	held     map[pci.Address]string // VF → pod
	reported map[pci.Address]string // of these, those that it reports
	down     bool                   // it does not answer
	silent   bool                   // it does not answer before the plugin ends
	asked    int

	// Mode dpdk:
	withdrawn map[pci.Address]string
	allocated map[pci.Address]time.Time

	// taken are held VFs that the kernel was told to remove.
	taken []string
}

func newModel() *model {
	return &model{
		pfs:       map[pci.Address]*facts{},
		refused:   map[pci.Address]map[write]error{},
		blocked:   map[pci.Address]chan struct{}{},
		rescan:    make(chan struct{}, 1),
		held:      map[pci.Address]string{},
		reported:  map[pci.Address]string{},
		withdrawn: map[pci.Address]string{},
		allocated: map[pci.Address]time.Time{},
	}
}

// address parses an address that is right.
func address(text string) pci.Address {
	a, ok := pci.Parse(text)
	if !ok {
		panic(text)
	}
	return a
}

// family returns the family of a PF with this device ID.
func family(id uint16) *device.Family {
	f, _ := device.FamilyOf(0x8086, id)
	return f
}

// newPF returns a PF without VFs as its driver leaves it: sym;asym where it has services.
func newPF(text string, id uint16) *facts {
	f := &facts{
		address:   address(text),
		family:    family(id),
		driver:    family(id).PFDriver(),
		totalVFs:  4,
		autoprobe: "1",
	}
	if f.family.Services {
		f.state, f.services, f.autoReset, f.pmIdle = "up", "sym;asym", "off", "1"
	}
	return f
}

// add adds a PF, or replaces it by another incarnation.
func (m *model) add(f *facts) {
	m.mu.Lock()
	m.drop(f.address)
	m.incarnations++
	f.incarnation = m.incarnations
	m.pfs[f.address] = f
	m.mu.Unlock()
	m.event(f.address)
}

// remove removes a PF.
func (m *model) remove(a pci.Address) {
	m.mu.Lock()
	m.drop(a)
	m.mu.Unlock()
	m.event(a)
}

// drop removes a PF with its VFs. Pods lose them. m.mu is held.
func (m *model) drop(a pci.Address) {
	f := m.pfs[a]
	if f == nil {
		return
	}
	for _, vf := range f.vfs {
		delete(m.held, vf.address)
		delete(m.reported, vf.address)
	}
	delete(m.pfs, a)
}

// change changes a PF as an administrator or its driver does.
func (m *model) change(a pci.Address, change func(f *facts)) {
	m.mu.Lock()
	if f := m.pfs[a]; f != nil {
		change(f)
	}
	m.mu.Unlock()
	m.event(a)
}

func (m *model) event(a pci.Address) {
	m.mu.Lock()
	changed := m.changed
	m.mu.Unlock()
	if changed != nil {
		changed(a)
	}
}

// get returns a copy of what a PF is.
func (m *model) get(a pci.Address) *facts {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.pfs[a]
	if f == nil {
		return nil
	}
	c := *f
	c.vfs = slices.Clone(f.vfs)
	return &c
}

// setVFs adds or removes all VFs.
func (f *facts) setVFs(n int) {
	f.numVFs, f.vfs = n, nil
	for i := range n {
		a := f.address
		a.Function = uint8(i + 1)
		driver := ""
		if f.autoprobe == "1" {
			driver = f.family.VFDriver
		}
		f.vfs = append(f.vfs, vf{a, driver})
	}
}

// bind binds the VFs of a PF that is not withdrawn, as mode dpdk does.
func (m *model) bind(a pci.Address) {
	m.mu.Lock()
	if f := m.pfs[a]; f != nil && m.withdrawn[a] == "" {
		for i := range f.vfs {
			f.vfs[i].driver = dpdkDriver
		}
	}
	m.mu.Unlock()
	m.event(a)
}

// allocate gives a VF to a pod, if mode dpdk lets it. The kubelet reports that after a delay.
func (m *model) allocate(a pci.Address, pod string, delay time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	pf := a
	pf.Function = 0
	f := m.pfs[pf]
	i := -1
	if f != nil {
		i = slices.IndexFunc(f.vfs, func(v vf) bool { return v.address == a && v.driver == dpdkDriver })
	}
	if i < 0 || m.withdrawn[pf] != "" || m.held[a] != "" || m.crashed {
		return false
	}
	m.held[a] = pod
	m.allocated[a] = time.Now()
	time.AfterFunc(delay, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.held[a] == pod {
			m.reported[a] = pod
		}
	})
	return true
}

// allocateElsewhere gives a VF to a pod through another instance of the plugin, as during an
// update.
func (m *model) allocateElsewhere(a pci.Address, pod string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[a], m.reported[a] = pod, pod
}

// release ends the pod that holds a VF.
func (m *model) release(vf pci.Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, vf)
	delete(m.reported, vf)
}

// refuse makes one write to a PF fail, and no other. The zero write stands for none.
func (m *model) refuse(a pci.Address, w write, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused[a] = map[write]error{w: err}
}

// block makes writes that remove VFs of a PF wait until the channel is closed; nil: no longer.
func (m *model) block(a pci.Address, until chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocked[a] = until
}

// Writes of the plugin.

func (m *model) DryRun() bool { return m.dryRun }

func (m *model) Write(name, value string) error {
	name = strings.TrimPrefix(name, "bus/pci/devices/")
	text, attribute, _ := strings.Cut(name, "/")
	a, w := address(text), write{attribute, value}
	a.Function = 0 // a write to a VF counts as one to its PF
	m.mu.Lock()
	blocked := m.blocked[a]
	if f := m.pfs[a]; f == nil || !slices.ContainsFunc(f.vfs, func(v vf) bool { return v.driver != "" }) {
		blocked = nil // the process has a VF of the driver
	}
	m.mu.Unlock()
	if attribute == attrNumVFs { // pci_lock_rescan_remove (drivers/pci/iov.c, sriov_numvfs_store)
		m.rescan <- struct{}{}
		defer func() { <-m.rescan }()
	}
	if blocked != nil && (w == removeVFs || w == write{attrState, "down"} || attribute == attrUnbind) {
		<-blocked
	}
	time.Sleep(time.Millisecond)
	err := m.write(a, w)
	if m.onWrite != nil {
		m.onWrite(w)
	}
	m.event(a) // inotify reports writes, also those that fail
	if err == nil && attribute == attrNumVFs {
		time.AfterFunc(2*time.Millisecond, func() { m.bind(a) })
	}
	return err
}

// write does what the kernel does. All errors but errCrashed count as written.
func (m *model) write(a pci.Address, w write) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.pfs[a]
	if m.crashed {
		return errCrashed
	}
	m.writes = append(m.writes, a.String()+" "+w.String())
	switch {
	case f == nil:
		return unix.ENOENT
	case m.refused[a][w] != nil:
		return m.refused[a][w]
	}
	return m.store(f, w)
}

var errCrashed = errors.New("the plugin has ended")

// store is the store function of the attribute in the kernel.
func (m *model) store(f *facts, w write) error {
	switch w.attribute {
	case attrNumVFs:
		n, err := strconv.Atoi(w.value)
		switch {
		case err != nil || n < 0 || n > f.totalVFs:
			return unix.ERANGE
		case n == f.numVFs:
			return nil
		case f.driver != f.family.PFDriver():
			return unix.ENOENT
		case n == 0 && m.earlier:
			return unix.EINVAL // adf_sriov_configure of Linux 6.6: "Already enabled for this device"
		case n == 0:
			m.removeVFs(f)
			return nil
		case f.numVFs > 0:
			return unix.EBUSY
		case m.noIOMMU:
			return unix.EINVAL
		}
		f.setVFs(f.totalVFs)
		if f.state != "" {
			f.state = "up"
		}
		m.forgetPMIdle(f)
	case attrUnbind:
		i := slices.IndexFunc(f.vfs, func(v vf) bool { return v.address.String() == w.value })
		if i < 0 || f.vfs[i].driver == "" {
			return unix.ENODEV
		}
		m.take(f.vfs[i])
		f.vfs[i].driver = ""
	case attrAutoprobe:
		f.autoprobe = w.value
	case attrAutoReset:
		f.autoReset = w.value
	case attrState:
		if f.state = w.value; w.value == "down" {
			m.removeVFs(f)
			m.forgetPMIdle(f)
		}
	case attrServices, attrPMIdle:
		switch {
		case f.state != "down":
			return unix.EINVAL
		case w.attribute == attrPMIdle:
			f.pmIdle = w.value
		case f.family.CheckServices(strings.Split(w.value, ";")) != nil:
			return unix.EINVAL
		default:
			list := strings.Split(w.value, ";")
			slices.Sort(list) // the order of new kernels
			f.services = strings.Join(list, ";")
		}
	default:
		return unix.ENOENT
	}
	return nil
}

// forgetPMIdle resets pm_idle_enabled, as an earlier kernel does whenever the PF goes down, also
// before VFs are created (adf_init.c of Linux 6.6, adf_dev_shutdown_cache_cfg keeps only the
// services).
func (m *model) forgetPMIdle(f *facts) {
	if m.earlier && f.pmIdle != "" {
		f.pmIdle = "1"
	}
}

func (m *model) removeVFs(f *facts) {
	for _, vf := range f.vfs {
		m.take(vf)
		delete(m.allocated, vf.address)
	}
	f.setVFs(0)
}

// take records that a VF is taken from the pod that holds it, if one does.
func (m *model) take(v vf) {
	if pod := m.held[v.address]; pod != "" {
		m.taken = append(m.taken, fmt.Sprintf("%s of %s", v.address, pod))
	}
}

// The host of the plugin.

func (m *model) addresses() ([]pci.Address, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.pfs)), nil
}

func (m *model) read(a pci.Address, _ *device.Progress) readResult {
	m.mu.Lock()
	readTime, err := m.readTime, m.readErr
	m.mu.Unlock()
	time.Sleep(readTime)
	if err != nil {
		return readResult{err: err}
	}
	return readResult{facts: m.get(a), watched: []string{filepath.Join("/sys", a.String())}}
}

func (m *model) incarnation(a pci.Address) (uint64, error) {
	if f := m.get(a); f != nil {
		return f.incarnation, nil
	}
	return 0, nil
}

func (m *model) attribute(a pci.Address, name string) (string, error) {
	f := m.get(a)
	if f == nil {
		return "", unix.ENOENT
	}
	return map[string]string{attrState: f.state, attrPMIdle: f.pmIdle}[name], nil
}

func (m *model) vfs(a pci.Address) ([]vf, error) {
	if f := m.get(a); f != nil {
		return f.vfs, nil
	}
	return nil, unix.ENOENT
}

func (m *model) hasIOMMU() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.noIOMMU
}

// The kubelet and mode dpdk.

func (m *model) holders(ctx context.Context) (map[pci.Address]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if m.silent {
		m.mu.Unlock()
		<-ctx.Done()
		m.mu.Lock()
		return nil, ctx.Err()
	}
	if m.down {
		return nil, errors.New("the kubelet does not answer")
	}
	return maps.Clone(m.reported), nil
}

func (m *model) Withdraw(pf pci.Address, reason string) {
	m.mu.Lock()
	if reason == "" {
		delete(m.withdrawn, pf)
	} else {
		m.withdrawn[pf] = reason
	}
	m.mu.Unlock()
	if reason == "" {
		m.bind(pf)
	}
}

func (m *model) LastAllocated(vf pci.Address) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.allocated[vf]
}
