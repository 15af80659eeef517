// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/ini.v1"
)

// maxCount limits the number of processes and instances, so that a typing error does not make a
// million units. No device has rings for as many.
const maxCount = 4096

// A section is one section of a device's configuration file. It describes a group of processes
// and the instances that each of them gets.
type section struct {
	Name      string
	Processes int    // NumProcesses
	Cy, Dc    int    // NumberCyInstances, NumberDcInstances: crypto and compression instances of a process
	Pinned    bool   // LimitDevAccess: a process uses instances of one device only
	Invalid   string // why the section cannot be used; "" if it can
}

// parseConfig returns the sections for processes in the order of the file,
// including invalid ones. If the file is not a valid INI file, parseConfig returns no
// sections and an error with the number of the first invalid line.
func parseConfig(text string) ([]section, error) {
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("the file is empty")
	}
	file, err := loadINI(text)
	if err != nil {
		cause := strings.TrimSpace(err.Error()) // it may quote a line with its end
		return nil, fmt.Errorf("line %d: %s", errorLine(text), cause)
	}
	var sections []section
	for _, s := range file.Sections() {
		switch s.Name() {
		case ini.DefaultSection, "GENERAL", "KERNEL", "KERNEL_QAT": // for the kernel itself
			continue
		}
		same := func(other section) bool { return other.Name == s.Name() }
		if i := slices.IndexFunc(sections, same); i >= 0 {
			sections[i] = section{Name: s.Name(), Invalid: "the section occurs more than once"}
			continue
		}
		sections = append(sections, parseSection(s))
	}
	return sections, nil
}

func loadINI(text string) (*ini.File, error) {
	return ini.LoadSources(ini.LoadOptions{
		KeyValueDelimiters:     "=",
		ChildSectionDelimiter:  "\n", // no section is a child of another: [SSL.1] must not inherit from [SSL]
		AllowNonUniqueSections: true, // to detect them; otherwise the second silently changes the first
		AllowShadows:           true, // the same for keys
		IgnoreContinuation:     true,
	}, []byte(text))
}

// errorLine returns the number of the line at which the INI library fails. The errors of the
// library do not have it. errorLine finds the shortest beginning of the text that fails, and
// returns the number of its last line.
func errorLine(text string) int {
	lines := slices.Collect(strings.Lines(text))
	return 1 + sort.Search(len(lines)-1, func(n int) bool {
		_, err := loadINI(strings.Join(lines[:n+1], ""))
		return err != nil
	})
}

func parseSection(s *ini.Section) section {
	name := s.Name()
	if !utf8.ValidString(name) || name != strings.TrimSpace(name) || strings.ContainsFunc(name, unicode.IsControl) {
		// The name cannot be part of a unit's ID or the value of an environment variable.
		reason := fmt.Sprintf("the section name %q has a character that is not allowed", name)
		return section{Name: name, Invalid: reason}
	}
	var err error
	count := func(key string) (n int) {
		if err == nil {
			n, err = parseCount(s, key)
		}
		return n
	}
	parsed := section{
		Name:      name,
		Processes: count("NumProcesses"),
		Cy:        count("NumberCyInstances"),
		Dc:        count("NumberDcInstances"),
	}
	if err == nil && s.HasKey("LimitDevAccess") {
		parsed.Pinned, err = parseSwitch(s, "LimitDevAccess")
	}
	if err != nil {
		return section{Name: name, Invalid: err.Error()}
	}
	return parsed
}

// rawValue returns the value of a key as written. The String method of the library replaces
// %(name)s by the value of another key.
func rawValue(s *ini.Section, key string) (string, error) {
	if !s.HasKey(key) {
		return "", fmt.Errorf("%s is missing", key)
	}
	k := s.Key(key)
	if len(slices.Compact(slices.Sorted(slices.Values(k.ValueWithShadows())))) > 1 {
		return "", fmt.Errorf("%s occurs with different values", key)
	}
	return k.Value(), nil
}

func parseCount(s *ini.Section, key string) (int, error) {
	text, err := rawValue(s, key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxCount {
		return 0, fmt.Errorf("%s: invalid value %q: must be a number from 0 to %d", key, text, maxCount)
	}
	return n, nil
}

func parseSwitch(s *ini.Section, key string) (bool, error) {
	text, err := rawValue(s, key)
	if err != nil {
		return false, err
	}
	on, err := s.Key(key).Bool() // also takes words such as "yes" and "off"
	if err != nil {
		return false, fmt.Errorf("%s: invalid value %q: must be 0 or 1", key, text)
	}
	return on, nil
}
