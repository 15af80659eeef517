// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"qatplugin/qat/internal/pci"
)

// A Writer writes to the attributes of sysfs. [sysfs.Writer] implements it.
type Writer interface {
	Write(name, value string) error
	DryRun() bool
}

// An applier makes the writes of a plan.
type applier struct {
	writer   Writer
	host     host
	takedown bool // the PF is withdrawn, and no container holds its VFs, so they may be removed
}

// A result is what became of the writes of a plan.
type result struct {
	refused map[write]string // writes that the kernel refuses, with the reason
	err     error            // of the first write that failed; nil: all were made
	retry   error            // of the first write that failed and may succeed later; nil: none
}

// progress is the write that is being made. Any goroutine may use it.
type progress struct {
	mu    sync.Mutex // guards all following fields
	write write      // the zero write: none
	since time.Time
}

func (p *progress) set(w write) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write, p.since = w, time.Now()
}

func (p *progress) get() (write, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.write, p.since
}

// apply makes writes to a PF. After a write that fails, it still makes those that bring the PF up
// and create its VFs, if it has taken it down or could not.
func (a *applier) apply(f *facts, writes []write, p *progress) (r result) {
	defer p.set(write{})
	staysUp := false // because it could not be taken down
	services := ""   // that the driver has accepted; "": none
	pmIdle := ""     // the same
	for _, w := range writes {
		if staysUp && slices.Contains([]string{attrState, attrServices, attrPMIdle}, w.attribute) {
			continue
		}
		if w == removeVFs || w == (write{attrState, "down"}) && a.takedown {
			a.unbindVFs(f, p)
		}
		if w.attribute == attrNumVFs && pmIdle != "" && !a.hasPMIdle(f, pmIdle) {
			pmIdle = "" // another program has changed it since
		}
		p.set(w)
		err := a.make(f, w)
		if err == nil {
			switch {
			case w.attribute == attrServices:
				services = w.value
			case w.attribute == attrPMIdle:
				pmIdle = w.value
			case w.attribute == attrNumVFs && pmIdle != "":
				a.checkPMIdle(f, pmIdle, &r)
			}
			continue
		}
		r.err = cmp.Or(r.err, err)
		switch {
		case w == write{attrState, "up"} && services != "" && cannotStart(err) && a.revertServices(f, p):
			r.refuse(write{attrServices, services}, fmt.Sprintf(
				"the PF does not come up with the services %s, so it has its old ones: %v: see dmesg",
				services, errnoOf(err)))
			continue
		case isRefusal(err) && !a.isDisturbed(f, w):
			r.refuse(w, a.explain(w, err))
		default:
			r.retry = cmp.Or(r.retry, err)
		}
		switch w {
		case write{attrState, "down"}:
			staysUp = true
		case write{attrState, "up"}, removeVFs:
			return r
		}
	}
	return r
}

// refuse records that the kernel refuses a write.
func (r *result) refuse(w write, reason string) {
	if r.refused == nil {
		r.refused = map[write]string{}
	}
	r.refused[w] = reason
}

// hasPMIdle reports whether pm_idle_enabled has a value. It reports true if it cannot be read.
func (a *applier) hasPMIdle(f *facts, value string) bool {
	now, err := a.host.attribute(f.address, attrPMIdle)
	return err != nil || now == value
}

// checkPMIdle checks that pm_idle_enabled is what it was before VFs were created. Linux 6.6, for
// example, forgets the value then (adf_init.c, adf_dev_shutdown_cache_cfg). The PF would otherwise
// be taken down again and again.
func (a *applier) checkPMIdle(f *facts, want string, r *result) {
	if !a.hasPMIdle(f, want) {
		r.refuse(write{attrPMIdle, want}, fmt.Sprintf("the kernel does not keep %q in %s when it creates VFs: "+
			"use a newer kernel, or take pmIdle out of the rule", want, attrPMIdle))
	}
}

// cannotStart reports whether the error of bringing a PF up means that it cannot start with its
// configuration, such as with services that its firmware lacks (adf_init.c, adf_dev_init).
func cannotStart(err error) bool { return errors.Is(err, unix.EFAULT) || isRefusal(err) }

// revertServices brings a PF that is down up with the services that it had. It reports whether the
// PF is up.
func (a *applier) revertServices(f *facts, p *progress) bool {
	for _, w := range []write{{attrServices, f.services}, {attrState, "up"}} {
		p.set(w)
		if a.make(f, w) != nil {
			return false
		}
	}
	return true
}

// isDisturbed reports whether a write that needs the PF to be down failed because another program
// has brought it up.
func (a *applier) isDisturbed(f *facts, w write) bool {
	if w.attribute != attrServices && w.attribute != attrPMIdle {
		return false
	}
	state, err := a.host.attribute(f.address, attrState)
	return err != nil || state != "down"
}

