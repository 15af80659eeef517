// SPDX-License-Identifier: Apache-2.0

package config

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/qat/internal/device"
)

// A fuzzed document is accepted, and then its rules answer the same each time and only what the PFs
// accept, or it is refused with an error whose lines name the file and one of its lines.
func checkDocument(t *testing.T, text string, parse func() ([]rule, error)) {
	t.Helper()
	rules, err := parse()
	if again, errAgain := parse(); message(err) != message(errAgain) ||
		!cmp.Equal(rules, again, cmp.AllowUnexported(rule{}, addressRange{})) {
		t.Fatalf("parsed twice: %+v, %v; %+v, %v", rules, err, again, errAgain)
	}
	if err != nil {
		checkError(t, err, 1+strings.Count(text, "\n"))
		return
	}
	for _, f := range device.Families() {
		c := Config{rules: rules}
		d, rule, ok := c.Desired(PF{Family: f, NUMANode: -1})
		switch {
		case !ok && (rule != "" || !cmp.Equal(d, Desired{})):
			t.Errorf("%s: no rule matches, and the answer is %+v of rule %q", f.Name, d, rule)
		case ok && rule == "":
			t.Errorf("%s: a rule without a name matches", f.Name)
		case !f.Services && (d.Services != nil || d.AutoReset != nil || d.PMIdle != nil):
			t.Errorf("%s: %+v has what the family does not have", f.Name, d)
		}
		if d.Services != nil && checkServices(d.Services, nil) != nil {
			t.Errorf("%s: no family accepts the services %q", f.Name, d.Services)
		}
	}
}

func checkError(t *testing.T, err error, lines int) {
	t.Helper()
	pattern := regexp.MustCompile(`^dir/file:([0-9]+): .`)
	for line := range strings.SplitSeq(err.Error(), "\n") {
		found := pattern.FindStringSubmatch(line)
		if found == nil {
			t.Fatalf("%q does not name the file and the line", line)
		}
		if number, _ := strconv.Atoi(found[1]); number < 1 || number > lines {
			t.Errorf("%q names line %s of %d", line, found[1], lines)
		}
	}
}

func FuzzParseYAML(f *testing.F) {
	for _, d := range documents {
		f.Add(d.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		checkDocument(t, text, func() ([]rule, error) { return parseYAML("dir/file", text, device.DriverVFIO) })
	})
}

// FuzzSchema compares the verdicts of the schema and the parser: the schema accepts what the parser
// accepts.
func FuzzSchema(f *testing.F) {
	schema := compileSchema(f)
	for _, d := range documents {
		f.Add(d.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parseYAML("dir/file", text, device.DriverVFIO); err != nil {
			return
		}
		value, err := asJSON(text)
		if err != nil {
			t.Fatalf("the parser accepts what is not one JSON value: %v", err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("the parser accepts what the schema refuses: %v", err)
		}
	})
}

func FuzzParseConf(f *testing.F) {
	f.Add("ServicesEnabled=sym;asym\nAutoresetEnabled=on\n")
	f.Add("# comment\r\n; comment\n ServicesEnabled = \"dc\"\nAutoresetEnabled=off")
	f.Add("[GENERAL]\nServicesEnabled=%(x)s\n\"\"\"x=`y\n")
	f.Fuzz(func(t *testing.T, text string) {
		checkDocument(t, text, func() ([]rule, error) { return parseConf("dir/file", text) })
	})
}
