// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bytes"
	"path/filepath"
	"strconv"

	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// maxText limits the length of a file's text, in bytes. Real texts have a few words.
const maxText = 255

// A heartbeat is what reading heartbeat/status says about a PF.
type heartbeat uint8

const (
	heartbeatNone     heartbeat = iota // nothing: it was not read, or the driver did not perform the check
	heartbeatGood                      // the check succeeded
	heartbeatFailed                    // the check failed
	heartbeatDoubtful                  // the check failed or was not performed; only queries_failed could tell
)

// services are the attributes of a PF that the driver may change without an event.
type services struct {
	state    string // qat/state
	services string // qat/cfg_services
}

// isUp reports whether the driver says that the PF is up, or does not say.
func (s services) isUp() bool { return s.state == "" || s.state == "up" }

// sample is the result of one poll of a PF.
type sample struct {
	services       services
	unknown        bool      // services could not be read, and are those of the last poll
	heartbeatInode uint64    // of heartbeat/; 0: there is no such directory
	heartbeat      heartbeat // valid while the PF is up
	fatal          int64     // qat_ras/errors_fatal; -1: it cannot be read. Valid while the PF is up
}

// files reads the files of one PF. It keeps the two directories open between polls, but not the
// files: an open file in debugfs pins the module that made it (fs/debugfs/file.c,
// full_proxy_open_regular), and the PF's driver could not be unloaded.
type files struct {
	buf []byte

	paths          [2]string // the directories, as they were opened
	pf             *sysfs.Dir
	heartbeat      *sysfs.Dir // nil: there is none
	heartbeatInode uint64
	queriesFailed  int64 // heartbeat/queries_failed when it was last read; -1: it cannot be read

	services services // of the last poll
}

// poll reads the files of a PF. It may block for long and must be called without the lock.
//
// A good heartbeat in the directory of the last poll says that the PF has been up since then. The
// driver makes the directory when the PF goes up and removes it when the PF goes down
// (drivers/crypto/intel/qat/qat_common/adf_dbgfs.c), and the services can change only while the PF
// is down (adf_sysfs.c, cfg_services_store). So state and services need not be read. If there is no
// heartbeat, the directories may be those of a device that is gone, and are opened again.
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

// sample returns what was read, and the error counter.
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
		return nil // there is none while the PF is down, or debugfs is not accessible
	}
	f.heartbeat = &heartbeat
	f.heartbeatInode, _ = heartbeat.Inode(".")
	f.queriesFailed = f.number(f.heartbeat, "queries_failed")
	return nil
}

// close closes all files. They are opened again when needed.
func (f *files) close() {
	for _, dir := range []**sysfs.Dir{&f.pf, &f.heartbeat} {
		if *dir != nil {
			(*dir).Close()
			*dir = nil
		}
	}
	f.heartbeatInode = 0
}

// check reads heartbeat/status, which performs the check.
//
// The driver also answers -1 without a check if the last one was not long ago or the device is
// being restarted. Only after a check that failed it counts in queries_failed
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
		before := f.queriesFailed
		f.queriesFailed = f.number(f.heartbeat, "queries_failed")
		switch {
		case before < 0 || f.queriesFailed < 0:
			return heartbeatDoubtful, true
		case f.queriesFailed > before:
			return heartbeatFailed, true
		}
	}
	return heartbeatNone, true
}

// text reads an attribute of the PF into *last, which becomes "" if there is none. It reports
// whether the attribute could be read or does not exist, and else leaves *last as it was.
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

// number reads a counter; -1: it cannot be read.
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

// responds reports whether a function answers, or is gone. Its configuration space then reads as
// all ones (Documentation/PCI/pci-error-recovery.rst). A VF has no vendor and device ID of its own,
// but a command and a status.
func responds(sysfsRoot string, a pci.Address) bool {
	dir, err := sysfs.OpenDir(filepath.Join(sysfsRoot, "bus/pci/devices", a.String()))
	if err != nil {
		return true
	}
	defer dir.Close()
	config, err := dir.ReadStart("config", make([]byte, 8))
	return err != nil || len(config) < 8 || string(config[4:8]) != "\xff\xff\xff\xff"
}
