// SPDX-License-Identifier: Apache-2.0

package device

import (
	"slices"
	"strings"
)

// Generic is the resource of VFs whose services are unknown: those of devices without configurable
// services, those in a guest, and those of a PF that shows no valid services.
const Generic = "generic"

// services lists the words of qat/cfg_services in the order in which a resource's name has them
// (Documentation/ABI/testing/sysfs-driver-qat).
var services = [...]string{"asym", "sym", "dc", "decomp", "dcc"}

// resourceOf returns the name of the resource for a value of qat/cfg_services, or of
// ServicesEnabled in dev_cfg, such as "sym;asym". The value is a set: order and repetition have no
// meaning. sym with asym is called "cy".
//
// resourceOf returns "" if the value has no word, or a word that is not a service. Such a value may
// be half written and must not become the name of a resource.
func resourceOf(value string) string {
	words := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(";, \t\n", r) })
	var names []string
	for _, s := range services {
		if slices.Contains(words, s) {
			names = append(names, s)
		}
	}
	for _, word := range words {
		if !slices.Contains(names, word) {
			return ""
		}
	}
	name := strings.Join(names, "-")
	if name == "asym-sym" {
		return "cy"
	}
	return name
}
