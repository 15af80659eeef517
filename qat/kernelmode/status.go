package kernelmode

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"qatplugin/qat"
)

// An instance is one QAT device as a line of `adf_ctl status` shows it.
type instance struct {
	Type    string      // type: the name of its driver; a VF's ends in vf
	Number  int         // inst_id: counts the devices of one type from 0
	Node    int         // node_id: its NUMA node; -1 when adf_ctl does not say
	Address qat.Address // bsf; older programs leave out the PCI domain, which is 0 then
	State   string      // state: up, down, or what the program calls it
}

// name is the name of its configuration file, without ".conf".
func (i instance) name() string { return i.Type + "_dev" + strconv.Itoa(i.Number) }

// isVF tells by the type, as sysfs need not be able to tell: in a guest a VF has no PF.
func (i instance) isVF() bool { return isVFType(i.Type) }

func isVFType(name string) bool { return strings.HasSuffix(name, "vf") }

var (
	// deviceLine begins each line about a device: " qat_dev0 - type: c6xx,  inst_id: 0, ... bsf: 0000:3b:00.0,  #accel: 5 #engines: 10 state: up".
	deviceLine = regexp.MustCompile(`^\s*(qat_dev[0-9]+)\b`)
	// statusField finds the fields of such a line, in any order and with others between them.
	statusField = regexp.MustCompile(`[\s,](type|inst_id|node_id|bsf|state):\s*([^\s,]+)`)
	// typeName is what may be a directory of sysfs and a part of a file's name; vqat-adi is one, too.
	typeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
)

const (
	maxInstance = 1 << 16
	maxNode     = 1 << 10 // CONFIG_NODES_SHIFT is 10 at most
)

// parseStatus reads what `adf_ctl status` printed. Lines that are not about a device are passed over. A line about a device that
// cannot be understood leaves out that device only.
func parseStatus(text []byte) (instances []instance, left []Omission) {
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
			left = append(left, Omission{Subject: string(m[1]), Reason: err.Error()})
			continue
		}
		seen[i.name()] = true
		instances = append(instances, i)
	}
	return instances, left
}

func parseLine(line []byte) (i instance, err error) {
	fields := map[string]string{}
	for _, m := range statusField.FindAllSubmatch(line, -1) {
		fields[string(m[1])] = string(m[2])
	}
	wrong := func(field, what string) error {
		if fields[field] == "" {
			return fmt.Errorf("read adf_ctl status: no %s in %q", field, bytes.TrimSpace(line))
		}
		return fmt.Errorf("read adf_ctl status: %s %q is not %s", field, fields[field], what)
	}
	if i.Type = fields["type"]; !typeName.MatchString(i.Type) {
		return i, wrong("type", "the name of a driver")
	}
	if i.Number, err = strconv.Atoi(fields["inst_id"]); err != nil || i.Number < 0 || i.Number > maxInstance {
		return i, wrong("inst_id", "a number")
	}
	address := strings.ToLower(fields["bsf"])
	if strings.Count(address, ":") == 1 {
		address = "0000:" + address
	}
	ok := false
	if i.Address, ok = qat.ParseAddress(address); !ok {
		return i, wrong("bsf", "a PCI address")
	}
	if i.State = fields["state"]; i.State == "" {
		return i, wrong("state", "a state")
	}
	i.Node = -1
	if node, err := strconv.Atoi(fields["node_id"]); err == nil && node >= 0 && node < maxNode {
		i.Node = node
	}
	return i, nil
}
