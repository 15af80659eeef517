// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseConf(t *testing.T) {
	const (
		keys = "ServicesEnabled or AutoresetEnabled"
		all  = "one or more of asym, sym, dc, decomp, dcc, separated by a semicolon"
		line = "must be KEY=VALUE, where KEY is " + keys
	)
	on, off := true, false
	tests := []struct {
		name, text string
		want       Desired
		err        string // the lines of the error, each without the name of the file
	}{
		{
			name: "both keys",
			text: "ServicesEnabled=sym;asym\nAutoresetEnabled=on\n",
			want: Desired{Services: []string{"sym", "asym"}, VFs: All, AutoReset: &on},
		},
		{
			name: "only services",
			text: "ServicesEnabled=dcc",
			want: Desired{Services: []string{"dcc"}, VFs: All},
		},
		{
			name: "only auto-reset, with spaces, comments and line ends of DOS",
			text: "# comment\r\n; comment\r\n\r\n  AutoresetEnabled = off  \r\n",
			want: Desired{VFs: All, AutoReset: &off},
		},
		{
			name: "services of Gen6 with spaces and quotes",
			text: `ServicesEnabled = "asym; sym ;decomp"`,
			want: Desired{Services: []string{"asym", "sym", "decomp"}, VFs: All},
		},
		{
			name: "byte order mark",
			text: "\ufeffServicesEnabled=dc\n",
			want: Desired{Services: []string{"dc"}, VFs: All},
		},
		{name: "an empty file", err: "1: the file is empty"},
		{
			name: "only comments",
			text: "# ServicesEnabled=dc\n",
			err:  "1: the file has no key: must have " + keys,
		},
		{
			name: "invalid UTF-8",
			text: "\nServicesEnabled=\xff",
			err:  "2: invalid byte 0xff: must be UTF-8 text",
		},
		{
			name: "an unknown key",
			text: "AutoresetEnabled=on\nServicesenabled=dc\n",
			err:  `2: unknown key "Servicesenabled": must be ` + keys,
		},
		{
			name: "a key twice",
			text: "ServicesEnabled=dc\n\nServicesEnabled=dc\n",
			err:  `3: key "ServicesEnabled" occurs more than once, first in line 1`,
		},
		{
			name: "an unknown key twice",
			text: "x=1\nx=2\n",
			err:  `1: unknown key "x": must be ` + keys + "\n" + `2: key "x" occurs more than once, first in line 1`,
		},
		{
			name: "a section",
			text: "[GENERAL]\nServicesEnabled=dc\n",
			err:  `1: invalid line "[GENERAL]": ` + line,
		},
		{
			name: "the default section",
			text: "[DEFAULT]\nServicesEnabled=dc\n",
			err:  `1: invalid line "[DEFAULT]": ` + line,
		},
		{
			name: "no delimiter",
			text: "AutoresetEnabled=on\nServicesEnabled\n",
			err:  `2: invalid line "ServicesEnabled": ` + line,
		},
		{
			name: "a colon as delimiter",
			text: "ServicesEnabled: dc\n",
			err:  `1: invalid line "ServicesEnabled: dc": ` + line,
		},
		{
			name: "no key",
			text: "=dc\n",
			err:  `1: invalid line "=dc": ` + line,
		},
		{
			name: "a continued line",
			text: "ServicesEnabled=sym;\\\nasym\n",
			err: "1: ServicesEnabled: unknown service \"\\\\\": must be " + all + "\n" +
				"2: invalid line \"asym\": " + line,
		},
		{
			name: "no services",
			text: "ServicesEnabled=\n",
			err:  `1: ServicesEnabled: unknown service "": must be ` + all,
		},
		{
			name: "an unknown service",
			text: "ServicesEnabled=dc;cy\n",
			err:  `1: ServicesEnabled: unknown service "cy": must be ` + all,
		},
		{
			name: "a semicolon at the end",
			text: "ServicesEnabled=dc;\n",
			err:  `1: ServicesEnabled: unknown service "": must be ` + all,
		},
		{
			name: "a comma",
			text: "ServicesEnabled=sym,asym\n",
			err:  `1: ServicesEnabled: unknown service "sym,asym": must be ` + all,
		},
		{
			name: "a comment after the value",
			text: "ServicesEnabled=dc # compression\n",
			err:  `1: ServicesEnabled: unknown service "dc # compression": must be ` + all,
		},
		{
			name: "a reference to another key",
			text: "x=dc\nServicesEnabled=%(x)s\n",
			err: `1: unknown key "x": must be ` + keys + "\n" +
				`2: ServicesEnabled: unknown service "%(x)s": must be ` + all,
		},
		{
			name: "a service twice",
			text: "ServicesEnabled=dc;dc\n",
			err:  `1: ServicesEnabled: "dc" occurs more than once`,
		},
		{
			name: "services that no family accepts",
			text: "\nServicesEnabled=dc;dcc\n",
			err:  "2: ServicesEnabled: 6xxx does not accept dc;dcc: " + gen6,
		},
		{
			name: "auto-reset in another case",
			text: "AutoresetEnabled=On\n",
			err:  `1: AutoresetEnabled: invalid value "On": must be on or off`,
		},
		{
			name: "auto-reset without a value",
			text: "AutoresetEnabled=\n",
			err:  `1: AutoresetEnabled: invalid value "": must be on or off`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules, err := parseConf("dir/qat.conf", tt.text)
			if diff := cmp.Diff(withFile("dir/qat.conf", tt.err), message(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if err != nil {
				return
			}
			if len(rules) != 1 || rules[0].source != "qat.conf" {
				t.Fatalf("rules %+v, want one with the source qat.conf", rules)
			}
			if !rules[0].matches(PF{Family: families[0x4940]}) {
				t.Error("the rule does not match each PF")
			}
			if diff := cmp.Diff(tt.want, rules[0].desired); diff != "" {
				t.Errorf("desired state (-want +got):\n%s", diff)
			}
		})
	}
}

// TestParseConfAcceptsServicesOfInit checks that each value that demo/qat-init.sh of Intel's device
// plugin accepts (SERVICES_LIST) is accepted.
func TestParseConfAcceptsServicesOfInit(t *testing.T) {
	const list = "sym asym sym;asym asym;sym dc sym;dc asym;dc dcc decomp asym;sym;dc asym;sym;decomp"
	for value := range strings.FieldsSeq(list) {
		rules, err := parseConf("qat.conf", "ServicesEnabled="+value)
		if err != nil {
			t.Errorf("%s: %v", value, err)
		} else if got := strings.Join(rules[0].desired.Services, ";"); got != value {
			t.Errorf("%s: services %s", value, got)
		}
	}
}
