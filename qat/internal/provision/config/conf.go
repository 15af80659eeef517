// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/ini.v1"

	"qatplugin/qat/internal/device"
)

// The keys of qat.conf.
const (
	confServices  = "ServicesEnabled"
	confAutoReset = "AutoresetEnabled"
)

// parseConf returns the rule of a qat.conf, the configuration of the init container of Intel's
// device plugin. Its scripts demo/qat-init.sh and demo/qat-autoreset.sh read two keys, and apply
// them to each PF whose VFs they enable.
func parseConf(file, text string) ([]rule, error) {
	m := newMistakes(file, text)
	if len(m.list) > 0 {
		return nil, m.err()
	}
	r := rule{source: filepath.Base(file), desired: Desired{VFs: All}}
	lines := map[string]int{} // of the keys
	number := 0
	for line := range strings.Lines(text) {
		number++
		name, value, ok := parseLine(line)
		switch first, again := lines[name]; {
		case !ok:
			m.addf(number, "invalid line %s: must be KEY=VALUE, where KEY is %s or %s",
				quote(strings.TrimSpace(line)), confServices, confAutoReset)
			continue
		case name == "":
			continue
		case again:
			m.addf(number, "key %q occurs more than once, first in line %d", name, first)
			continue
		}
		lines[name] = number
		switch name {
		case confServices:
			r.desired.Services = m.confServices(number, value)
		case confAutoReset:
			on := value == "on"
			if !on && value != "off" {
				m.addf(number, "%s: invalid value %s: must be on or off", name, quote(value))
			}
			r.desired.AutoReset = &on
		default:
			m.addf(number, "unknown key %s: must be %s or %s", quote(name), confServices, confAutoReset)
		}
	}
	if len(lines) == 0 && len(m.list) == 0 {
		m.addf(1, "the file has no key: must have %s or %s", confServices, confAutoReset)
	}
	return []rule{r}, m.err()
}

// parseLine returns the key and the value of a line, or "" for a line without a key. Each line is
// parsed on its own, because the errors and keys of the library do not have line numbers.
func parseLine(line string) (name, value string, ok bool) {
	file, err := ini.LoadSources(ini.LoadOptions{
		KeyValueDelimiters:  "=",
		IgnoreContinuation:  true,
		IgnoreInlineComment: true, // services are separated by ";"
	}, []byte(line))
	if err != nil || strings.HasPrefix(strings.TrimSpace(line), "[") { // there are no sections
		return "", "", false
	}
	for _, k := range file.Section("").Keys() {
		return k.Name(), k.Value(), true
	}
	return "", "", true
}

// confServices parses services such as "sym;asym".
func (m *mistakes) confServices(line int, value string) []string {
	all := strings.Join(device.ServiceNames(), ", ")
	before := len(m.list)
	var services []string
	for service := range strings.SplitSeq(value, ";") {
		service = strings.TrimSpace(service)
		switch {
		case !slices.Contains(device.ServiceNames(), service):
			m.addf(line, "%s: unknown service %s: must be one or more of %s, separated by a semicolon",
				confServices, quote(service), all)
		case slices.Contains(services, service):
			m.addf(line, "%s: %s occurs more than once", confServices, quote(service))
		}
		services = append(services, service)
	}
	if len(m.list) == before {
		if err := checkServices(services, nil); err != nil {
			m.addf(line, "%s: %s", confServices, err)
		}
	}
	return services
}
