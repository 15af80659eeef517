package kernelmode

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/qat"
)

func bdf(t testing.TB, text string) qat.Address {
	t.Helper()
	a, ok := qat.ParseAddress(text)
	if !ok {
		t.Fatalf("%q is no address", text)
	}
	return a
}

func TestParseStatus(t *testing.T) {
	const head = "Checking status of all devices.\nThere is 1 QAT acceleration device(s) in the system:\n"
	pf := instance{Type: "c6xx", Number: 0, Node: 0, Address: bdf(t, "0000:3b:00.0"), State: "up"}
	with := func(change func(*instance)) []instance {
		i := pf
		change(&i)
		return []instance{i}
	}
	for _, tt := range []struct {
		name string
		text string
		want []instance
		left []Omission
	}{
		{"a device", head + " qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: 0000:3b:00.0,  #accel: 5 #engines: 10 state: up\n", []instance{pf}, nil},
		{"an older program, without the PCI domain", " qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: 3b:00.0,  #accel: 5 #engines: 10 state: up\n", []instance{pf}, nil},
		{"another domain", " qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: 10000:3B:00.0,  #accel: 5 #engines: 10 state: up\n",
			with(func(i *instance) { i.Address = bdf(t, "10000:3b:00.0") }), nil},
		{"line ends of another system, and none at the end", " qat_dev0 - type: c6xx, inst_id: 0, node_id: 0, bsf: 0000:3b:00.0, state: up\r\n\r", []instance{pf}, nil},
		{"fields in another order, with others between", "qat_dev0\t- state: up, bsf: 0000:3b:00.0,new_id: 7,inst_id: 0,\tnode_id: 0, type: c6xx", []instance{pf}, nil},
		{"a device that is down", " qat_dev0 - type: c6xx, inst_id: 3, node_id: 1, bsf: 0000:3b:00.0, state: down", with(func(i *instance) { i.Number, i.Node, i.State = 3, 1, "down" }), nil},
		{"a platform that does not say the NUMA node", " qat_dev0 - type: c6xx, inst_id: 0, node_id: -1, bsf: 0000:3b:00.0, state: up", with(func(i *instance) { i.Node = -1 }), nil},
		{"no NUMA node", " qat_dev0 - type: c6xx, inst_id: 0, bsf: 0000:3b:00.0, state: up", with(func(i *instance) { i.Node = -1 }), nil},
		{"a type of several words", " qat_dev0 - type: vqat-adi,  inst_id: 0,  node_id: 0,  bsf: 0000:3b:00.0,  state: up", with(func(i *instance) { i.Type = "vqat-adi" }), nil},
		{"nothing", "", nil, nil},
		{"no device", "There is 0 QAT acceleration device(s) in the system:\n", nil, nil},
		{"something else", "segmentation fault\ntype: c6xx, inst_id: 0, bsf: 3b:00.0, state: up\n", nil, nil},

		{"no type", " qat_dev4 - inst_id: 0, bsf: 3b:00.0, state: up\n", nil,
			[]Omission{{"qat_dev4", `read adf_ctl status: no type in "qat_dev4 - inst_id: 0, bsf: 3b:00.0, state: up"`}}},
		{"a type that leads elsewhere", " qat_dev4 - type: ../c6xx, inst_id: 0, bsf: 3b:00.0, state: up\n", nil,
			[]Omission{{"qat_dev4", `read adf_ctl status: type "../c6xx" is not the name of a driver`}}},
		{"a number that is none", " qat_dev4 - type: c6xx, inst_id: -1, bsf: 3b:00.0, state: up\n", nil, []Omission{{"qat_dev4", `read adf_ctl status: inst_id "-1" is not a number`}}},
		{"an address that is none", " qat_dev4 - type: c6xx, inst_id: 0, bsf: 3b:00, state: up\n", nil, []Omission{{"qat_dev4", `read adf_ctl status: bsf "3b:00" is not a PCI address`}}},
		{"a line that was cut", " qat_dev4 - type: c6xx, inst_id: 0, bsf: 3b:00.0, state", nil,
			[]Omission{{"qat_dev4", `read adf_ctl status: no state in "qat_dev4 - type: c6xx, inst_id: 0, bsf: 3b:00.0, state"`}}},
		{"a broken line beside a good one", " qat_dev4 - type: c6xx\n qat_dev0 - type: c6xx, inst_id: 0, node_id: 0, bsf: 3b:00.0, state: up\n", []instance{pf},
			[]Omission{{"qat_dev4", `read adf_ctl status: no inst_id in "qat_dev4 - type: c6xx"`}}},
		{"a device twice", strings.Repeat(" qat_dev0 - type: c6xx, inst_id: 0, node_id: 0, bsf: 3b:00.0, state: up\n", 2), []instance{pf},
			[]Omission{{"qat_dev0", "adf_ctl status lists c6xx_dev0 twice"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, left := parseStatus([]byte(tt.text))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.left, left); diff != "" {
				t.Errorf("left out (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever a program prints: each device has a name that is one component of a path, and each name comes once.
func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(" qat_dev0 - type: c6xx,  inst_id: 0,  node_id: 0,  bsf: 0000:3b:00.0,  #accel: 5 #engines: 10 state: up\n"))
	f.Add([]byte("qat_dev0 type: c6xxvf, inst_id: 00, bsf: 3b:01.7, state: down\nqat_dev1 type: c6xxvf, inst_id: 0, bsf: 3b:01.7, state: x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		instances, left := parseStatus(text)
		seen := map[string]bool{}
		for _, i := range instances {
			if name := i.name(); seen[name] || strings.ContainsAny(name, "/.\x00\n ") || i.State == "" || i.Number < 0 || i.Node < -1 {
				t.Errorf("device %+v", i)
			}
			seen[i.name()] = true
		}
		for _, o := range left {
			if o.Subject == "" || o.Reason == "" {
				t.Errorf("left out: %+v", o)
			}
		}
	})
}
