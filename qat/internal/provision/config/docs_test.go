// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/qat/internal/device"
)

const docs = "../../../../docs/provisioning.md"

// A block is a fenced block of a document.
type block struct {
	heading, language, text string
}

func readBlocks(t *testing.T) (blocks []block) {
	t.Helper()
	text, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	heading := ""
	for _, found := range regexp.MustCompile("(?ms)^##+ (.+?)$|^```([a-z]+)\n(.*?)^```$").
		FindAllStringSubmatch(string(text), -1) {
		if found[1] != "" {
			heading = found[1]
			continue
		}
		blocks = append(blocks, block{heading, found[2], found[3]})
	}
	return blocks
}

// TestDocumentedConfigurations parses each configuration in docs/provisioning.md. It is valid, and
// so it is for the schema, or the block after it has the error.
func TestDocumentedConfigurations(t *testing.T) {
	blocks, schema := readBlocks(t), compileSchema(t)
	valid, invalid, conf := 0, 0, 0
	for i, b := range blocks {
		switch {
		case b.language == "ini":
			if _, err := parseConf("qat.conf", b.text); err != nil {
				t.Errorf("%s: %v", b.heading, err)
			}
			conf++
		case b.language == "yaml" && strings.Contains("\n"+b.text, "\nrules:"):
			_, err := parseYAML("/etc/qat-provisioning/qat.yaml", b.text, device.DriverVFIO)
			if b.heading == "Mistakes" && blocks[i+1].language == "text" {
				if diff := cmp.Diff(blocks[i+1].text, message(err)+"\n"); diff != "" {
					t.Errorf("%s: error (-document +got):\n%s", b.heading, diff)
				}
				invalid++
				continue
			}
			value, errJSON := asJSON(b.text)
			if errJSON != nil {
				t.Fatalf("%s: %v", b.heading, errJSON)
			}
			if errSchema := schema.Validate(value); err != nil || errSchema != nil {
				t.Errorf("%s: %v; schema: %v", b.heading, err, errSchema)
			}
			valid++
		}
	}
	if valid < 6 || invalid != 1 || conf < 1 {
		t.Errorf("found %d valid and %d invalid YAML files and %d qat.conf", valid, invalid, conf)
	}
}

// TestUsualNodes compares what the examples in docs/provisioning.md do with their text.
func TestUsualNodes(t *testing.T) {
	yes := true
	crypto := Desired{Services: []string{"sym", "asym"}, VFs: All}
	cryptoAndReset := crypto
	cryptoAndReset.AutoReset = &yes
	node0 := PF{Address: address("0000:6b:00.0"), NUMANode: 0, Family: families[0x4944]}
	node1 := PF{Address: address("0000:e8:00.0"), NUMANode: 1, Family: families[0x4944]}
	gen2 := PF{Address: address("0000:3d:00.0"), NUMANode: 0, Family: families[0x37c8]}
	gen6 := PF{Address: address("0000:01:00.0"), NUMANode: 1, Family: families[0x4948]}
	const name1, name2 = ` "compression on node 1"`, ` "cryptography elsewhere"`
	for heading, want := range map[string][]struct {
		pf      PF
		rule    string
		desired Desired
	}{
		"Turn it on": {{node0, "qat.yaml:2", Desired{VFs: All}}},
		"All PFs for cryptography": {
			{node0, "qat.yaml:2", crypto}, {gen6, "qat.yaml:2", crypto}, {gen2, "qat.yaml:2", Desired{VFs: All}},
		},
		"Cryptography, and compression on one NUMA node": {
			{node0, "qat.yaml:7" + name2, crypto},
			{node1, "qat.yaml:2" + name1, Desired{Services: []string{"dc"}, VFs: All}},
		},
		"Devices of several generations": {
			{node0, "qat.yaml:6", cryptoAndReset},
			{gen6, "qat.yaml:2", Desired{Services: []string{"sym", "asym", "dc"}, VFs: All}},
			{gen2, "qat.yaml:11", Desired{VFs: All}},
		},
		"Rules": {
			{node0, `qat.yaml:2 "used by the host itself"`, Desired{}},
			{node1, "qat.yaml:5", Desired{
				Services: crypto.Services, VFs: All, AutoReset: &yes, PMIdle: &yes,
			}},
		},
	} {
		text := ""
		for _, b := range readBlocks(t) {
			if b.heading == heading && b.language == "yaml" {
				text = b.text
			}
		}
		if text == "" {
			t.Errorf("no example below the heading %q", heading)
			continue
		}
		c := parse(t, text)
		for _, w := range want {
			d, rule, ok := c.Desired(w.pf)
			if diff := cmp.Diff(w.desired, d); diff != "" || rule != w.rule || !ok {
				t.Errorf("%s: PF %s: rule %q, want %q; desired state (-want +got):\n%s",
					heading, w.pf.Address, rule, w.rule, diff)
			}
			if d.Services != nil {
				if err := w.pf.Family.CheckServices(d.Services); err != nil {
					t.Errorf("%s: PF %s: %v", heading, w.pf.Address, err)
				}
			}
		}
	}
}

// TestDocumentedFamilies compares the table of families in docs/provisioning.md with the families.
func TestDocumentedFamilies(t *testing.T) {
	text, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	const names, generation = "`[0-9a-z]+`(?:, `[0-9a-z]+`)*", "Gen4|Gen6|earlier"
	rows := regexp.MustCompile(`(?m)^\| (`+names+`) \| (?:`+generation+`): (8086:.+?) \| (.+?) \|$`).
		FindAllStringSubmatch(string(text), -1)
	rowOf := map[string][]string{}
	for _, row := range rows {
		for _, name := range strings.Split(strings.ReplaceAll(row[1], "`", ""), ", ") {
			rowOf[name] = row
		}
	}
	if len(rows) != 3 {
		t.Errorf("%d rows, want 3", len(rows))
	}
	named := map[string]bool{}
	for id, f := range families {
		row := rowOf[f.ConfigName()]
		named[f.ConfigName()] = true
		if row == nil {
			t.Errorf("no row has the family %s", f.ConfigName())
			continue
		}
		if digits := fmt.Sprintf("%04x", id); !strings.Contains(row[2], digits) {
			t.Errorf("%s: the PF ID %s is not among %q", f.ConfigName(), digits, row[2])
		}
		want := "none"
		if f.Services {
			_, want, _ = strings.Cut(f.CheckServices([]string{"dcc", "dc"}).Error(), ": must be ")
		}
		if got := strings.ReplaceAll(row[3], "`", ""); got != want {
			t.Errorf("%s: services %q, want %q", f.ConfigName(), got, want)
		}
	}
	if len(named) != len(rowOf) {
		t.Errorf("the table has the families %v, want %v", rowOf, named)
	}
}
