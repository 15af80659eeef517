// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"qatplugin/qat/internal/pci"
)

// An entry is one QAT device as a line of `adf_ctl status` describes it.
type entry struct {
	Type     string      // type: the name of its driver, which ends in "vf" for a VF
	Number   int         // inst_id: counts the devices of one type from 0
	NUMANode int         // node_id; -1 if unknown
	Address  pci.Address // bsf; older programs omit the PCI domain, which is 0 then
	State    string      // state: "up", "down" or another word
}

// name returns the name of the device's configuration file without ".conf".
func (e entry) name() string { return e.Type + "_dev" + strconv.Itoa(e.Number) }

// isVF reports whether the device is a VF. It uses the type because sysfs does not always show it:
// in a guest, a VF has no PF.
func (e entry) isVF() bool { return isVFType(e.Type) }

// isUp reports whether adf_ctl reports that the device is up.
func (e entry) isUp() bool { return e.State == "up" }

// forQATlib matches the types of the devices of Gen4 and later, which this mode skips. Containers
// use their VFs through qatlib, in mode dpdk, where each container has VFs of its own. The
// expression does not match c4xxx, which is Gen3.
var forQATlib = regexp.MustCompile(`^(4xxx|401xx|402xx|420xx|6xxx)(vf)?$`)

const reasonForQATlib = "mode kernel does not serve devices of Gen4 and later; use mode dpdk and qatlib"

func isVFType(name string) bool { return strings.HasSuffix(name, "vf") }

var (
	// deviceLine matches the beginning of a line about a device, such as
	// " qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: 0000:3b:00.0,
	// #accel: 5 #engines: 10 state: up", which is one line.
	deviceLine = regexp.MustCompile(`^\s*(qat_dev[0-9]+)\b`)

	// noDeviceLine matches the first line of the output without devices.
	noDeviceLine = regexp.MustCompile(`^There is 0 QAT acceleration device`)

	// statusField matches the fields of such a line. They may be in any order,
	// with other fields between them.
	statusField = regexp.MustCompile(`[\s,](type|inst_id|node_id|bsf|state):\s*([^\s,]+)`)

	// typeName matches the types that can be a directory of sysfs and part of a file
	// name, such as "vqat-adi".
	typeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
)

const (
	maxNumber   = 1 << 16
	maxNUMANode = 1 << 10 // CONFIG_NODES_SHIFT is at most 10
)

// errNoStatus reports that the program succeeded, but its output is not that of `adf_ctl status`.
var errNoStatus = errors.New(
	"parse adf_ctl status: the output has neither a line of a device nor the line for 0 devices")

// parseStatus parses the output of `adf_ctl status`. It ignores lines that do not describe a
// device. If it cannot parse the line of a device, it skips the device with the reason.
//
// It returns an error if it can parse no line, because the state of the devices is then unknown. On
// a host without devices, the output has a line for 0 devices (adf_ctl.cpp of the out-of-tree
// stack, perform_query_dev).
func parseStatus(text []byte) ([]entry, skips, error) {
	var entries []entry
	var firstErr error
	none := false
	skipped := skips{}
	seen := map[string]bool{}
	for line := range bytes.Lines(text) {
		m := deviceLine.FindSubmatch(line)
		if m == nil {
			none = none || noDeviceLine.Match(line)
			continue
		}
		e, err := parseLine(line)
		if err == nil && seen[e.name()] {
			err = fmt.Errorf("adf_ctl status lists %s twice", e.name())
		}
		if err != nil {
			firstErr = cmp.Or(firstErr, err)
			skipped.add(string(m[1]), err.Error())
			continue
		}
		seen[e.name()] = true
		if forQATlib.MatchString(e.Type) {
			none = true // the output is valid even if it has no other device
			skipped.add(e.name(), reasonForQATlib)
			continue
		}
		entries = append(entries, e)
	}
	switch {
	case len(entries) == 0 && !none && firstErr != nil:
		return nil, nil, firstErr
	case len(entries) == 0 && !none:
		return nil, nil, errNoStatus
	}
	return entries, skipped, nil
}

func parseLine(line []byte) (e entry, err error) {
	fields := map[string]string{}
	for _, m := range statusField.FindAllSubmatch(line, -1) {
		fields[string(m[1])] = string(m[2])
	}
	invalid := func(field, want string) error {
		if fields[field] == "" {
			return fmt.Errorf("parse adf_ctl status: no %s in %q", field, bytes.TrimSpace(line))
		}
		return fmt.Errorf("parse adf_ctl status: %s %q is not %s", field, fields[field], want)
	}
	if e.Type = fields["type"]; !typeName.MatchString(e.Type) {
		return e, invalid("type", "the name of a driver")
	}
	if e.Number, err = strconv.Atoi(fields["inst_id"]); err != nil || e.Number < 0 || e.Number > maxNumber {
		return e, invalid("inst_id", "a number")
	}
	address := strings.ToLower(fields["bsf"])
	if strings.Count(address, ":") == 1 {
		address = "0000:" + address
	}
	var ok bool
	if e.Address, ok = pci.Parse(address); !ok {
		return e, invalid("bsf", "a PCI address")
	}
	if e.State = fields["state"]; e.State == "" {
		return e, invalid("state", "a state")
	}
	e.NUMANode = -1
	if node, err := strconv.Atoi(fields["node_id"]); err == nil && node >= 0 && node < maxNUMANode {
		e.NUMANode = node
	}
	return e, nil
}

// skips maps what exists but is not listed to the reason. A key is a device ("c6xx_dev0"), a
// section ("[SSL]"), a line of the output of adf_ctl ("qat_dev0") or a node.
type skips map[string]string

// add adds a reason. Several reasons for one name are joined.
func (s skips) add(name, reason string) {
	if other := s[name]; other != "" {
		reason = other + "; " + reason
	}
	s[name] = reason
}
