// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"qatplugin/qat/internal/device"
)

// document is a YAML file of one test.
type document struct {
	name string
	text string
	want string // the lines of the error, each without the name of the file

	// schema is "accepts" if the schema cannot say what is wrong, and "cannot be asked" if the
	// document is not one JSON value.
	schema string
}

const (
	accepts       = "accepts"
	cannotBeAsked = "cannot be asked"

	allFamilies = "dh895xcc, c6xx, c3xxx, 200xx, d15xx, c4xxx, 4xxx, 401xx, 402xx, 420xx, 6xxx"
	addresses   = "a PCI address such as 0000:6b:00.0, or two of them as in 0000:70:00.0-0000:85:00.0"
	ruleKeys    = "name, match, services, vfs, autoReset, pmIdle or driver"
	gen4        = "must be one or two of asym, sym and dc, or dcc alone"
	gen6        = "must be one to three of asym, sym, dc and decomp, or dcc alone"
	withGen4    = "must be left out, or the rule must match one of 4xxx, 401xx, 402xx, 420xx, 6xxx"
)

var documents = []document{
	// Valid.
	{name: "no rules", text: "rules: []"},
	{name: "an empty rule", text: "rules: [{}]"},
	{name: "JSON", text: `{"rules": [{"vfs": "all", "services": ["dc"]}]}`},
	{name: "comments and a document start", text: "# x\n---\nrules: # y\n- vfs: all\n...\n"},
	{name: "byte order mark", text: "\ufeffrules:\n- vfs: all\n"},
	{name: "all settings", text: `
rules:
- name: compression on node 1
  match:
    pfs: ["0000:6b:00.0", 0000:70:00.0-0000:85:00.0, 10000:01:1f.7]
    numaNodes: [0, 1]
    families: [dh895xcc, c6xx, c3xxx, 200xx, d15xx, c4xxx, 4xxx, 401xx, 402xx, 420xx, 6xxx]
  services: [dc, sym]
  vfs: all
  autoReset: true
  pmIdle: false
  driver: vfio-pci
- vfs: 0
  driver: kernel
`},
	{name: "an empty match", text: "rules: [{match: {}, vfs: all}]"},
	{name: "one address as a range", text: `rules: [{match: {pfs: ["0000:6b:00.0-0000:6b:00.0"]}}]`},
	{name: "dcc", text: "rules: [{services: [dcc]}]"},
	{name: "services of Gen6", text: "rules: [{services: [decomp, sym, asym]}]"},
	{
		name: "services of Gen6 for Gen6",
		text: "rules: [{match: {families: [6xxx]}, services: [decomp, sym, dc]}]",
	},
	{name: "dcc for both generations", text: "rules: [{match: {families: [6xxx, 420xx]}, services: [dcc]}]"},
	{
		name: "VFs only for Gen2",
		text: "rules: [{match: {families: [c6xx, c3xxx]}, vfs: all, driver: kernel}]",
	},
	{
		name: "settings for Gen2 and Gen4",
		text: "rules: [{match: {families: [c6xx, 4xxx]}, services: [dc], autoReset: on, pmIdle: false}]",
		want: `1: autoReset: invalid value "on": must be true or false`,
	},

	// The file as a whole.
	{name: "an empty file", text: "", want: "1: the file is empty", schema: cannotBeAsked},
	{name: "white space", text: " \n\n", want: "1: the file is empty", schema: cannotBeAsked},
	{
		name: "only comments",
		text: "# x\n",
		want: "1: the file is empty: rules is missing", schema: cannotBeAsked,
	},
	{
		name: "an empty document",
		text: "---\n",
		want: "1: the file: invalid value (nothing): must be a mapping with rules",
	},
	{name: "an empty mapping", text: "{}", want: `1: the file: key "rules" is missing`},
	{
		name: "a list",
		text: "- vfs: all",
		want: "1: the file: invalid value (a list): must be a mapping with rules",
	},
	{name: "a text", text: "rules", want: `1: the file: invalid value "rules": must be a mapping with rules`},
	{
		name:   "two documents",
		text:   "rules: []\n---\nrules: []\n",
		want:   "2: a second YAML document: must be one document",
		schema: cannotBeAsked,
	},
	{
		name:   "an empty second document",
		text:   "rules: []\n---\n",
		want:   "2: a second YAML document: must be one document",
		schema: cannotBeAsked,
	},
	{
		name: "no rules key",
		text: "rule: []",
		want: "1: the file: unknown key \"rule\": must be rules\n1: the file: key \"rules\" is missing",
	},
	{
		name:   "rules twice",
		text:   "rules: []\nrules: []",
		want:   `2: the file: key "rules" occurs more than once, first in line 1`,
		schema: cannotBeAsked,
	},
	{
		name: "rules without a value",
		text: "rules:",
		want: "1: rules: invalid value (nothing): must be a list of rules",
	},
	{
		name: "rules is a mapping",
		text: "rules: {vfs: all}",
		want: "1: rules: invalid value (a mapping): must be a list of rules",
	},

	// Syntax.
	{
		name:   "invalid UTF-8",
		text:   "rules:\n- name: \xff\n",
		want:   "2: invalid byte 0xff: must be UTF-8 text",
		schema: cannotBeAsked,
	},
	{
		name: "UTF-16",
		text: "\xfe\xff\x00r",
		want: "1: invalid byte 0xfe: must be UTF-8 text",
	},
	{
		name:   "a control character",
		text:   "rules:\n- name: \"\x07\"\n",
		want:   "2: invalid character U+0007: must be printable text",
		schema: cannotBeAsked,
	},
	{
		name:   "a byte order mark inside",
		text:   "rules:\n- name: \ufeff\n",
		want:   "2: invalid character U+FEFF: must be printable text",
		schema: accepts,
	},
	{
		name:   "a tab",
		text:   "rules:\n\t- vfs: all\n",
		want:   "2: found character that cannot start any token",
		schema: cannotBeAsked,
	},
	{
		name:   "wrong indentation",
		text:   "rules:\n- name: x\n  vfs: all\n pmIdle: true\n",
		want:   "4: did not find expected key (while parsing a block mapping from line 1)",
		schema: cannotBeAsked,
	},
	{
		name:   "a key in a value",
		text:   "rules: []: x",
		want:   "1: mapping values are not allowed in this context",
		schema: cannotBeAsked,
	},
	{
		name:   "an open list",
		text:   "rules:\n- services: [dc\n",
		want:   "2: did not find expected ',' or ']' (while parsing a flow sequence from line 2)",
		schema: cannotBeAsked,
	},
	{
		name:   "an open quote",
		text:   "rules:\n- name: \"x\n\n\n",
		want:   "4: found unexpected end of stream (while scanning a quoted scalar from line 2)",
		schema: cannotBeAsked,
	},
	{
		name:   "too many levels",
		text:   "rules:\n" + strings.Repeat("[", 10001),
		want:   "2: exceeded max depth of 10000",
		schema: cannotBeAsked,
	},
	{
		name:   "an undefined tag",
		text:   "rules:\n- !x!y {}\n",
		want:   "2: found undefined tag handle",
		schema: cannotBeAsked,
	},
	{
		name:   "a mistake in a second document",
		text:   "rules: []\n---\na: [\n",
		want:   "3: did not find expected node content",
		schema: cannotBeAsked,
	},
	{
		name:   "an anchor",
		text:   "rules:\n- &a\n  vfs: all\n- *a\n",
		schema: accepts,
		want: "2: anchor &a: anchors and aliases are not supported\n" +
			"4: alias *a: anchors and aliases are not supported",
	},
	{
		name: "an anchor beside another mistake",
		text: "rules: &a\n- vfs: 1\n",
		want: "1: anchor &a: anchors and aliases are not supported",
	},
	{
		name:   "a mapping with a tag",
		text:   "rules:\n- !x {}\n",
		want:   "2: a rule: invalid value (a mapping): must be a mapping with " + ruleKeys,
		schema: accepts,
	},
	{
		name:   "a list with a tag",
		text:   "rules: !x [{}]",
		want:   "1: rules: invalid value (a list): must be a list of rules",
		schema: accepts,
	},
	{
		name:   "an alias without anchor",
		text:   "rules:\n- vfs: all\n- *a\n",
		want:   "3: unknown anchor 'a' referenced",
		schema: cannotBeAsked,
	},
	{
		name:   "an alias that contains itself",
		text:   "rules: &a\n- *a\n",
		schema: cannotBeAsked,
		want: "1: anchor &a: anchors and aliases are not supported\n" +
			"2: alias *a: anchors and aliases are not supported",
	},
	{
		name:   "a merge key",
		text:   "rules:\n- <<: {vfs: all}\n",
		schema: accepts,
		want:   "2: a rule: unknown key << (!!merge): must be " + ruleKeys,
	},

	// Keys of rules.
	{
		name: "a rule without a value",
		text: "rules:\n-\n",
		want: "2: a rule: invalid value (nothing): must be a mapping with " + ruleKeys,
	},
	{
		name: "a rule is a text",
		text: "rules: [all]",
		want: `1: a rule: invalid value "all": must be a mapping with ` + ruleKeys,
	},
	{
		name: "an unknown key",
		text: "rules:\n- vfs: all\n  vf: 1\n",
		want: `3: a rule: unknown key "vf": must be ` + ruleKeys,
	},
	{
		name: "a key in another case",
		text: "rules:\n- VFs: all\n",
		want: `2: a rule: unknown key "VFs": must be ` + ruleKeys,
	},
	{
		name:   "a number as a key",
		text:   "rules:\n- 1: all\n",
		want:   `2: a rule: unknown key 1 (!!int): must be ` + ruleKeys,
		schema: cannotBeAsked,
	},
	{
		name:   "a list as a key",
		text:   "rules:\n- [vfs]: all\n",
		want:   `2: a rule: unknown key (a list): must be ` + ruleKeys,
		schema: cannotBeAsked,
	},
	{
		name:   "a key twice",
		text:   "rules:\n- vfs: all\n  pmIdle: true\n  vfs: 0\n",
		want:   `4: a rule: key "vfs" occurs more than once, first in line 2`,
		schema: cannotBeAsked,
	},
	{
		name: "a key twice, first with a mistake",
		text: "rules:\n- vfs: 1\n  vfs: 2\n",
		want: "2: vfs: invalid value 1 (!!int): must be all or 0\n" +
			`3: a rule: key "vfs" occurs more than once, first in line 2`,
		schema: cannotBeAsked,
	},
	{
		name: "an unknown key of match",
		text: "rules: [{match: {pf: []}}]",
		want: `1: match: unknown key "pf": must be pfs, numaNodes or families`,
	},
	{
		name: "match without a value",
		text: "rules:\n- match:\n",
		want: "2: match: invalid value (nothing): must be a mapping with pfs, numaNodes or families",
	},
	{
		name: "match is a list",
		text: "rules: [{match: [c6xx]}]",
		want: "1: match: invalid value (a list): must be a mapping with pfs, numaNodes or families",
	},

	// Values.
	{name: "an empty name", text: `rules: [{name: ""}]`, want: `1: name: invalid value "": must be a text`},
	{
		name: "a number as a name",
		text: `rules: [{name: 5}]`,
		want: `1: name: invalid value 5 (!!int): must be a text`,
	},
	{
		name: "a list as a name",
		text: `rules: [{name: [a]}]`,
		want: `1: name: invalid value (a list): must be a text`,
	},
	{
		name: "a bare address",
		text: "rules: [{match: {pfs: 0000:6b:00.0}}]",
		want: `1: match.pfs: invalid value "0000:6b:00.0": must be a list of PCI addresses or ranges`,
	},
	{
		name: "no addresses",
		text: "rules: [{match: {pfs: []}}]",
		want: "1: match.pfs: the list is empty: must be left out or have an item",
	},
	{
		name: "an address without a domain",
		text: `rules: [{match: {pfs: ["6b:00.0"]}}]`,
		want: `1: match.pfs: invalid value "6b:00.0": must be ` + addresses,
	},
	{
		name: "an address in upper case",
		text: `rules: [{match: {pfs: ["0000:6B:00.0"]}}]`,
		want: `1: match.pfs: invalid value "0000:6B:00.0": must be ` + addresses,
	},
	{
		name: "a device above 31",
		text: `rules: [{match: {pfs: ["0000:6b:20.0"]}}]`,
		want: `1: match.pfs: invalid value "0000:6b:20.0": must be ` + addresses,
	},
	{
		name: "a function above 7",
		text: `rules: [{match: {pfs: ["0000:6b:00.8"]}}]`,
		want: `1: match.pfs: invalid value "0000:6b:00.8": must be ` + addresses,
	},
	{
		name: "a range without an end",
		text: `rules: [{match: {pfs: ["0000:6b:00.0-"]}}]`,
		want: `1: match.pfs: invalid value "0000:6b:00.0-": must be ` + addresses,
	},
	{
		name: "a range without a start",
		text: `rules: [{match: {pfs: ["-0000:6b:00.0"]}}]`,
		want: `1: match.pfs: invalid value "-0000:6b:00.0": must be ` + addresses,
	},
	{
		name: "a range of three",
		text: `rules: [{match: {pfs: ["0000:6b:00.0-0000:6b:00.0-0000:6b:00.0"]}}]`,
		want: `1: match.pfs: invalid value "0000:6b:00.0-0000:6b:00.0-0000:6b:00.0": must be ` + addresses,
	},
	{
		name: "a number as an address",
		text: "rules: [{match: {pfs: [1]}}]",
		want: "1: match.pfs: invalid value 1 (!!int): must be " + addresses,
	},
	{
		name:   "a reversed range",
		text:   `rules: [{match: {pfs: ["0000:6b:00.1-0000:6b:00.0"]}}]`,
		schema: accepts,
		want: `1: match.pfs: invalid value "0000:6b:00.1-0000:6b:00.0": ` +
			"must be a range from the lower to the higher address",
	},
	{
		name: "a bare NUMA node",
		text: "rules: [{match: {numaNodes: 1}}]",
		want: "1: match.numaNodes: invalid value 1 (!!int): must be a list of numbers",
	},
	{
		name: "no NUMA nodes",
		text: "rules: [{match: {numaNodes: []}}]",
		want: "1: match.numaNodes: the list is empty: must be left out or have an item",
	},
	{
		name: "a negative NUMA node",
		text: "rules: [{match: {numaNodes: [-1]}}]",
		want: "1: match.numaNodes: invalid value -1 (!!int): must be a number from 0 up",
	},
	{
		name: "a fraction as NUMA node",
		text: "rules: [{match: {numaNodes: [1.5]}}]",
		want: "1: match.numaNodes: invalid value 1.5 (!!float): must be a number from 0 up",
	},
	{
		name:   "a whole fraction as NUMA node",
		text:   "rules: [{match: {numaNodes: [1.0]}}]",
		schema: accepts,
		want:   "1: match.numaNodes: invalid value 1.0 (!!float): must be a number from 0 up",
	},
	{
		name:   "a NUMA node of 20 digits",
		text:   "rules: [{match: {numaNodes: [10000000000000000000]}}]",
		schema: accepts,
		want:   "1: match.numaNodes: invalid value 10000000000000000000 (!!int): must be a number from 0 up",
	},
	{
		name: "a text as NUMA node",
		text: `rules: [{match: {numaNodes: ["1"]}}]`,
		want: `1: match.numaNodes: invalid value "1": must be a number from 0 up`,
	},
	{
		name: "a bare family",
		text: "rules: [{match: {families: 4xxx}}]",
		want: `1: match.families: invalid value "4xxx": must be a list of families`,
	},
	{
		name: "no families",
		text: "rules: [{match: {families: []}}]",
		want: "1: match.families: the list is empty: must be left out or have an item",
	},
	{
		name: "an unknown family",
		text: "rules: [{match: {families: [4xxx, c62x]}}]",
		want: `1: match.families: invalid value "c62x": must be one of ` + allFamilies,
	},
	{
		name: "a family in another case",
		text: "rules: [{match: {families: [C3xxx]}}]",
		want: `1: match.families: invalid value "C3xxx": must be one of ` + allFamilies,
	},
	{
		name: "an empty family",
		text: `rules: [{match: {families: [""]}}]`,
		want: `1: match.families: invalid value "": must be one of ` + allFamilies,
	},
	{
		name: "vfs is a number of VFs",
		text: "rules: [{vfs: 16}]",
		want: "1: vfs: invalid value 16 (!!int): must be all or 0",
	},
	{
		name: "vfs is the text 0",
		text: `rules: [{vfs: "0"}]`,
		want: `1: vfs: invalid value "0": must be all or 0`,
	},
	{
		name: "vfs is none",
		text: "rules: [{vfs: none}]",
		want: `1: vfs: invalid value "none": must be all or 0`,
	},
	{
		name: "vfs is false",
		text: "rules: [{vfs: false}]",
		want: "1: vfs: invalid value false (!!bool): must be all or 0",
	},
	{
		name: "vfs without a value",
		text: "rules: [{vfs: }]",
		want: "1: vfs: invalid value (nothing): must be all or 0",
	},
	{
		name: "vfs is a list",
		text: "rules: [{vfs: [all]}]",
		want: "1: vfs: invalid value (a list): must be all or 0",
	},
	{
		name: "autoReset is a number",
		text: "rules: [{autoReset: 1}]",
		want: "1: autoReset: invalid value 1 (!!int): must be true or false",
	},
	{
		name: "pmIdle is a text",
		text: `rules: [{pmIdle: "true"}]`,
		want: `1: pmIdle: invalid value "true": must be true or false`,
	},
	{
		name: "pmIdle without a value",
		text: `rules: [{pmIdle: ~}]`,
		want: `1: pmIdle: invalid value (nothing): must be true or false`,
	},
	{
		name: "an unknown driver",
		text: "rules: [{driver: nvme}]",
		want: `1: driver: invalid value "nvme": must be vfio-pci (the value of -dpdk-driver) or kernel`,
	},
	{
		name:   "a DPDK driver that is not the plugin's",
		text:   "rules: [{driver: igb_uio}]",
		schema: accepts,
		want:   `1: driver: invalid value "igb_uio": must be vfio-pci (the value of -dpdk-driver) or kernel`,
	},
	{
		name: "driver without a value",
		text: "rules: [{driver: }]",
		want: "1: driver: invalid value (nothing): must be vfio-pci (the value of -dpdk-driver) or kernel",
	},
	{
		name: "an empty driver",
		text: `rules: [{driver: ""}]`,
		want: `1: driver: invalid value "": must be vfio-pci (the value of -dpdk-driver) or kernel`,
	},
	{
		name: "a text of 64 characters",
		text: `rules: [{driver: ` + strings.Repeat("ä", 64) + `}]`,
		want: `1: driver: invalid value "` + strings.Repeat("ä", 64) + `": ` +
			"must be vfio-pci (the value of -dpdk-driver) or kernel",
	},
	{
		name: "a long text",
		text: `rules: [{driver: ` + strings.Repeat("ä", 65) + `}]`,
		want: `1: driver: invalid value "` + strings.Repeat("ä", 64) + `"…: ` +
			"must be vfio-pci (the value of -dpdk-driver) or kernel",
	},

	// Services.
	{
		name: "a bare service",
		text: "rules: [{services: dc}]",
		want: `1: services: invalid value "dc": must be a list of services (asym, sym, dc, decomp, dcc)`,
	},
	{
		name: "services of qat.conf",
		text: "rules: [{services: [sym;asym]}]",
		want: `1: services: invalid value "sym;asym": must be one of asym, sym, dc, decomp, dcc`,
	},
	{
		name: "no services",
		text: "rules: [{services: []}]",
		want: "1: services: the list is empty: must be left out or have an item",
	},
	{
		name: "an unknown service",
		text: "rules:\n- services:\n  - dc\n  - cy\n",
		want: `4: services: invalid value "cy": must be one of asym, sym, dc, decomp, dcc`,
	},
	{
		name: "a number as a service",
		text: "rules: [{services: [1]}]",
		want: `1: services: invalid value 1 (!!int): must be one of asym, sym, dc, decomp, dcc`,
	},
	{
		name: "a service twice",
		text: "rules:\n- services:\n  - dc\n  - dc\n",
		want: `4: services: "dc" occurs more than once`,
	},
	{
		name: "too many services",
		text: "rules: [{services: [asym, sym, dc, decomp]}]",
		want: "1: services: 6xxx does not accept asym;sym;dc;decomp: " + gen6,
	},
	{
		name: "dcc with another service",
		text: "rules:\n- vfs: all\n  services: [dcc, sym]\n",
		want: "3: services: 6xxx does not accept dcc;sym: " + gen6,
	},
	{
		name: "three services for Gen4",
		text: "rules: [{match: {families: [402xx]}, services: [asym, sym, dc]}]",
		want: "1: services: 402xx does not accept asym;sym;dc: " + gen4,
	},
	{
		name: "decomp for Gen4 and Gen6",
		text: "rules: [{match: {families: [6xxx, 420xx]}, services: [decomp]}]",
		want: "1: services: 420xx does not accept decomp: " + gen4,
	},
	{
		name: "decomp for Gen2 and Gen4",
		text: "rules: [{match: {families: [c6xx, 4xxx]}, services: [decomp]}]",
		want: "1: services: 4xxx does not accept decomp: " + gen4,
	},
	{
		name: "too many services for Gen6",
		text: "rules: [{match: {families: [6xxx]}, services: [asym, sym, dc, decomp]}]",
		want: "1: services: 6xxx does not accept asym;sym;dc;decomp: " + gen6,
	},
	{
		name: "settings for Gen2",
		text: "rules:\n- match: {families: [c6xx, dh895xcc]}\n  services: [dc]\n  autoReset: true\n  pmIdle: true\n",
		want: "3: services: not available on c6xx, dh895xcc: " + withGen4 + "\n" +
			"4: autoReset: not available on c6xx, dh895xcc: " + withGen4 + "\n" +
			"5: pmIdle: not available on c6xx, dh895xcc: " + withGen4,
	},
	{
		name: "services beside another mistake",
		text: "rules:\n- vfs: 1\n  services: [dcc, dc]\n  match: {families: [6xxx]}\n",
		want: "2: vfs: invalid value 1 (!!int): must be all or 0\n" +
			"3: services: 6xxx does not accept dcc;dc: " + gen6,
	},
	{
		name: "services of an unknown family",
		text: "rules:\n- services: [decomp]\n  match: {families: [4xx, c6xx]}\n",
		want: "3: match.families: invalid value \"4xx\": must be one of " + allFamilies,
	},
	{
		name: "an unknown service of a family without services",
		text: "rules:\n- services: [cy]\n  match: {families: [c6xx]}\n",
		want: "2: services: invalid value \"cy\": must be one of asym, sym, dc, decomp, dcc\n" +
			"2: services: not available on c6xx: " + withGen4,
	},
	{
		name: "several mistakes",
		text: "rules:\n- vfs: 1\n  match: {families: [x], numaNodes: [-1]}\n" +
			"- services: [dcc, dc]\n  typo: 1\n- 5\nmore: 1\n",
		want: "2: vfs: invalid value 1 (!!int): must be all or 0\n" +
			"3: match.families: invalid value \"x\": must be one of " + allFamilies + "\n" +
			"3: match.numaNodes: invalid value -1 (!!int): must be a number from 0 up\n" +
			"4: services: 6xxx does not accept dcc;dc: " + gen6 + "\n" +
			"5: a rule: unknown key \"typo\": must be " + ruleKeys + "\n" +
			"6: a rule: invalid value 5 (!!int): must be a mapping with " + ruleKeys + "\n" +
			"7: the file: unknown key \"more\": must be rules",
	},
}

