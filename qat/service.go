package qat

import (
	"strings"
)

// Generic is the resource of VFs whose services cannot be told: those of Gen2 devices, those in a guest, and those whose PF says
// nothing that is understood.
const Generic = "generic"

// services are the words of qat/cfg_services in the order in which they make a resource's name
// (Documentation/ABI/testing/sysfs-driver-qat).
var services = [...]string{"asym", "sym", "dc", "decomp", "dcc"}

// resourceOfServices names the resource for a value of qat/cfg_services or of ServicesEnabled in dev_cfg, such as "sym;asym". The
// value is a set: order and repeats say nothing. sym with asym is "cy", as people know it. "" when the value has no word, or one
// that is not a service: such a value may be half written, and must not become a resource's name.
func resourceOfServices(value string) string {
	var have [len(services)]bool
	words := strings.FieldsFunc(value, func(r rune) bool { return r == ';' || r == ',' || r == ' ' || r == '\t' || r == '\n' })
next:
	for _, word := range words {
		for i, s := range services {
			if word == s {
				have[i] = true
				continue next
			}
		}
		return ""
	}
	var names []string
	for i, s := range services {
		if have[i] {
			names = append(names, s)
		}
	}
	name := strings.Join(names, "-")
	if name == "asym-sym" {
		return "cy"
	}
	return name
}