var (
	errGone        = errors.New("the PF is gone")
	errVFsAppeared = errors.New("another program has created VFs of the PF")
)

// unbindVFs unbinds the VFs of a PF from their drivers. The write that removes VFs would do that,
// too, but kernels since 6.1.158 then hold a lock that all PCI devices share (drivers/pci/iov.c,
// pci_lock_rescan_remove). While a process has a VF open, no other PF could get or lose VFs, and no
// device of the host could be added or removed. The unbinding of a VF that is open blocks only that
// VF.
//
// unbindVFs leaves errors to the write that follows.
func (a *applier) unbindVFs(f *facts, p *progress) {
	vfs, err := a.host.vfs(f.address)
	if err != nil {
		return
	}
	for _, vf := range vfs {
		if vf.driver == "" {
			continue
		}
		w := write{attrUnbind, vf.address.String()}
		p.set(w)
		if a.checkIncarnation(f) != nil || a.writer.Write("bus/pci/devices/"+w.value+"/"+w.attribute, w.value) != nil {
			return
		}
	}
	isBound := func(v vf) bool { return v.driver != "" }
	for wait := time.Millisecond; wait <= takeEffect/2; wait *= 2 {
		if vfs, err = a.host.vfs(f.address); err != nil || !slices.ContainsFunc(vfs, isBound) {
			return
		}
		time.Sleep(wait)
	}
}

// checkIncarnation returns an error if the PF is gone. A write through a path could reach another
// device that got the address since.
func (a *applier) checkIncarnation(f *facts) error {
	incarnation, err := a.host.incarnation(f.address)
	if err == nil && incarnation != f.incarnation {
		err = errGone
	}
	return err
}

// make makes one write.
func (a *applier) make(f *facts, w write) error {
	if err := a.checkIncarnation(f); err != nil {
		return err
	}
	if w == (write{attrState, "down"}) && !a.takedown {
		// The PF had no VFs when it was read. Taking it down removes those that it has now.
		switch vfs, err := a.host.vfs(f.address); {
		case err != nil:
			return err
		case len(vfs) > 0:
			return errVFsAppeared
		}
	}
	if err := a.writer.Write("bus/pci/devices/"+f.address.String()+"/"+w.attribute, w.value); err != nil {
		return err
	}
	if w.attribute != attrNumVFs {
		return nil
	}
	n, err := strconv.Atoi(w.value)
	if err != nil {
		return err
	}
	return a.awaitVFs(f.address, n)
}

// takeEffect is how long a write to sriov_numvfs or driver/unbind may take until it has effect. In
// sysfs, it has when the write returns. On a look-alike host it follows a moment later.
const takeEffect = time.Second

// awaitVFs waits until a PF has n VFs.
func (a *applier) awaitVFs(pf pci.Address, n int) error {
	for wait := time.Millisecond; ; wait *= 2 {
		vfs, err := a.host.vfs(pf)
		switch {
		case err != nil:
			return err
		case len(vfs) == n:
			return nil
		case wait > takeEffect/2:
			return fmt.Errorf("write %d to %s of %s: it has %d VFs afterwards", n, attrNumVFs, pf, len(vfs))
		}
		time.Sleep(wait)
	}
}

// isRefusal reports whether the same write will fail again, unless the driver, the device or the
// rights of the process change.
func isRefusal(err error) bool {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case unix.EINVAL, unix.ERANGE, unix.EOPNOTSUPP, unix.EPERM, unix.EACCES, unix.EROFS:
		return true
	}
	return false
}

// explain returns the reason why a write was refused, and what to do, as far as that is known.
func (a *applier) explain(w write, err error) string {
	reason := fmt.Sprintf("the kernel refuses %q for %s: %v", w.value, w.attribute, errnoOf(err))
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return reason + ": mount the host's /sys writable, and run as root"
	case w.attribute == attrNumVFs && w.value != "0" && !a.host.hasIOMMU():
		return "the QAT driver refuses VFs without an IOMMU: enable it in the firmware, and boot with " +
			"intel_iommu=on (" + reason + ")"
	case w == removeVFs:
		return reason + ": unbind the PF's driver to remove its VFs, or use a newer kernel"
	case w.attribute == attrServices:
		return reason + ": configure services that this kernel supports"
	}
	return reason
}

func errnoOf(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// logWrites logs a plan before its writes.
func logWrites(f *facts, rule string, p *plan, repeated bool) {
	level := klog.Level(0)
	if repeated {
		level = 2
	}
	klog.V(level).InfoS("Provisioning a PF", "pf", f.address, "rule", rule, "differs", p.differs, "writes", p.String())
}
