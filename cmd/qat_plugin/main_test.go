// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qatplugin/qat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWrongFlagIsExplainedInOneLine(t *testing.T) {
	vfDrivers := strings.Join(qat.KernelVFDrivers(), ",")
	const port = "must be HOST:PORT or :PORT with a port from 0 (any free one) to 65535, or empty"
	for _, tt := range []struct{ arg, want string }{
		{"-mode=fast", `-mode: invalid value "fast": must be dpdk or kernel`},
		{"-adf-ctl=", `-adf-ctl: invalid value "": must be the name or path of a program`},
		{"-dpdk-driver=nvme", `-dpdk-driver: invalid value "nvme": must be vfio-pci or igb_uio`},
		{"-vfio-interface=x", `-vfio-interface: invalid value "x": must be auto or group or cdev`},
		{"-kernel-vf-drivers=4xxxvf,foo", `-kernel-vf-drivers: invalid value "4xxxvf,foo": must be a comma-separated list of ` + vfDrivers},
		{"-kernel-vf-drivers=", `-kernel-vf-drivers: invalid value "": must be a comma-separated list of ` + vfDrivers},
		{"-allocation-policy=fair", `-allocation-policy: invalid value "fair": must be balanced or packed, or empty`},
		{"-max-num-devices=-1", `-max-num-devices: invalid value "-1": must be a whole number, 0 (no limit) or more`},
		{"-max-num-devices=a for b", `-max-num-devices: invalid value "a for b": must be a whole number, 0 (no limit) or more`},
		{"-sysfs-root=/does/not/exist", `-sysfs-root: invalid value "/does/not/exist": must be the path of a directory that exists`},
		{"-dev-root=/dev/null", `-dev-root: invalid value "/dev/null": must be the path of a directory that exists`},
		{"-kubelet-dir=", `-kubelet-dir: invalid value "": must be the path of a directory`},
		{"-health-address=localhost", `-health-address: invalid value "localhost": ` + port},
		{"-health-address=:http", `-health-address: invalid value ":http": ` + port},
		{"-health-address=:65536", `-health-address: invalid value ":65536": ` + port},
		{"-audit-interval=999ms", `-audit-interval: invalid value "999ms": must be 0 (disabled) or at least 1s, such as 10m`},
		{"-audit-interval=10", `-audit-interval: invalid value "10": must be 0 (disabled) or at least 1s, such as 10m`},
		{"-health-interval=999ms", `-health-interval: invalid value "999ms": must be 0 (disabled) or at least 1s, such as 10m`},
		{"-use-cdi=maybe", `-use-cdi: invalid value "maybe": must be true or false`},
		{"-v=much", `-v: invalid value "much": want number for the log level verbosity`},
		{"-logtostderr=perhaps", `-logtostderr: invalid value "perhaps": must be true or false`},
		{"-interval=5s", `flag provided but not defined: -interval; see -h for the flags`},
		{"start", `unexpected argument "start": only flags are allowed, see -h`},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(context.Background(), []string{tt.arg}, &stdout, &stderr); code != 2 {
			t.Errorf("%s: exit status %d, want 2", tt.arg, code)
		}
		if want := "qat_plugin: " + tt.want + "\n"; stderr.String() != want || stdout.Len() > 0 {
			t.Errorf("%s: printed %q (stdout %q), want %q", tt.arg, &stderr, &stdout, want)
		}
	}
}

func TestBoundaryValuesOfFlags(t *testing.T) {
	value := func(o *options, name string) string { return newFlagSet(o).Lookup(name).Value.String() }
	for _, arg := range []string{
		"-audit-interval=1s", "-health-interval=1s", "-max-num-devices=0", "-health-address=", "-health-address=:0",
		"-health-address=:65535", "-health-address=localhost:8081", "-health-address=[::1]:8081", "-allocation-policy=",
		"-allocation-policy=packed", "-kernel-vf-drivers=4xxxvf,c6xxvf",
	} {
		o, err := parseFlags([]string{arg}, io.Discard)
		name, want, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if err != nil || value(o, name) != want {
			t.Errorf("%s: value %q, %v", arg, value(o, name), err)
		}
	}
	o, err := parseFlags([]string{"-audit-interval=0", "-health-interval=0"}, io.Discard)
	if err != nil || o.qat.AuditInterval >= 0 || o.qat.HealthInterval >= 0 {
		t.Errorf("intervals of 0: %v and %v, %v; want negative ones, which mean never", o.qat.AuditInterval, o.qat.HealthInterval, err)
	}
}

func TestFlagsReachTheConfig(t *testing.T) {
	o, err := parseFlags([]string{"-bind=false", "-steal", "-dry-run", "-audit-interval=2m", "-adf-ctl=x"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c := o.qat; !c.NoBind || !c.Steal || !c.DryRun || c.AuditInterval != 2*time.Minute || c.ADFCtl != "x" {
		t.Errorf("config %+v", c)
	}
	if o, err = parseFlags(nil, io.Discard); err != nil || o.qat.NoBind || o.qat.Steal || o.qat.DryRun {
		t.Errorf("config without flags %+v, %v", o.qat, err)
	}
}

func TestHelpNamesEveryFlagWithItsDefault(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"-h"}, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Fatalf("exit status %d and %q on standard error, want 0 and nothing", code, &stderr)
	}
	help := stdout.String()
	newFlagSet(defaultOptions()).VisitAll(func(f *flag.Flag) {
		if !strings.Contains(help, "\n  -"+f.Name) {
			t.Errorf("-h does not name -%s", f.Name)
		}
	})
	for name, preset := range map[string]string{
		"dpdk-driver":     "vfio-pci",
		"sysfs-root":      "/sys",
		"dev-root":        "/dev",
		"kubelet-dir":     "/var/lib/kubelet/device-plugins",
		"cdi-dir":         "/var/run/cdi",
		"audit-interval":  "10m0s",
		"health-interval": "5s",
		"adf-ctl":         "adf_ctl",
		"etc-root":        "/etc",
	} {
		_, rest, _ := strings.Cut(help, "\n  -"+name+" ")
		usage, _, _ := strings.Cut(rest, "\n  -")
		if want := fmt.Sprintf("(default %s)", preset); !strings.HasSuffix(strings.TrimSpace(usage), want) {
			t.Errorf("-h says of -%s %q, want it to end in %q", name, usage, want)
		}
	}
}

func TestFlagsOfTheOtherModeAreReportedAsUnused(t *testing.T) {
	for _, tt := range []struct{ args, want []string }{
		{[]string{"-mode=kernel", "-steal", "-max-num-devices=4", "-audit-interval=1m"}, []string{"max-num-devices", "steal"}},
		{[]string{"-adf-ctl=/opt/adf_ctl", "-bind=false"}, []string{"adf-ctl"}},
		{[]string{"-mode=dpdk", "-v=4"}, nil},
	} {
		o, err := parseFlags(tt.args, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(o.unused, tt.want) {
			t.Errorf("%q: unused flags %q, want %q", tt.args, o.unused, tt.want)
		}
	}
}