func TestParseYAML(t *testing.T) {
	for _, d := range documents {
		t.Run(d.name, func(t *testing.T) {
			_, err := parseYAML("dir/qat.yaml", d.text, device.DriverVFIO)
			if diff := cmp.Diff(withFile("dir/qat.yaml", d.want), message(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

// withFile puts the name of a file before each line of an error.
func withFile(file, lines string) string {
	if lines == "" {
		return ""
	}
	return file + ":" + strings.ReplaceAll(lines, "\n", "\n"+file+":")
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

const schemaFile = "../../../../docs/provisioning.schema.json"

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// asJSON returns a YAML document as the value that the schema checks.
func asJSON(text string) (any, error) {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("a second document: %v", err)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(data))
}

func TestSchemaAgreesWithParser(t *testing.T) {
	schema := compileSchema(t)
	for _, d := range documents {
		t.Run(d.name, func(t *testing.T) {
			value, err := asJSON(d.text)
			if (err != nil) != (d.schema == cannotBeAsked) {
				t.Fatalf("conversion to JSON: %v; the table says %q", err, d.schema)
			}
			if err != nil {
				return
			}
			err = schema.Validate(value)
			if want := d.want == "" || d.schema == accepts; (err == nil) != want {
				t.Errorf("the schema accepts the document: %v, want %v: %v", err == nil, want, err)
			}
		})
	}
}

// TestSchemaListsWhatTheParserAllows compares the words in the schema with those of the parser.
func TestSchemaListsWhatTheParserAllows(t *testing.T) {
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	type words struct{ Enum []string }
	var schema struct {
		Defs struct {
			Rule struct {
				Properties struct{ Driver words }
			}
			Match struct {
				Properties struct{ Families struct{ Items words } }
			}
			Services struct{ Items words }
		} `json:"$defs"`
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		got, want []string
	}{
		{"drivers", schema.Defs.Rule.Properties.Driver.Enum, append(device.Drivers(), DriverKernel)},
		{"families", schema.Defs.Match.Properties.Families.Items.Enum, strings.Split(allFamilies, ", ")},
		{"services", schema.Defs.Services.Items.Enum, device.ServiceNames()},
	} {
		if !slices.Equal(tt.got, tt.want) {
			t.Errorf("%s: the schema has %q, the parser %q", tt.name, tt.got, tt.want)
		}
	}
}

// TestAllowedCharacters compares the characters that are allowed with those that the YAML library
// reads. The library also reads DEL and the control characters from U+0080 on, but for U+0085.
func TestAllowedCharacters(t *testing.T) {
	for r := range rune(0x10400) {
		text := "# " + string(r)
		if r >= 0xD800 && r <= 0xDFFF || r == '\n' || r == 0xFEFF {
			continue // not in UTF-8, allowed anyway, and allowed only at the beginning
		}
		var document yaml.Node
		err := yaml.NewDecoder(strings.NewReader(text)).Decode(&document)
		isControl := r >= 0x7F && r < 0xA0 && r != 0x85
		if want := errors.Is(err, io.EOF) && !isControl; isAllowed(r, 2) != want {
			t.Errorf("%U: allowed %v, want %v; the library: %v", r, !want, want, err)
		}
	}
}

func TestMistakesAreLimited(t *testing.T) {
	_, err := parseYAML("qat.yaml", "rules:\n"+strings.Repeat("- vfs: 1\n", maxMistakes+3), device.DriverVFIO)
	lines := strings.Split(message(err), "\n")
	if len(lines) != maxMistakes+1 {
		t.Fatalf("%d lines, want %d:\n%v", len(lines), maxMistakes+1, err)
	}
	if got, want := lines[maxMistakes], "qat.yaml:22: 3 more mistakes"; got != want {
		t.Errorf("last line %q, want %q", got, want)
	}
	_, err = parseYAML("qat.yaml", "rules:\n"+strings.Repeat("- vfs: 1\n", maxMistakes), device.DriverVFIO)
	if strings.Contains(message(err), "more") || strings.Count(message(err), "\n") != maxMistakes-1 {
		t.Errorf("want %d mistakes, got:\n%v", maxMistakes, err)
	}
}
