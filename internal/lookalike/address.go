// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"fmt"
	"regexp"
	"strconv"
)

var addressParts = regexp.MustCompile(`^([0-9a-f]{4,}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])$`)

// parseAddress splits a PCI address into its domain and its routing ID, the 16-bit number
// bus:device.function that SR-IOV counts in.
func parseAddress(address string) (domain string, id int, err error) {
	m := addressParts.FindStringSubmatch(address)
	if m == nil {
		return "", 0, fmt.Errorf("%q is not a PCI address such as 0000:6b:00.0", address)
	}
	bus, _ := strconv.ParseUint(m[2], 16, 8) // the pattern guarantees digits
	dev, _ := strconv.ParseUint(m[3], 16, 8)
	fn, _ := strconv.ParseUint(m[4], 8, 8)
	if dev > 31 {
		return "", 0, fmt.Errorf("%q is not a PCI address: a bus has 32 devices", address)
	}
	return m[1], int(bus<<8 | dev<<3 | fn), nil
}

// formatAddress is the inverse of parseAddress.
func formatAddress(domain string, id int) string {
	return fmt.Sprintf("%s:%02x:%02x.%d", domain, id>>8, id>>3&31, id&7)
}

// rootDevpath returns the DEVPATH of a function that sits directly on a root bus.
func rootDevpath(domain string, id int) string {
	return fmt.Sprintf("/devices/pci%s:%02x/%s", domain, id>>8, formatAddress(domain, id))
}

// vfAddress returns the address of the PF's VF number index. VFs may extend to the next bus.
func (d *function) vfAddress(index int) (string, error) {
	domain, id, err := parseAddress(d.address)
	if err != nil {
		return "", err
	}
	offset := 1
	if f, ok := familyOf(d.id); ok {
		offset = f.offset
	}
	if id += offset + index; id > 0xffff { // VF stride is 1
		return "", fmt.Errorf("VF %d of %s lies beyond bus ff", index, d.address)
	}
	return formatAddress(domain, id), nil
}
