// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"qatplugin/events"
	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
	"qatplugin/qat/internal/readpool"
)

// facts is what the checks know. They do not change it.
type facts struct {
	host   Host
	reader *device.Reader
	driver device.DriverState
	listen func() (events.Source, error)

	listErr error                  // why the PCI functions could not be listed
	others  int                    // PCI functions that are not QAT devices
	pfs     []*function            // in the order of their addresses
	vfs     []*function            // in the order of their addresses
	unread  map[pci.Address]string // functions that could not be read: why
}

// A function is a PF or a VF, with the attributes that only the doctor needs.
type function struct {
	*device.Function
	totalVFs string // of a PF: sriov_totalvfs; "" if it has none
	numVFs   string // of a PF: sriov_numvfs; "" if it has none
	override string // of a VF: driver_override; "" if it has none
}

// hasDriver reports whether a PF is bound to the QAT driver.
func (f *function) hasDriver() bool { return f.Driver == f.Family.PFDriver() }

// readFunction reads a function. It returns nil if there is none, or no QAT device. The read of
// sriov_numvfs, and of some attributes of the QAT driver, may block.
func readFunction(reader *device.Reader, a pci.Address) (*function, error) {
	h, err := reader.Open(a, nil)
	if h == nil {
		return nil, err
	}
	defer h.Close()
	read, err := h.Read()
	if read == nil || err != nil {
		return nil, err
	}
	f := &function{Function: read}
	if !h.IsVF() {
		if f.totalVFs, err = h.Attribute("sriov_totalvfs"); err != nil {
			return nil, err
		}
		f.numVFs, err = h.Attribute("sriov_numvfs")
		return f, err
	}
	if f.override, err = h.Attribute("driver_override"); f.override == "(null)" {
		f.override = "" // drivers/pci/pci-sysfs.c, driver_override_show
	}
	return f, err
}

type readFunc = func(*device.Reader, pci.Address) (*function, error)

// gather reads the facts. It ends after timeLimit at most, with what it has got.
func gather(ctx context.Context, host Host, read readFunc, listen func() (events.Source, error)) *facts {
	f := &facts{
		host: host,
		reader: device.NewReader(device.Config{
			Sysfs:     host.Sysfs,
			Dev:       host.Dev,
			Driver:    host.Driver,
			Interface: device.InterfaceAuto,
		}),
		listen: listen,
		unread: map[pci.Address]string{},
	}
	addresses, err := f.reader.Addresses()
	if err != nil {
		f.listErr = err
		return f
	}
	f.driver = f.reader.DriverState()
	f.readAll(ctx, addresses, read)
	return f
}

// A readResult is what the read of one function returned.
type readResult struct {
	function *function
	err      error
}

// readAll reads the functions. A read that the kernel blocks delays no other one.
func (f *facts) readAll(ctx context.Context, addresses []pci.Address, read readFunc) {
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	returned := make(chan struct{}, 1)
	pool := readpool.New(func(a pci.Address, p *device.Progress) readResult {
		function, err := read(f.reader.Tracked(p), a)
		return readResult{function, err}
	}, func() {
		select {
		case returned <- struct{}{}:
		default:
		}
	})
	inOrder, concurrent := pool.Read(addresses)
	results := slices.Concat(inOrder, concurrent)
	for len(pool.Outstanding()) > 0 && ctx.Err() == nil {
		select {
		case <-returned:
		case <-ctx.Done():
		}
		results = append(results, pool.Take()...)
	}
	for _, a := range pool.Outstanding() {
		f.unread[a] = "the kernel blocks the read of " + pool.Progress(a).File()
	}
	if len(f.unread) > 0 {
		go pool.Close() // it waits for the kernel
	} else {
		pool.Close()
	}
	for _, r := range results {
		f.add(r.Key, r.Value)
	}
	for _, list := range [][]*function{f.pfs, f.vfs} {
		slices.SortFunc(list, func(a, b *function) int { return a.Address.Compare(b.Address) })
	}
}

func (f *facts) add(a pci.Address, r readResult) {
	switch {
	case r.err != nil: // what was read before the error may be incomplete
		f.unread[a] = r.err.Error()
	case r.function == nil:
		f.others++
	case r.function.IsVF:
		f.vfs = append(f.vfs, r.function)
	default:
		f.pfs = append(f.pfs, r.function)
	}
}

// path returns the path of a file of a function, as it was read.
func (f *facts) path(a pci.Address, name string) string {
	return filepath.Join(f.host.Sysfs, "bus/pci/devices", a.String(), name)
}

// A selection is a list of functions that have something in common.
type selection []*function

// choose returns the functions for which a condition holds.
func choose(functions []*function, holds func(*function) bool) selection {
	return slices.DeleteFunc(slices.Clone(functions), func(f *function) bool { return !holds(f) })
}

// String returns the addresses of the first functions, and how many there are.
func (s selection) String() string {
	const most = 4
	var names []string
	for _, f := range s[:min(most, len(s))] {
		names = append(names, f.Address.String())
	}
	text := strings.Join(names, ", ")
	if len(s) > most {
		text += fmt.Sprintf(" and %d more", len(s)-most)
	}
	return text
}

// by groups the functions by a text, such as their driver, and calls handle for each group in the
// order of the texts.
func (s selection) by(text func(*function) string, handle func(text string, group selection)) {
	groups := map[string]selection{}
	for _, f := range s {
		groups[text(f)] = append(groups[text(f)], f)
	}
	for _, t := range slices.Sorted(maps.Keys(groups)) {
		handle(t, groups[t])
	}
}

// forEach returns a shell command for each of the functions: a loop, or the command itself for one.
// The command has $a where the address belongs.
func (s selection) forEach(command string) string {
	if len(s) == 1 {
		return strings.ReplaceAll(command, "$a", s[0].Address.String())
	}
	var addresses []string
	for _, f := range s {
		addresses = append(addresses, f.Address.String())
	}
	return "for a in " + strings.Join(addresses, " ") + "; do " + command + "; done"
}
