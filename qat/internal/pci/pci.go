// SPDX-License-Identifier: Apache-2.0

// Package pci parses, formats and orders the addresses of PCI functions.
package pci

import (
	"cmp"
	"strconv"
)

// Address is the address of a PCI function (domain, bus, device, function). It is comparable,
// so it can be the key of a map.
type Address struct {
	Domain   uint32 // 16 bits in hardware; virtual domains, such as those of VMD, are above 0xffff
	Bus      uint8
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// Parse parses an address as the kernel prints it, such as "0000:6b:00.1" (drivers/pci/probe.c,
// pci_setup_device: "%04x:%02x:%02x.%d"). Parse does not allocate.
func Parse[T string | []byte](text T) (Address, bool) {
	// Offsets count from the end because the domain has four or more digits.
	n := len(text)
	if n < len("0000:00:00.0") || text[n-2] != '.' || text[n-5] != ':' || text[n-8] != ':' {
		return Address{}, false
	}
	domain, ok1 := parseHex(text[:n-8])
	bus, ok2 := parseHex(text[n-7 : n-5])
	device, ok3 := parseHex(text[n-4 : n-2])
	function := text[n-1] - '0'
	if !ok1 || !ok2 || !ok3 || device > 31 || function > 7 {
		return Address{}, false
	}
	return Address{Domain: domain, Bus: uint8(bus), Device: uint8(device), Function: function}, true
}

// parseHex parses one to eight lower-case hexadecimal digits.
func parseHex[T string | []byte](text T) (value uint32, ok bool) {
	if len(text) == 0 || len(text) > 8 {
		return 0, false
	}
	for i := range len(text) {
		c := text[i]
		switch {
		case c >= '0' && c <= '9':
			value = value<<4 | uint32(c-'0')
		case c >= 'a' && c <= 'f':
			value = value<<4 | uint32(c-'a'+10)
		default:
			return 0, false
		}
	}
	return value, true
}

// LastInPath returns the last component of a slash-separated path that is an address. For a path
// in sysfs that is the function itself, or the function that owns the file or child device, also
// behind bridges. LastInPath does not allocate.
func LastInPath[T string | []byte](path T) (Address, bool) {
	end := len(path)
	for i := end - 1; i >= -1; i-- {
		if i >= 0 && path[i] != '/' {
			continue
		}
		if a, ok := Parse(path[i+1 : end]); ok {
			return a, true
		}
		end = i
	}
	return Address{}, false
}

// String returns the address as the kernel prints it.
func (a Address) String() string {
	text := make([]byte, 0, len("0000:00:00.0"))
	text = append(appendHex(text, a.Domain, 4), ':')
	text = append(appendHex(text, uint32(a.Bus), 2), ':')
	text = append(appendHex(text, uint32(a.Device), 2), '.')
	return string(append(text, '0'+a.Function))
}

// appendHex appends a number as hexadecimal digits, and zeros before it up to width.
func appendHex(text []byte, value uint32, width int) []byte {
	for limit := uint32(1) << (4 * (width - 1)); limit > 1 && value < limit; limit >>= 4 {
		text = append(text, '0')
	}
	return strconv.AppendUint(text, uint64(value), 16)
}

// Compare orders addresses by domain, bus, device and function. It returns -1, 0 or +1.
func (a Address) Compare(b Address) int {
	return cmp.Compare(a.key(), b.key())
}

func (a Address) key() uint64 {
	return uint64(a.Domain)<<16 | uint64(a.Bus)<<8 | uint64(a.Device)<<3 | uint64(a.Function)
}
