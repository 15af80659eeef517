// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"qatplugin/internal/status"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/sysfs"
)

// A Reader reads the telemetry of the PFs of a host. Its method may be called from any goroutine.
type Reader struct {
	sysfs    string
	readFile func(name string) (string, error) // [sysfs.ReadFile]

	mu    sync.Mutex // guards reads
	reads map[pci.Address]*read
}

// A read is a read of a PF in progress.
type read struct {
	done   chan struct{}    // closed when result is complete
	result status.Telemetry // valid then
}

// NewReader returns a Reader for the sysfs mounted at root.
func NewReader(root string) *Reader { return newReader(root, sysfs.ReadFile) }

func newReader(root string, readFile func(string) (string, error)) *Reader {
	return &Reader{sysfs: root, readFile: readFile, reads: map[pci.Address]*read{}}
}

// Read reads the telemetry of all PFs that have a driver, and returns it in the order of their
// addresses. It leaves out the PFs that it could not read before ctx ended. Two calls at the same
// time share one read of each PF. A read that the kernel blocks goes on after Read has returned.
func (r *Reader) Read(ctx context.Context) []status.Telemetry {
	pfs := r.pfs()
	reads := make([]*read, len(pfs))
	for i, pf := range pfs {
		reads[i] = r.start(pf)
	}
	list := make([]status.Telemetry, 0, len(reads))
	for _, read := range reads {
		select {
		case <-read.done:
			list = append(list, read.result)
		case <-ctx.Done():
			select {
			case <-read.done: // in time, but not first in the order of addresses
				list = append(list, read.result)
			default:
			}
		}
	}
	return list
}

// A boundPF is a PF and its driver.
type boundPF struct {
	address pci.Address
	driver  string
}

// pfs returns the PFs that have their driver, by the driver's directory in sysfs. That costs less
// than to look at each PCI function of the host, and no device can block it.
func (r *Reader) pfs() []boundPF {
	var pfs []boundPF
	drivers := map[string]bool{}
	for _, family := range device.Families() {
		driver := family.PFDriver()
		if drivers[driver] {
			continue
		}
		drivers[driver] = true
		names, err := sysfs.Names(filepath.Join(r.sysfs, "bus/pci/drivers", driver))
		if err != nil {
			continue // the driver is not loaded
		}
		for _, name := range names {
			if a, ok := pci.Parse(name); ok {
				pfs = append(pfs, boundPF{a, driver})
			}
		}
	}
	slices.SortFunc(pfs, func(a, b boundPF) int { return a.address.Compare(b.address) })
	return pfs
}

// start starts to read a PF, unless a read of it is in progress.
func (r *Reader) start(pf boundPF) *read {
	r.mu.Lock()
	defer r.mu.Unlock()
	if read := r.reads[pf.address]; read != nil {
		return read
	}
	read := &read{done: make(chan struct{})}
	r.reads[pf.address] = read
	go func() {
		read.result = r.readPF(pf)
		r.mu.Lock()
		delete(r.reads, pf.address)
		r.mu.Unlock()
		close(read.done)
	}()
	return read
}

// readPF reads the telemetry of one PF.
func (r *Reader) readPF(pf boundPF) status.Telemetry {
	debugfs := debugfsDir(r.sysfs, pf.driver, pf.address)
	t := status.Telemetry{Address: pf.address.String()}
	var errs [5]error
	t.Device, errs[0] = r.readDevice(debugfs)
	t.Firmware, errs[1] = parseFile(r, filepath.Join(debugfs, "fw_counters"), parseEngines)
	t.CompressErrors, errs[2] = parseFile(r, filepath.Join(debugfs, "cnv_errors"), parseCompressErrors)
	dir := filepath.Join(r.sysfs, "bus/pci/drivers", pf.driver, pf.address.String())
	t.RAS, errs[3] = r.readErrors(filepath.Join(dir, "qat_ras/errors_"), parseCount)
	t.AER, errs[4] = r.readErrors(filepath.Join(dir, "aer_dev_"), parseTotal)
	if err := errors.Join(errs[:]...); err != nil {
		t.Err = err.Error()
	}
	t.Time = time.Now()
	return t
}

// debugfsDir returns the directory of a PF in debugfs (adf_dbgfs.c, adf_dbgfs_init).
func debugfsDir(root, driver string, pf pci.Address) string {
	return filepath.Join(root, "kernel/debug", "qat_"+driver+"_"+pf.String())
}

// readDevice reads the telemetry of the device, or returns nil if it is off. The driver refuses to
// read device_data then, and logs that, so readDevice reads control first.
func (r *Reader) readDevice(debugfs string) (*status.DeviceTelemetry, error) {
	control, err := r.read(filepath.Join(debugfs, controlFile))
	if err != nil || control == "" || control == "0" {
		return nil, err
	}
	return parseFile(r, filepath.Join(debugfs, "telemetry/device_data"), parseDeviceData)
}

// readErrors reads counters of errors, by severity. prefix is that of their files.
func (r *Reader) readErrors(prefix string, parse func(string) (uint64, error)) (map[string]uint64, error) {
	var counts map[string]uint64
	for _, severity := range []string{"correctable", "nonfatal", "fatal"} {
		file := prefix + severity
		text, err := r.read(file)
		if err != nil {
			return nil, err
		}
		if text == "" {
			continue
		}
		n, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", file, err)
		}
		if counts == nil {
			counts = map[string]uint64{}
		}
		counts[severity] = n
	}
	return counts, nil
}

// parseFile reads and parses a file.
func parseFile[T any](r *Reader, file string, parse func(string) (T, error)) (T, error) {
	text, err := r.read(file)
	if err != nil {
		var none T
		return none, err
	}
	value, err := parse(text)
	if err != nil {
		return value, fmt.Errorf("parse %s: %w", file, err)
	}
	return value, nil
}

// read returns the text of a file, or "" if it does not exist or debugfs is not accessible.
func (r *Reader) read(file string) (string, error) {
	text, err := r.readFile(file)
	if sysfs.IsAbsent(err) || errors.Is(err, os.ErrPermission) {
		return "", nil
	}
	return text, err
}
