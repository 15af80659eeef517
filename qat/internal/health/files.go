// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bytes"
	"path/filepath"
	"strconv"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// maxText limits the length of a file, in bytes. Real files contain a few words.
const maxText = 255

// A heartbeat is the result of reading heartbeat/status of a PF.
type heartbeat uint8

const (
	heartbeatNone     heartbeat = iota // unknown: not read, or the driver did not perform the check
	heartbeatGood                      // the check succeeded
	heartbeatFailed                    // the check failed
	heartbeatDoubtful                  // failed or not performed: queries_failed cannot be read
)

// services are the attributes of a PF that the driver may change without an event.
type services struct {
	state    string // qat/state
	services string // qat/cfg_services
}

// isUp reports whether the PF is up. A PF whose driver has no attribute qat/state is up.
func (s services) isUp() bool { return s.state == "" || s.state == "up" }

// sample is the result of one poll of a PF.
type sample struct {
	services       services
	unknown        bool      // services could not be read, and are those of the last poll
	heartbeatInode uint64    // of heartbeat/; 0: the directory does not exist
	heartbeat      heartbeat // valid while the PF is up
	fatal          int64     // qat_ras/errors_fatal; -1: cannot be read. Valid while the PF is up
}

// files reads the files of one PF. It keeps the two directories open between polls, but not the
// files. An open file in debugfs pins the module that created it (fs/debugfs/file.c,
// full_proxy_open_regular), so the PF's driver could not be unloaded.
type files struct {
	buf []byte

	paths          [2]string // the directories, as they were opened
	pf             *sysfs.Dir
	heartbeat      *sysfs.Dir // nil: does not exist
	heartbeatInode uint64
	queriesFailed  int64 // last value of heartbeat/queries_failed; -1: it could not be read yet

	services services // of the last poll
}

// poll reads the files of a PF. It may block for long and must be called without Monitor.mu.
//
// If the directory of the last poll has a good heartbeat, the PF has been up since then: the driver
// creates the directory when the PF goes up and removes it when the PF goes down
// (drivers/crypto/intel/qat/qat_common/adf_dbgfs.c). The services can change only while the PF is
// down (adf_sysfs.c, cfg_services_store). poll then reads neither state nor services. If the
// heartbeat cannot be read, the open directories may belong to a device that is gone, and poll
// opens them again.
func (f *files) poll(pf PF) sample {
	if f.buf == nil {
		f.buf = make([]byte, maxText+1)
	}
	h, checked := heartbeatNone, false
	if f.heartbeat != nil && f.paths == [2]string{pf.Dir, pf.Debugfs} {
		if h, checked = f.check(); h == heartbeatGood {
			return f.sample(h)
		}
	}
	if !checked {
		f.close()
		if err := f.open(pf); err != nil {
			return sample{unknown: true, fatal: -1}
		}
	}
	known := f.text("qat/state", &f.services.state) && f.text("qat/cfg_services", &f.services.services)
	if !checked && f.services.isUp() {
		h, _ = f.check()
	}
	s := f.sample(h)
	s.unknown = !known
	return s
}

// sample returns a sample with this heartbeat and the services in f. It reads the error counter.
func (f *files) sample(h heartbeat) sample {
	s := sample{services: f.services, heartbeatInode: f.heartbeatInode, heartbeat: h, fatal: -1}
	if f.pf != nil {
		s.fatal = f.number(f.pf, "qat_ras/errors_fatal")
	}
	return s
}

// open opens the directories that exist.
func (f *files) open(pf PF) error {
	f.paths = [2]string{pf.Dir, pf.Debugfs}
	device, err := sysfs.OpenDir(pf.Dir)
	switch {
	case err == nil:
		f.pf = &device
	case !sysfs.IsAbsent(err):
		return err
	}
	heartbeat, err := sysfs.OpenDir(filepath.Join(pf.Debugfs, "heartbeat"))
	if err != nil {
		return nil // the PF is down, or debugfs is not accessible
	}
	f.heartbeat = &heartbeat
	f.heartbeatInode, _ = heartbeat.Inode(".")
	f.queriesFailed = f.number(f.heartbeat, "queries_failed")
	return nil
}

// close closes the directories. The next poll opens them again.
func (f *files) close() {
	for _, dir := range []**sysfs.Dir{&f.pf, &f.heartbeat} {
		if *dir != nil {
			(*dir).Close()
			*dir = nil
		}
	}
	f.heartbeatInode = 0
}

// check reads heartbeat/status, which makes the driver perform the check. done is false if the file
// cannot be read.
//
// The driver also returns -1, without a check, if the last check was recent or the device is being
// restarted. It increments queries_failed only after a failed check
// (drivers/crypto/intel/qat/qat_common/adf_heartbeat.c, adf_heartbeat_status).
func (f *files) check() (h heartbeat, done bool) {
	if f.heartbeat == nil {
		return heartbeatNone, false
	}
	status, err := f.heartbeat.ReadStart("status", f.buf)
	if err != nil {
		return heartbeatNone, false
	}
	switch line, _, _ := bytes.Cut(status, []byte("\n")); string(line) {
	case "0":
		return heartbeatGood, true
	case "-1":
		before, now := f.queriesFailed, f.number(f.heartbeat, "queries_failed")
		if now >= 0 {
			f.queriesFailed = now
		}
		switch {
		case before < 0 || now < 0:
			return heartbeatDoubtful, true
		case now > before:
			return heartbeatFailed, true
		}
	}
	return heartbeatNone, true
}

// text reads an attribute of the PF into *last, which becomes "" if the attribute does not exist.
// If the attribute cannot be read, text returns false and does not change *last.
func (f *files) text(name string, last *string) bool {
	if f.pf == nil {
		*last = ""
		return true
	}
	text, err := f.pf.ReadStart(name, f.buf)
	if err != nil && !sysfs.IsAbsent(err) || len(text) > maxText {
		return false
	}
	if text = bytes.TrimSpace(text); string(text) != *last {
		*last = string(text)
	}
	return true
}

// number reads a counter. It returns -1 if the counter cannot be read.
func (f *files) number(dir *sysfs.Dir, name string) int64 {
	text, err := dir.ReadStart(name, f.buf)
	if err != nil {
		return -1
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// responds reports whether a function responds or no longer exists. The configuration space of a
// function that does not respond reads as all ones (Documentation/PCI/pci-error-recovery.rst). A VF
// has no vendor and device ID of its own, so responds checks the command and status registers.
func responds(sysfsRoot string, a pci.Address) bool {
	dir, err := sysfs.OpenDir(filepath.Join(sysfsRoot, "bus/pci/devices", a.String()))
	if err != nil {
		return true
	}
	defer dir.Close()
	config, err := dir.ReadStart("config", make([]byte, 8))
	return err != nil || len(config) < 8 || string(config[4:8]) != "\xff\xff\xff\xff"
}
