// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"qatplugin/qat"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

func TestWrongFlagIsExplainedInOneLine(t *testing.T) {
	const (
		port     = "must be HOST:PORT or :PORT with a port from 0 (any free one) to 65535, or empty"
		number   = "must be a whole number, 0 (no limit) or more"
		dir      = "must be the path of a directory that exists"
		interval = "must be 0 (disabled) or at least 1s, such as 10m"
	)
	families := "must be a comma-separated list of " + strings.Join(qat.KernelVFDrivers(), ",")
	for _, tt := range []struct{ flag, value, want string }{
		{"-mode", "fast", "must be dpdk or kernel"},
		{"-adf-ctl", "", "must be the name or path of a program"},
		{"-dpdk-driver", "nvme", "must be vfio-pci or igb_uio"},
		{"-vfio-interface", "x", "must be auto or group or cdev"},
		{"-kernel-vf-drivers", "4xxxvf,foo", families},
		{"-kernel-vf-drivers", "", families},
		{"-allocation-policy", "fair", "must be balanced or packed, or empty"},
		{"-max-num-devices", "-1", number},
		{"-pod-resources-socket", "kubelet.sock", "must be an absolute path, or empty"},
		{"-max-num-devices", "a for b", number},
		{"-sysfs-root", "/does/not/exist", dir},
		{"-dev-root", "/dev/null", dir},
		{"-etc-root", "", dir},
		{"-kubelet-dir", "", "must be the path of a directory"},
		{"-cdi-dir", "", "must be the path of a directory"},
		{"-health-address", "localhost", port},
		{"-health-address", ":http", port},
		{"-health-address", ":65536", port},
		{"-http-address", "8080", port},
		{"-status-socket", "status.sock", "must be an absolute path, or empty"},
		{"-recorder-size", "-1", "must be a whole number, 0 (nothing is recorded) or more"},
		{"-profiling", "yes", "must be true or false"},
		{"-audit-interval", "999ms", interval},
		{"-audit-interval", "-1s", interval},
		{"-audit-interval", "10", interval},
		{"-health-interval", "999ms", interval},
		{"-use-cdi", "maybe", "must be true or false"},
		{"-v", "much", "must be a whole number, such as 2"},
		{"-v", "x", "must be a whole number, such as 2"},
		{"-v", "", "must be a whole number, such as 2"},
		{"-vmodule", "controller", "must be a comma-separated list of PATTERN=N, such as controller=4"},
		{"-stderrthreshold", "loud", "must be INFO, WARNING, ERROR or FATAL"},
		{"-alsologtostderrthreshold", "loud", "must be INFO, WARNING, ERROR or FATAL"},
		{"-log_backtrace_at", "here", "must be FILE:LINE, such as main.go:42, or empty"},
		{"-log_file_max_size", "-1", "must be a whole number of megabytes, 0 (no limit) or more"},
		{"-bind", "", "must be true or false"},
		{"-logtostderr", "perhaps", "must be true or false"},
	} {
		wantUsageError(t, tt.flag+"="+tt.value, fmt.Sprintf("%s: invalid value %q: %s", tt.flag, tt.value, tt.want))
	}
	wantUsageError(t, "-interval=5s", "flag provided but not defined: -interval; see -h for the flags")
	wantUsageError(t, "start", `unexpected argument "start": only flags are allowed, see -h`)
}

// Every flag that refuses a value says in the same way what it allows, those of klog included.
func TestEveryFlagSaysWhatItAllows(t *testing.T) {
	defer klog.CaptureState().Restore()
	newFlagSet(defaultOptions()).VisitAll(func(f *flag.Flag) {
		_, err := parseFlags([]string{"-" + f.Name + "=\x00"}, io.Discard)
		if err == nil {
			return // it takes any text
		}
		if want := "-" + f.Name + `: invalid value "\x00": must be `; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("-%s: error %v, want %s…", f.Name, err, want)
		}
	})
}

// wantUsageError fails the test unless the argument ends the program with this error.
func wantUsageError(t *testing.T, arg, want string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // a program that accepts the argument ends at once
	var stdout, stderr bytes.Buffer
	if status := run(ctx, []string{arg}, &stdout, &stderr); status != 2 {
		t.Errorf("%s: exit status %d, want 2", arg, status)
	}
	if want = "qat_plugin: " + want + "\n"; stderr.String() != want || stdout.Len() > 0 {
		t.Errorf("%s: printed %q (stdout %q), want %q", arg, &stderr, &stdout, want)
	}
}

