package main

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAWrongFlagEndsWithExit2AndOneLineThatSaysWhatIsAllowed(t *testing.T) {
	tests := map[string]struct {
		args []string
		want []string // parts of the line
	}{
		"mode":                {[]string{"-mode=fast"}, []string{"-mode", `"fast"`, "dpdk or kernel"}},
		"adf_ctl":             {[]string{"-adf-ctl="}, []string{"-adf-ctl", `""`, "a program"}},
		"driver":              {[]string{"-dpdk-driver=nvme"}, []string{"-dpdk-driver", `"nvme"`, "allowed is vfio-pci or igb_uio"}},
		"VF drivers":          {[]string{"-kernel-vf-drivers=4xxxvf,foo"}, []string{"-kernel-vf-drivers", `"4xxxvf,foo"`, "dh895xccvf,c6xxvf"}},
		"no VF drivers":       {[]string{"-kernel-vf-drivers="}, []string{"-kernel-vf-drivers", `""`, "dh895xccvf,c6xxvf"}},
		"policy":              {[]string{"-allocation-policy=fair"}, []string{"-allocation-policy", `"fair"`, "balanced or packed"}},
		"limit below nothing": {[]string{"-max-num-devices=-1"}, []string{"-max-num-devices", `"-1"`, "0 (no limit) or more"}},
		"limit of no number":  {[]string{"-max-num-devices", "many"}, []string{"-max-num-devices", `"many"`, "0 (no limit) or more"}},
		"sysfs":               {[]string{"-sysfs-root=/does/not/exist"}, []string{"-sysfs-root", `"/does/not/exist"`, "a directory that exists"}},
		"dev":                 {[]string{"-dev-root=/dev/null"}, []string{"-dev-root", `"/dev/null"`, "a directory that exists"}},
		"kubelet":             {[]string{"-kubelet-dir="}, []string{"-kubelet-dir", `""`, "path of a directory"}},
		"no port":             {[]string{"-health-address=localhost"}, []string{"-health-address", `"localhost"`, "HOST:PORT"}},
		"port of no number":   {[]string{"-health-address=:http"}, []string{"-health-address", `":http"`, "0 (any that is free) to 65535"}},
		"port too high":       {[]string{"-health-address=:65536"}, []string{"-health-address", `":65536"`, "0 (any that is free) to 65535"}},
		"audit too often":     {[]string{"-audit-interval=10ms"}, []string{"-audit-interval", `"10ms"`, "1s or more"}},
		"audit of no time":    {[]string{"-audit-interval=10"}, []string{"-audit-interval", `"10"`, "such as 10m"}},
		"verbosity":           {[]string{"-v=much"}, []string{"-v", `"much"`, "number for the log level verbosity"}},
		"one of klog's":       {[]string{"-logtostderr=perhaps"}, []string{"-logtostderr", `"perhaps"`, "true or false"}},
		"unknown":             {[]string{"-interval=5s"}, []string{"-interval", "see -h"}},
		"argument":            {[]string{"start"}, []string{`"start"`, "only flags are allowed"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(context.Background(), test.args, &stdout, &stderr); code != 2 {
				t.Errorf("exit status %d, want 2", code)
			}
			line := stderr.String()
			if strings.Count(line, "\n") != 1 || stdout.Len() > 0 {
				t.Errorf("printed %q and %q, want one line on standard error", line, &stdout)
			}
			for _, part := range test.want {
				if !strings.Contains(line, part) {
					t.Errorf("%q does not say %q", line, part)
				}
			}
		})
	}
}

func TestAHealthAddressMayBeGivenAndBeNone(t *testing.T) {
	for _, want := range []string{"", ":0", ":65535", "localhost:8081", "127.0.0.1:8081", "[::1]:8081"} {
		o, err := parseFlags([]string{"-health-address=" + want}, io.Discard)
		if err != nil || o.healthAddress != want {
			t.Errorf("-health-address=%s: %+v, %v", want, o, err)
		}
	}
}

func TestHelpNamesEveryFlagWithItsDefault(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"-h"}, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Fatalf("exit status %d and %q on standard error, want 0 and nothing", code, &stderr)
	}
	for _, part := range []string{
		"-dpdk-driver driver", "(default vfio-pci)", "-kernel-vf-drivers drivers", "-max-num-devices number", "-sysfs-root directory", "(default /sys)",
		"-dev-root directory", "(default /dev)", "-kubelet-dir directory", "(default /var/lib/kubelet/device-plugins)", "-audit-interval time", "(default 10m0s)",
		"-v value", "-vmodule value", "-logtostderr",
	} {
		if !strings.Contains(stdout.String(), part) {
			t.Errorf("-h does not say %q", part)
		}
	}
}

func TestAFlagOfTheOtherModeIsAcceptedAndSaidToHaveNoEffect(t *testing.T) {
	tests := map[string]struct {
		args []string
		want []string
	}{
		"dpdk's in kernel mode": {[]string{"-mode=kernel", "-steal", "-max-num-devices=4", "-audit-interval=1m"}, []string{"max-num-devices", "steal"}},
		"kernel's in dpdk mode": {[]string{"-adf-ctl=/opt/adf_ctl", "-bind=false"}, []string{"adf-ctl"}},
		"none":                  {[]string{"-mode=dpdk", "-v=4"}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o, err := parseFlags(test.args, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(o.idle, test.want) {
				t.Errorf("flags without effect: %q, want %q", o.idle, test.want)
			}
		})
	}
}
