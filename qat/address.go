package qat

import "fmt"

// Address is the address of a PCI function: domain, bus, device and function (BDF), as sysfs names it: 0000:6b:00.1.
// It is comparable and small, and so the key of everything here.
type Address struct {
	Domain   uint32 // 16 bits in hardware; virtual ones, as behind VMD, are above 0xffff
	Bus      uint8
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// ParseAddress reads an address as the kernel writes it ("%04x:%02x:%02x.%d", drivers/pci/probe.c, pci_setup_device).
// It does not allocate.
func ParseAddress[T string | []byte](text T) (Address, bool) {
	// From the right: the domain has four digits or more.
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

// String is the address as sysfs names it.
func (a Address) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%d", a.Domain, a.Bus, a.Device, a.Function)
}

// Compare orders addresses by domain, bus, device and function.
func (a Address) Compare(b Address) int {
	return int(int64(a.key()) - int64(b.key()))
}

func (a Address) key() uint64 {
	return uint64(a.Domain)<<16 | uint64(a.Bus)<<8 | uint64(a.Device)<<3 | uint64(a.Function)
}

// parseHex reads lower-case hexadecimal digits, at most eight, as the kernel prints them.
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

// lastAddress finds the last component of a path that is an address: the function itself for its own path, and the function
// that owns it for anything below, also behind bridges. It does not allocate.
func lastAddress[T string | []byte](path T) (Address, bool) {
	end := len(path)
	for i := end - 1; i >= -1; i-- {
		if i >= 0 && path[i] != '/' {
			continue
		}
		if a, ok := ParseAddress(path[i+1 : end]); ok {
			return a, true
		}
		end = i
		if end < 0 {
			break
		}
	}
	return Address{}, false
}
