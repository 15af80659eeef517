// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"qatplugin/qat/internal/pci"
)

func address(t testing.TB, text string) pci.Address {
	t.Helper()
	a, ok := pci.Parse(text)
	if !ok {
		t.Fatalf("%q is not a PCI address", text)
	}
	return a
}

func TestParseStatus(t *testing.T) {
	const line = " qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: 0000:3b:00.0,  " +
		"#accel: 5 #engines: 10 state: up\n"
	const head = "Checking status of all devices.\nThere is 1 QAT acceleration device(s) in the system:\n"
	const parse = "parse adf_ctl status: "
	pf := entry{Type: "c6xx", Number: 0, NUMANode: 0, Address: address(t, "0000:3b:00.0"), State: "up"}
	one := []entry{pf}
	with := func(change func(*entry)) []entry {
		i := pf
		change(&i)
		return []entry{i}
	}
	for name, test := range map[string]struct {
		text    string
		want    []entry
		skipped skips
		err     string
	}{
		"a device": {
			text: head + line,
			want: one,
		},
		"an older program omits the PCI domain": {
			text: " qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: 3b:00.0,  #accel: 5 state: up\n",
			want: one,
		},
		"another domain, in upper case": {
			text: " qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: 10000:3B:00.0,  #accel: 5 state: up\n",
			want: with(func(i *entry) { i.Address = address(t, "10000:3b:00.0") }),
		},
		"CR LF line ends and no end of the last line": {
			text: " qat_dev0 - type: c6xx, inst_id: 0, node_id: 0, bsf: 0000:3b:00.0, state: up\r\n\r",
			want: one,
		},
		"fields in another order with others between": {
			text: "qat_dev0\t- state: up, bsf: 0000:3b:00.0,new_id: 7,inst_id: 0,\tnode_id: 0, type: c6xx",
			want: one,
		},
		"a device that is down": {
			text: " qat_dev0 - type: c6xx, inst_id: 3, node_id: 1, bsf: 0000:3b:00.0, state: down",
			want: with(func(i *entry) { i.Number, i.NUMANode, i.State = 3, 1, "down" }),
		},
		"the largest numbers": {
			text: " qat_dev0 - type: c6xx, inst_id: 65536, node_id: 1023, bsf: 0000:3b:00.0, state: up",
			want: with(func(i *entry) { i.Number, i.NUMANode = 65536, 1023 }),
		},
		"NUMA node -1": {
			text: " qat_dev0 - type: c6xx, inst_id: 0, node_id: -1, bsf: 0000:3b:00.0, state: up",
			want: with(noNode),
		},
		"NUMA node out of range": {
			text: " qat_dev0 - type: c6xx, inst_id: 0, node_id: 1024, bsf: 0000:3b:00.0, state: up",
			want: with(noNode),
		},
		"no NUMA node": {
			text: " qat_dev0 - type: c6xx, inst_id: 0, bsf: 0000:3b:00.0, state: up",
			want: with(noNode),
		},
		"a type of several words": {
			text: " qat_dev0 - type: vqat-adi, inst_id: 0, node_id: 0, bsf: 0000:3b:00.0, state: up",
			want: with(func(i *entry) { i.Type = "vqat-adi" }),
		},
		"no device": {
			text: "Checking status of all devices.\nThere is 0 QAT acceleration device(s) in the system:\n",
		},
		"a device of Gen4 beside another": {
			text:    line + " qat_dev1 - type: 4xxx, inst_id: 0, node_id: 0, bsf: 6b:00.0, state: up\n",
			want:    one,
			skipped: skips{"4xxx_dev0": reasonForQATlib},
		},
		"only VFs of Gen4": {
			text:    " qat_dev1 - type: 4xxxvf, inst_id: 3, node_id: 0, bsf: 6b:00.1, state: up\n",
			skipped: skips{"4xxxvf_dev3": reasonForQATlib},
		},
		"Gen3": {
			text: " qat_dev0 - type: c4xxx, inst_id: 0, node_id: 0, bsf: 0000:3b:00.0, state: up",
			want: with(func(i *entry) { i.Type = "c4xxx" }),
		},
		"nothing":                        {text: "", err: errNoStatus.Error()},
		"another program's output":       {text: "y\ny\ny\n", err: errNoStatus.Error()},
		"the list of devices is missing": {text: head, err: errNoStatus.Error()},
		"ten devices, none of them listed": {
			text: "There is 10 QAT acceleration device(s) in the system:\n",
			err:  errNoStatus.Error(),
		},
		"lines that are no devices": {
			text: "segmentation fault\ntype: c6xx, inst_id: 0, bsf: 3b:00.0, state: up\n",
			err:  errNoStatus.Error(),
		},

		"no type": {
			text: " qat_dev4 - inst_id: 0, bsf: 3b:00.0, state: up\n",
			err:  parse + `no type in "qat_dev4 - inst_id: 0, bsf: 3b:00.0, state: up"`,
		},
		"a type with a path": {
			text: " qat_dev4 - type: ../c6xx, inst_id: 0, bsf: 3b:00.0, state: up\n",
			err:  parse + `type "../c6xx" is not the name of a driver`,
		},
		"a negative number": {
			text: " qat_dev4 - type: c6xx, inst_id: -1, bsf: 3b:00.0, state: up\n",
			err:  parse + `inst_id "-1" is not a number`,
		},
		"a number out of range": {
			text: " qat_dev4 - type: c6xx, inst_id: 65537, bsf: 3b:00.0, state: up\n",
			err:  parse + `inst_id "65537" is not a number`,
		},
		"not an address": {
			text: " qat_dev4 - type: c6xx, inst_id: 0, bsf: 3b:00, state: up\n",
			err:  parse + `bsf "3b:00" is not a PCI address`,
		},
		"a truncated line": {
			text: " qat_dev4 - type: c6xx, inst_id: 0, bsf: 3b:00.0, state",
			err:  parse + `no state in "qat_dev4 - type: c6xx, inst_id: 0, bsf: 3b:00.0, state"`,
		},
		"a bad line beside a good one": {
			text: " qat_dev4 - type: c6xx\n" +
				" qat_dev0 - type: c6xx, inst_id: 0, node_id: 0, bsf: 3b:00.0, state: up\n",
			want:    one,
			skipped: skips{"qat_dev4": parse + `no inst_id in "qat_dev4 - type: c6xx"`},
		},
		"a device twice": {
			text:    line + line,
			want:    one,
			skipped: skips{"qat_dev0": "adf_ctl status lists c6xx_dev0 twice"},
		},
		"two bad lines of one name": {
			text: " qat_dev4 - type: c6xx\n qat_dev4 - type: .\n" + line,
			want: one,
			skipped: skips{"qat_dev4": parse + `no inst_id in "qat_dev4 - type: c6xx"; ` +
				parse + `type "." is not the name of a driver`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, skipped, err := parseStatus([]byte(test.text))
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("error %v, want %s", err, test.err)
				}
				return
			}
			must(t, err)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.skipped, skipped, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("skipped (-want +got):\n%s", diff)
			}
		})
	}
}

func noNode(i *entry) { i.NUMANode = -1 }

// Whatever the program prints, each device has a name of its own that is one
// component of a path.
func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(" qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: 0000:3b:00.0,  #accel: 5 state: up\n"))
	f.Add([]byte("qat_dev0 type: c6xxvf, inst_id: 00, bsf: 3b:01.7, state: down\n" +
		"qat_dev1 type: c6xxvf, inst_id: 0, bsf: 3b:01.7, state: x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, skipped, err := parseStatus(text)
		if err != nil && len(entries)+len(skipped) > 0 {
			t.Errorf("the error %v comes with %d devices", err, len(entries)+len(skipped))
		}
		seen := map[string]bool{}
		for _, i := range entries {
			name := i.name()
			isComponent := !strings.ContainsAny(name, "/.\x00\n ")
			if seen[name] || !isComponent || i.State == "" || i.Number < 0 || i.NUMANode < -1 {
				t.Errorf("device %+v", i)
			}
			seen[name] = true
		}
		for name, reason := range skipped {
			if name == "" || reason == "" {
				t.Errorf("skipped %q for %q", name, reason)
			}
		}
	})
}
