// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/internal/status"
)

// asProgram is the environment variable with which the test binary is qat_dra_driver.
const asProgram = "QAT_DRA_DRIVER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// must fails the test for an error of the test's own surroundings.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kubeconfig writes a file for the API server at the URL.
func kubeconfig(t *testing.T, url string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
users: [{name: u, user: {}}]
`, url), 0o600))
	return path
}

// environment returns what the process would get from variables.
func environment(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

// parse parses flags of a process that can reach an API server.
func parse(t *testing.T, args ...string) (*options, error) {
	t.Helper()
	defer klog.CaptureState().Restore()
	args = append([]string{"-node-name=worker-1", "-kubeconfig=" + kubeconfig(t, "http://127.0.0.1:1")}, args...)
	return parseFlags(args, environment(nil), io.Discard)
}

const driverNames = "must be a DNS name of at most 63 characters that begins with a letter, such as qat.intel.com"

func TestWrongFlagIsExplainedInOneLine(t *testing.T) {
	for _, tt := range []struct{ flag, value, want string }{
		{"-driver-name", "QAT", driverNames},
		{"-driver-name", "", driverNames},
		{"-driver-name", "1qat.example.com", driverNames},
		{"-driver-name", strings.Repeat("a", 64), driverNames},
		{"-node-name", "Worker", "must be the name of a Node, in lower case"},
		{"-kubelet-root", "", "must be the path of a directory"},
		{"-kubelet-dir", "", "must be the path of a directory"},
		{"-cdi-dir", "", "must be the path of a directory"},
		{"-kubeconfig", "config", "must be an absolute path, or empty"},
		{"-unhealthy-taint-effect", "None", "must be NoSchedule or NoExecute"},
		{"-device-metadata", "yes", "must be true or false"},
		{"-assume-cdi", "yes", "must be true or false"},
		{"-dev-root", "/does/not/exist", "must be the path of a directory that exists"},
		{"-dpdk-driver", "nvme", "must be vfio-pci or igb_uio"},
		{"-status-socket", "x", "must be an absolute path, or empty"},
	} {
		_, err := parse(t, tt.flag+"="+tt.value)
		want := fmt.Sprintf("%s: invalid value %q: %s", tt.flag, tt.value, tt.want)
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// Every flag that refuses a value says in the same way what it allows.
func TestEveryFlagSaysWhatItAllows(t *testing.T) {
	newFlagSet(defaultOptions(environment(nil))).VisitAll(func(f *flag.Flag) {
		_, err := parse(t, "-"+f.Name+"=\x00")
		if err == nil {
			return // it takes any text
		}
		if want := "-" + f.Name + `: invalid value "\x00": must be `; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("-%s: error %v, want %s…", f.Name, err, want)
		}
	})
}

// What a process needs to know in addition to flags is part of its environment in a pod.
func TestMissingSurroundingsAreExplained(t *testing.T) {
	file := kubeconfig(t, "http://127.0.0.1:1")
	broken := filepath.Join(t.TempDir(), "broken")
	must(t, os.WriteFile(broken, []byte("{"), 0o600))
	const node = "-node-name=worker-1"
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-kubeconfig=" + file}, `-node-name: invalid value "": must be the name of the Node, unless the `},
		{[]string{node}, `-kubeconfig: invalid value "": must be a kubeconfig file, except in a pod with a ` +
			"service account: "},
		{[]string{node, "-kubeconfig=" + broken}, `-kubeconfig: invalid value "` + broken + `": must be a valid`},
		{[]string{node, "-kubeconfig=/none"}, `-kubeconfig: invalid value "/none": must be a valid kubeconfig: `},
	} {
		t.Setenv("NODE_NAME", "")
		var stdout, stderr bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // a program that accepts the flags ends at once
		status := run(ctx, tt.args, &stdout, &stderr)
		got := stderr.String()
		if status != 2 || !strings.HasPrefix(got, "qat_dra_driver: "+tt.want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%q: exit status %d, printed %q; want 2 and one line with %s", tt.args, status, got, tt.want)
		}
	}
}

func TestEnvironmentOfThePodIsUsed(t *testing.T) {
	args := []string{"-kubeconfig=" + kubeconfig(t, "http://127.0.0.1:1")}
	variables := environment(map[string]string{"NODE_NAME": "worker-1", "POD_UID": "1-2"})
	o, err := parseFlags(args, variables, io.Discard)
	if err != nil || o.QAT.NodeName != "worker-1" || o.podUID != "1-2" {
		t.Errorf("options %+v, %v", o, err)
	}
	o, err = parseFlags(append(args, "-node-name=other"), variables, io.Discard)
	if err != nil || o.QAT.NodeName != "other" {
		t.Errorf("options %+v, %v; want the node of the flag", o, err)
	}
}

func TestFlagsReachTheConfig(t *testing.T) {
	o, err := parse(t, "-bind=false", "-audit-interval=2m", "-driver-name=x.example.com", "-kubelet-root=/k",
		"-kubelet-dir=/d", "-cdi-dir=/c", "-unhealthy-taint-effect=NoExecute", "-device-metadata", "-assume-cdi",
		"-max-num-devices=3")
	must(t, err)
	if c := o.QAT; !c.NoBind || c.AuditInterval != 2*time.Minute || c.MaxNumDevices != 3 || c.Mode != "dpdk" ||
		!c.Attributes {
		t.Errorf("config %+v", c)
	}
	if o.driverName != "x.example.com" || o.kubeletRoot != "/k" || o.kubeletDir != "/d" ||
		o.cdiDir != "/c" || o.taintEffect != noExecute || !o.deviceMetadata || !o.assumeCDI ||
		o.api.Host != "http://127.0.0.1:1" {
		t.Errorf("options %+v", o)
	}
}

// The kubelet keeps device plugins in a fixed directory, whatever its --root-dir is
// (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1, DevicePluginPath), and so does qat_plugin.
func TestDevicePluginsAreNotBelowTheKubeletRoot(t *testing.T) {
	o, err := parse(t, "-kubelet-root=/data/kubelet")
	must(t, err)
	if want := "/var/lib/kubelet/device-plugins"; o.kubeletDir != want {
		t.Errorf("device plugins are expected in %s, want %s", o.kubeletDir, want)
	}
}

func TestHelpNamesEveryFlagWithItsDefault(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), []string{"-h"}, &stdout, &stderr); status != 0 || stderr.Len() > 0 {
		t.Fatalf("exit status %d and %q on standard error, want 0 and nothing", status, &stderr)
	}
	help := stdout.String()
	newFlagSet(defaultOptions(environment(nil))).VisitAll(func(f *flag.Flag) {
		if !strings.Contains(help, "\n  -"+f.Name) {
			t.Errorf("-h does not name -%s", f.Name)
		}
	})
	for name, preset := range map[string]string{
		"dpdk-driver":            "vfio-pci",
		"driver-name":            "qat.intel.com",
		"kubelet-root":           "/var/lib/kubelet",
		"kubelet-dir":            "/var/lib/kubelet/device-plugins",
		"cdi-dir":                "/var/run/cdi",
		"health-interval":        "5s",
		"status-socket":          "/run/qat_dra_driver/status.sock",
		"unhealthy-taint-effect": "NoSchedule",
	} {
		_, rest, _ := strings.Cut(help, "\n  -"+name+" ")
		usage, _, _ := strings.Cut(rest, "\n  -")
		if want := fmt.Sprintf("(default %s)", preset); !strings.HasSuffix(strings.TrimSpace(usage), want) {
			t.Errorf("usage of -%s: %q, want it to end in %q", name, usage, want)
		}
	}
}

func TestVersionIsPrinted(t *testing.T) {
	var stdout strings.Builder
	status := run(t.Context(), []string{"-version"}, &stdout, io.Discard)
	if status != 0 || !strings.HasPrefix(stdout.String(), "qat_dra_driver devel go") {
		t.Errorf("exit status %d, %q", status, stdout.String())
	}
}

// The VFs of a PF that waits to be provisioned work, and its pods may end by themselves.
func TestDevicesOfAWaitingPFDoNotEvictPods(t *testing.T) {
	for cause, want := range map[string]bool{status.ClassWithdrawn: false, "heartbeat": true, "": true} {
		if got := evicts(&devtree.Device{Cause: cause}); got != want {
			t.Errorf("a device with the cause %q evicts pods: %v, want %v", cause, got, want)
		}
	}
}
