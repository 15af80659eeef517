// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// controlFile is the file that switches telemetry on and off, in the PF's directory in debugfs. It
// contains 0 while telemetry is off, else the number of samples that the driver keeps.
const controlFile = "telemetry/control"

// A Writer writes attributes below the root of sysfs. [sysfs.Writer] implements it.
type Writer interface {
	Write(name, value string) error
	DryRun() bool
}

// A Switch keeps the telemetry of PFs on. Its methods may be called from any goroutine, and none of
// them but Close waits for the kernel.
//
// The driver creates the directory telemetry/ when a PF goes up, with telemetry off, and removes it
// when the PF goes down. A Switch writes to control once for each such directory, if telemetry is
// off, so an administrator who switches it off again prevails. It never changes telemetry that
// somebody else has switched on.
type Switch struct {
	sysfs  string // root of the host's sysfs, without symbolic links
	writer Writer

	running sync.WaitGroup // goroutines of PFs
	mu      sync.Mutex     // guards the following fields
	closed  bool
	pfs     map[pci.Address]*switched
}

// switched is the state of a PF. Its goroutine runs while notified is set.
type switched struct {
	debugfs  string // its driver's directory in debugfs
	notified bool   // there is something to do
	running  bool   // its goroutine runs

	// Of its goroutine:
	handled uint64 // inode of the directory telemetry/ that was handled; 0: none
	on      bool   // the Switch has switched telemetry on in that directory
	problem string // the last error, which was logged
}

// NewSwitch returns a Switch that knows no PFs. The caller must close it.
func NewSwitch(root string, writer Writer) *Switch {
	return &Switch{sysfs: root, writer: writer, pfs: map[pci.Address]*switched{}}
}

// Notify reports that a PF may have come up, and which is its driver's directory in debugfs.
func (s *Switch) Notify(pf pci.Address, debugfs string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	p := s.pfs[pf]
	if p == nil {
		p = &switched{}
		s.pfs[pf] = p
	}
	p.debugfs = debugfs
	s.notify(pf, p)
}

// notify starts the goroutine of a PF, or makes it run once more.
func (s *Switch) notify(pf pci.Address, p *switched) {
	p.notified = true
	if !p.running {
		p.running = true
		s.running.Go(func() { s.run(pf, p) })
	}
}

// closeTimeout is how long Close waits for the kernel.
const closeTimeout = 2 * time.Second

// Close switches off what the Switch has switched on. It waits for that, but not longer than
// closeTimeout: the kernel can block a write for as long as it likes.
func (s *Switch) Close() {
	s.mu.Lock()
	s.closed = true
	for pf, p := range s.pfs {
		s.notify(pf, p)
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closeTimeout):
		klog.InfoS("Leaving device telemetry on, because the kernel blocks an access to it")
	}
}

// run is the goroutine of a PF.
func (s *Switch) run(pf pci.Address, p *switched) {
	for {
		s.mu.Lock()
		if !p.notified {
			p.running = false
			s.mu.Unlock()
			return
		}
		p.notified = false
		debugfs, closed := p.debugfs, s.closed
		s.mu.Unlock()
		if closed {
			s.switchOff(pf, p, debugfs)
		} else {
			s.switchOn(pf, p, debugfs)
		}
	}
}

// switchOn switches telemetry on unless this was done already or it is on.
func (s *Switch) switchOn(pf pci.Address, p *switched, debugfs string) {
	inode, err := sysfs.Inode(filepath.Join(debugfs, "telemetry"))
	if err != nil {
		p.handled, p.on = 0, false // the PF is down, or its driver or the kernel has no telemetry
		return
	}
	if inode == p.handled {
		return
	}
	control, err := readControl(debugfs)
	if err == nil && control == "0" {
		err = s.write(debugfs, "1")
	}
	switch {
	case sysfs.IsAbsent(err):
		return // the PF went down
	case err != nil:
		s.report(pf, p, err)
		return
	}
	p.handled, p.on, p.problem = inode, control == "0" && !s.writer.DryRun(), ""
}

// switchOff switches telemetry off if this Switch has switched it on, and nobody has changed it
// since.
func (s *Switch) switchOff(pf pci.Address, p *switched, debugfs string) {
	inode, err := sysfs.Inode(filepath.Join(debugfs, "telemetry"))
	if err != nil || !p.on || inode != p.handled {
		return
	}
	control, err := readControl(debugfs)
	if err == nil && control == "1" {
		err = s.write(debugfs, "0")
	}
	if err != nil && !sysfs.IsAbsent(err) {
		klog.ErrorS(err, "Cannot switch device telemetry off", "pf", pf)
	}
	p.on = false
}

// readControl reads control. The driver creates it right after the directory, so readControl waits
// a little for it.
func readControl(debugfs string) (text string, err error) {
	for delay := time.Millisecond; delay <= 100*time.Millisecond; delay *= 10 {
		text, err = sysfs.ReadFile(filepath.Join(debugfs, controlFile))
		if !sysfs.IsAbsent(err) {
			break
		}
		time.Sleep(delay)
	}
	return text, err
}

func (s *Switch) write(debugfs, value string) error {
	name, err := filepath.Rel(s.sysfs, filepath.Join(debugfs, controlFile))
	if err != nil {
		return err
	}
	err = s.writer.Write(name, value)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w: mount debugfs writable at %s, and check that the kernel is not in lockdown mode",
			err, filepath.Join(s.sysfs, "kernel/debug"))
	}
	return err
}

// report logs an error, unless it is the last one of the PF. The next event of the PF leads to
// another attempt.
func (s *Switch) report(pf pci.Address, p *switched, err error) {
	if text := err.Error(); text != p.problem {
		p.problem = text
		klog.ErrorS(err, "Cannot switch device telemetry on", "pf", pf)
	}
}
