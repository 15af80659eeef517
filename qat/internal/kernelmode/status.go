// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"qatplugin/qat/internal/pci"
)

// An instance is one QAT device as a line of `adf_ctl status` describes it.
type instance struct {
	Type     string      // type: the name of its driver; that of a VF ends in "vf"
	Number   int         // inst_id: counts the devices of one type from 0
	NUMANode int         // node_id; -1 if adf_ctl does not know it
	Address  pci.Address // bsf; older programs omit the PCI domain, which is 0 then
	State    string      // state: "up", "down" or another word of the program's
}

// name is the name of the device's configuration file without ".conf".
func (i instance) name() string { return i.Type + "_dev" + strconv.Itoa(i.Number) }

// isVF goes by the type because sysfs may not tell: in a guest a VF has no PF.
func (i instance) isVF() bool { return isVFType(i.Type) }

// isUp reports whether the device is in use by its driver.
func (i instance) isUp() bool { return i.State == "up" }

func isVFType(name string) bool { return strings.HasSuffix(name, "vf") }

var (
	// deviceLine matches the beginning of a line about a device, such as
	// " qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: 0000:3b:00.0,
	// #accel: 5 #engines: 10 state: up", which is one line.
	deviceLine = regexp.MustCompile(`^\s*(qat_dev[0-9]+)\b`)

	// statusField matches the fields of such a line. They may be in any order,
	// with other fields between them.
	statusField = regexp.MustCompile(`[\s,](type|inst_id|node_id|bsf|state):\s*([^\s,]+)`)

	// typeName matches what may be a directory of sysfs and part of a file
	// name, including "vqat-adi".
	typeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
)

const (
	maxInstance = 1 << 16
	maxNUMANode = 1 << 10 // CONFIG_NODES_SHIFT is at most 10
)

// parseStatus parses the output of `adf_ctl status`. It ignores lines that are not about a
// device. A line about a device that it cannot parse is skipped, with the reason.
func parseStatus(text []byte) ([]instance, skips) {
	var instances []instance
	skipped := skips{}
	seen := map[string]bool{}
	for line := range bytes.Lines(text) {
		m := deviceLine.FindSubmatch(line)
		if m == nil {
			continue
		}
		i, err := parseLine(line)
		if err == nil && seen[i.name()] {
			err = fmt.Errorf("adf_ctl status lists %s twice", i.name())
		}
		if err != nil {
			skipped.add(string(m[1]), err.Error())
			continue
		}
		seen[i.name()] = true
		instances = append(instances, i)
	}
	return instances, skipped
}

func parseLine(line []byte) (i instance, err error) {
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
	if i.Type = fields["type"]; !typeName.MatchString(i.Type) {
		return i, invalid("type", "the name of a driver")
	}
	if i.Number, err = strconv.Atoi(fields["inst_id"]); err != nil || i.Number < 0 || i.Number > maxInstance {
		return i, invalid("inst_id", "a number")
	}
	address := strings.ToLower(fields["bsf"])
	if strings.Count(address, ":") == 1 {
		address = "0000:" + address
	}
	var ok bool
	if i.Address, ok = pci.Parse(address); !ok {
		return i, invalid("bsf", "a PCI address")
	}
	if i.State = fields["state"]; i.State == "" {
		return i, invalid("state", "a state")
	}
	i.NUMANode = -1
	if node, err := strconv.Atoi(fields["node_id"]); err == nil && node >= 0 && node < maxNUMANode {
		i.NUMANode = node
	}
	return i, nil
}

// skips maps what exists but is not listed to the reason: a device
// ("c6xx_dev0"), a section ("[SSL]"), a line of adf_ctl's ("qat_dev0"), a node.
type skips map[string]string

// add adds a reason. Several reasons for one name are joined.
func (s skips) add(name, reason string) {
	if other := s[name]; other != "" {
		reason = other + "; " + reason
	}
	s[name] = reason
}