func TestBoundaryValuesOfFlags(t *testing.T) {
	value := func(o *options, name string) string { return newFlagSet(o).Lookup(name).Value.String() }
	for _, arg := range []string{
		"-audit-interval=1s", "-health-interval=1s", "-max-num-devices=0", "-health-address=", "-health-address=:0",
		"-health-address=:65535", "-health-address=localhost:8081", "-health-address=[::1]:8081", "-allocation-policy=",
		"-allocation-policy=packed", "-kernel-vf-drivers=4xxxvf,c6xxvf", "-pod-resources-socket=",
		"-pod-resources-socket=/none/x.sock", "-http-address=:8080", "-http-address=", "-status-socket=",
		"-status-socket=/none/x.sock",
	} {
		o, err := parseFlags([]string{arg}, io.Discard)
		name, want, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if err != nil || value(o, name) != want {
			t.Errorf("%s: value %q, %v", arg, value(o, name), err)
		}
	}
	o, err := parseFlags([]string{"-audit-interval=0", "-health-interval=0"}, io.Discard)
	if err != nil || o.QAT.AuditInterval >= 0 || o.QAT.HealthInterval >= 0 {
		t.Errorf("intervals of 0: %v and %v, %v; want negative ones, which mean never",
			o.QAT.AuditInterval, o.QAT.HealthInterval, err)
	}
}

func TestFlagsReachTheConfig(t *testing.T) {
	o, err := parseFlags([]string{"-bind=false", "-steal", "-dry-run", "-audit-interval=2m", "-adf-ctl=x"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c := o.QAT; !c.NoBind || !c.Steal || !c.DryRun || c.AuditInterval != 2*time.Minute || c.ADFCtl != "x" {
		t.Errorf("config %+v", c)
	}
	o, err = parseFlags([]string{"-kernel-vf-drivers=4xxxvf, c6xxvf"}, io.Discard)
	if err != nil || !slices.Equal(o.QAT.KernelVFDrivers, []string{"4xxxvf", "c6xxvf"}) {
		t.Errorf("list with a space: %q, %v", o.QAT.KernelVFDrivers, err)
	}
	if o, err = parseFlags(nil, io.Discard); err != nil || o.QAT.NoBind || o.QAT.Steal || o.QAT.DryRun {
		t.Errorf("config without flags %+v, %v", o.QAT, err)
	}
}

func TestHelpNamesEveryFlagWithItsDefault(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), []string{"-h"}, &stdout, &stderr); status != 0 || stderr.Len() > 0 {
		t.Fatalf("exit status %d and %q on standard error, want 0 and nothing", status, &stderr)
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
		"recorder-size":   "2048",
		"adf-ctl":         "adf_ctl",
		"etc-root":        "/etc",

		"pod-resources-socket": "/var/lib/kubelet/pod-resources/kubelet.sock",
		"status-socket":        "/run/qat_plugin/status.sock",
	} {
		_, rest, _ := strings.Cut(help, "\n  -"+name+" ")
		usage, _, _ := strings.Cut(rest, "\n  -")
		if want := fmt.Sprintf("(default %s)", preset); !strings.HasSuffix(strings.TrimSpace(usage), want) {
			t.Errorf("usage of -%s: %q, want it to end in %q", name, usage, want)
		}
	}
}

// otherFlags are the flags that apply to both modes. Every other flag belongs to one mode.
var otherFlags = []string{
	"mode", "sysfs-root", "dev-root", "dry-run", "kubelet-dir", "audit-interval", "health-address", "http-address",
	"status-socket", "kubernetes-events", "profiling", "logging-format", "version",
}

func TestFlagsOfTheOtherModeAreReportedAsUnused(t *testing.T) {
	kernel := []string{"adf-ctl", "etc-root"}
	var dpdk []string
	fromKlog := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(fromKlog)
	newFlagSet(defaultOptions()).VisitAll(func(f *flag.Flag) {
		if fromKlog.Lookup(f.Name) == nil && !slices.Contains(slices.Concat(kernel, otherFlags), f.Name) {
			dpdk = append(dpdk, f.Name)
		}
	})
	for mode, want := range map[string][]string{qat.ModeDPDK: kernel, qat.ModeKernel: dpdk} {
		args := []string{"-v=4", "-version=false"}
		for _, name := range slices.Concat(kernel, dpdk, otherFlags) {
			if name != "mode" && name != "version" {
				value := newFlagSet(defaultOptions()).Lookup(name).DefValue
				if strings.HasSuffix(name, "-root") {
					value = "/"
				}
				args = append(args, "-"+name+"="+value)
			}
		}
		o, err := parseFlags(append(args, "-mode="+mode), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, o.unused); diff != "" {
			t.Errorf("unused flags in mode %s (-want +got):\n%s", mode, diff)
		}
	}
}

func TestVersionIsPrinted(t *testing.T) {
	var stdout strings.Builder
	status := run(t.Context(), []string{"-version"}, &stdout, io.Discard)
	if status != 0 || !strings.HasPrefix(stdout.String(), "qat_plugin devel go") {
		t.Errorf("exit status %d, %q", status, stdout.String())
	}
}

func TestPodName(t *testing.T) {
	for _, tt := range []struct{ namespace, pod, want string }{
		{"qat", "plugin-x7k2p", "qat/plugin-x7k2p"},
		{"", "plugin-x7k2p", ""},
		{"qat", "", ""},
	} {
		env := map[string]string{"POD_NAMESPACE": tt.namespace, "POD_NAME": tt.pod}
		if got := podName(func(name string) string { return env[name] }); got != tt.want {
			t.Errorf("podName of %v: %q, want %q", env, got, tt.want)
		}
	}
}
