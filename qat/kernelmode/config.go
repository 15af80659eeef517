package kernelmode

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"gopkg.in/ini.v1"
)

const (
	maxConfig = 1 << 20 // bytes; real ones have some thousand
	// maxCount is more processes or instances than any device has rings for; a typing error must not become a million units.
	maxCount = 4096
)

// A section is one section of a device's configuration file: for a group of processes, what each of them gets.
type section struct {
	Name      string
	Processes int    // NumProcesses
	Cy, Dc    int    // NumberCyInstances and NumberDcInstances: crypto and compression instances of each process
	Pinned    bool   // LimitDevAccess: a process uses instances of one device only
	Broken    string // why the section cannot be used, "" when it can
}

// readConfig reads a device's configuration file. An error leaves out the device.
func readConfig(name string) ([]section, error) {
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	sections, err := parseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("parse %q: %w", name, err)
	}
	return sections, nil
}

// readFile reads a regular file. It does not wait for a writer when somebody put a FIFO there.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %q: not a regular file", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxConfig {
		return nil, fmt.Errorf("read %q: more than %d bytes", name, maxConfig)
	}
	return text, nil
}

// kernelSections are for the kernel itself. All other sections are for processes.
func kernelSections() []string {
	return []string{ini.DefaultSection, "GENERAL", "KERNEL", "KERNEL_QAT"}
}

// parseConfig finds the sections for processes, in the order of the file. A section that makes no sense is among them, with its reason.
// An error means that the file as a whole is not understood, as the library gives up at the first line that is no INI.
func parseConfig(text []byte) ([]section, error) {
	if len(strings.TrimSpace(string(text))) == 0 {
		return nil, errors.New("the file is empty")
	}
	file, err := ini.LoadSources(ini.LoadOptions{
		KeyValueDelimiters:     "=",
		ChildSectionDelimiter:  "\n", // no section is another's child: [SSL.1] must not inherit from [SSL]
		AllowNonUniqueSections: true, // to see them; otherwise the second silently changes the first
		AllowShadows:           true, // the same for keys
		IgnoreContinuation:     true,
	}, text)
	if err != nil {
		return nil, errors.New(strings.TrimSpace(err.Error())) // some of the library's errors quote the line with its end
	}
	var sections []section
	for _, s := range file.Sections() {
		if slices.Contains(kernelSections(), s.Name()) {
			continue
		}
		if i := slices.IndexFunc(sections, func(o section) bool { return o.Name == s.Name() }); i >= 0 {
			sections[i] = section{Name: s.Name(), Broken: "the section is there more than once"}
			continue
		}
		sections = append(sections, parseSection(s))
	}
	return sections, nil
}

func parseSection(s *ini.Section) section {
	r := section{Name: s.Name()}
	err := checkSectionName(s.Name())
	for _, field := range []struct {
		key   string
		value *int
	}{{"NumProcesses", &r.Processes}, {"NumberCyInstances", &r.Cy}, {"NumberDcInstances", &r.Dc}} {
		if err == nil {
			*field.value, err = parseCount(s, field.key)
		}
	}
	if err == nil && s.HasKey("LimitDevAccess") {
		r.Pinned, err = parseSwitch(s, "LimitDevAccess")
	}
	if err != nil {
		return section{Name: s.Name(), Broken: err.Error()}
	}
	return r
}

// checkSectionName refuses what cannot be in the ID of a unit or in a variable of a container's environment.
func checkSectionName(name string) error {
	if !utf8.ValidString(name) || name != strings.TrimSpace(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("the name %q has a character that is not allowed", name)
	}
	return nil
}

// value is the text of a key. It is raw: the library's String would replace %(name)s by another key's value.
func value(s *ini.Section, key string) (string, error) {
	if !s.HasKey(key) {
		return "", fmt.Errorf("%s is missing", key)
	}
	k := s.Key(key)
	if len(slices.Compact(slices.Sorted(slices.Values(k.ValueWithShadows())))) > 1 {
		return "", fmt.Errorf("%s is there with different values", key)
	}
	return k.Value(), nil
}

func parseCount(s *ini.Section, key string) (int, error) {
	text, err := value(s, key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxCount {
		return 0, fmt.Errorf("%s is %q: allowed is a number of 0 to %d", key, text, maxCount)
	}
	return n, nil
}

func parseSwitch(s *ini.Section, key string) (bool, error) {
	text, err := value(s, key)
	switch {
	case err != nil:
		return false, err
	case text == "0", text == "1":
		return text == "1", nil
	}
	on, err := s.Key(key).Bool()
	if err != nil {
		return false, fmt.Errorf("%s is %q: allowed is 0 or 1", key, text)
	}
	return on, nil
}
