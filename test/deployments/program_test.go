// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// timeout is for steps of the program, which take milliseconds on an idle machine.
const timeout = 30 * time.Second

// programs is the directory of the built programs. TestMain removes it.
var programs string

// buildPrograms builds the programs of both fronts into the directory programs.
var buildPrograms = sync.OnceValue(func() (err error) {
	if programs, err = os.MkdirTemp("", "programs"); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-tags=grpcnotrace",
		"-o", programs+"/", "./cmd/qat_plugin", "./cmd/qat_dra_driver")
	cmd.Dir = top
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
})

// program returns the path of the program that the overlay runs.
func (o overlay) program(t *testing.T) string {
	t.Helper()
	must(t, buildPrograms())
	if o.isDRA() {
		return filepath.Join(programs, "qat_dra_driver")
	}
	return filepath.Join(programs, "qat_plugin")
}

var variable = regexp.MustCompile(`\$\(([^)]*)\)`)

// args returns the arguments of the container, with the variables expanded as the kubelet
// does.
func (p plugin) args(t testing.TB) []string {
	t.Helper()
	c := p.container(t)
	values := map[string]string{}
	for _, e := range c.Env {
		if e.ValueFrom.FieldRef != nil {
			continue // for the program, not for its arguments
		}
		from := e.ValueFrom.ConfigMapKeyRef
		value, ok := p.config.Data[from.Key]
		if from.Name != p.config.Name || !ok {
			t.Fatalf("%s: no key %s in the ConfigMap %s", e.Name, from.Key, from.Name)
		}
		values[e.Name] = value
	}
	used := map[string]bool{}
	args := slices.Clone(c.Args)
	for i, arg := range args {
		args[i] = variable.ReplaceAllStringFunc(arg, func(reference string) string {
			name := strings.Trim(reference, "$()")
			value, ok := values[name]
			if !ok {
				t.Fatalf("argument %s: no variable %s", arg, name)
			}
			used[name] = true
			return value
		})
	}
	for name := range values {
		if !used[name] {
			t.Errorf("variable %s is not used", name)
		}
	}
	return args
}

// flags returns the values of the arguments by the names of their flags.
func (p plugin) flags(t testing.TB) map[string]string {
	t.Helper()
	flags := map[string]string{}
	for _, arg := range p.args(t) {
		name, value, _ := strings.Cut(arg, "=")
		if _, ok := flags[name]; ok {
			t.Errorf("duplicate flag %s", name)
		}
		flags[name] = value
	}
	return flags
}

func TestProgram(t *testing.T) {
	defaults := map[string]map[string]string{} // by program
	forEachOverlay(t, func(t *testing.T, o overlay, p plugin) {
		program := o.program(t)
		if defaults[program] == nil {
			defaults[program] = flagDefaults(t, program)
		}
		t.Run("paths are mounted", func(t *testing.T) { testMounts(t, o, p, defaults[program]) })
		t.Run("becomes ready", func(t *testing.T) {
			if o.isDRA() {
				startDriver(t, o, newHost(t))
			} else {
				testReady(t, o, p)
			}
		})
		if o.feature() == "base" {
			t.Run("ConfigMap has the defaults", func(t *testing.T) { testDefaults(t, o, p, defaults[program]) })
		}
	})
}

// testDefaults checks that the ConfigMap of a base has the defaults of the flags.
func testDefaults(t *testing.T, o overlay, p plugin, defaults map[string]string) {
	keys := map[string]string{
		"DPDK_DRIVER":       "-dpdk-driver",
		"KERNEL_VF_DRIVERS": "-kernel-vf-drivers",
		"MAX_NUM_DEVICES":   "-max-num-devices",
		"HEALTH_INTERVAL":   "-health-interval",
		"VERBOSITY":         "-v",
	}
	if !o.isDRA() {
		keys["ALLOCATION_POLICY"] = "-allocation-policy"
	}
	want, got := map[string]string{}, map[string]string{}
	for key, name := range keys {
		want[key], got[key] = defaults[name], p.flags(t)[name]
		if key == "ALLOCATION_POLICY" {
			want[key] = "" // "0" above, because -h does not show an empty default
		}
	}
	if diff := cmp.Diff(want, p.config.Data); diff != "" {
		t.Errorf("(-defaults of the flags +ConfigMap):\n%s", diff)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-defaults of the flags +arguments):\n%s", diff)
	}
}

// flagDefaults returns the defaults in the output of -h, which omits those that are 0,
// false or empty. They are "0" here.
func flagDefaults(t *testing.T, program string) map[string]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, "-h").Output()
	must(t, err)
	defaults, name := map[string]string{}, ""
	for line := range strings.SplitSeq(string(out), "\n") {
		if flag, ok := strings.CutPrefix(line, "  -"); ok {
			name, _, _ = strings.Cut("-"+flag, " ")
			defaults[name] = "0"
		} else if _, value, ok := strings.Cut(line, "(default "); ok && name != "" {
			defaults[name] = strings.TrimSuffix(value, ")")
		}
	}
	return defaults
}

// testMounts checks that the paths in the flags are mounts of the right paths on the
// host.
func testMounts(t *testing.T, o overlay, p plugin, defaults map[string]string) {
	flags := p.flags(t)
	wants := map[string]string{"-sysfs-root": "/sys", "-dev-root": "/dev"}
	if o.isDRA() {
		wants["-cdi-dir"] = "/var/run/cdi"
		testKubeletPaths(t, p, defaults["-kubelet-root"])
	} else {
		wants["-kubelet-dir"] = "/var/lib/kubelet/device-plugins"
	}
	if m, _ := p.mount(t, defaults["-status-socket"]); m == nil || m.ReadOnly {
		t.Errorf("-status-socket=%s is in no writable mount", defaults["-status-socket"])
	}
	if flags["-mode"] == "kernel" {
		wants["-etc-root"], wants["-adf-ctl"] = "/etc", "/usr/local/bin/adf_ctl"
	}
	if _, ok := flags["-use-cdi"]; ok {
		wants["-cdi-dir"] = "/var/run/cdi"
	}
	if p.provisioning != nil && !o.isDRA() {
		wants["-pod-resources-socket"] = "/var/lib/kubelet/pod-resources/kubelet.sock"
	}
	for name, want := range wants {
		path, ok := flags[name]
		if !ok {
			path = defaults[name]
		}
		if m, onHost := p.mount(t, path); m == nil || onHost != want {
			t.Errorf("%s=%s is %q on the host, want %s", name, path, onHost, want)
		}
	}
}

// testReady runs the program with the arguments of the pod on a look-alike host, and
// requests what the kubelet's probes request.
func testReady(t *testing.T, o overlay, p plugin) {
	host, dir := newHost(t), t.TempDir()
	kubelet, err := kubelettest.Start(dir)
	must(t, err)
	defer kubelet.Stop()
	adfCtl := filepath.Join(t.TempDir(), "adf_ctl")
	const noDevice = "echo 'There is 0 QAT acceleration device(s) in the system:'\n"
	must(t, os.WriteFile(adfCtl, []byte("#!/bin/sh\n"+noDevice), 0o700))
	standIns := map[string]string{ // by path on the host, or in the container if it is not of the host
		"/sys":                   host.Sysfs(),
		"/dev":                   host.Dev(),
		"/etc":                   t.TempDir(),
		"/var/run/cdi":           t.TempDir(),
		"/usr/local/bin/adf_ctl": adfCtl,
	}
	args, health, status := p.argsOn(t, standIns)
	if _, ok := p.flags(t)["-dev-root"]; !ok {
		args = append(args, "-dev-root="+host.Dev())
	}
	stop := startProgram(t, o.program(t), nil, append(args, "-kubelet-dir="+dir)...)
	defer stop()
	awaitReady(t, p, health, status)
}

// newHost returns a host with two VFs.
func newHost(t *testing.T) *lookalike.Host {
	t.Helper()
	host := lookalike.Start(t)
	must(t, host.LoadDriver("vfio-pci"))
	must(t, host.AddPF(lookalike.PF{Address: "0000:6b:00.0", Services: "sym;asym"}))
	must(t, host.SetVFs("0000:6b:00.0", 2))
	return host
}

// argsOn returns the arguments of the pod with stand-ins for the host: by path on the host, or in
// the container if the path is not of the host. health is the address for the probes, and status
// that of the status page; "" if it is off.
func (p plugin) argsOn(t *testing.T, standIns map[string]string) (args []string, health, status string) {
	t.Helper()
	if p.provisioning != nil {
		files := t.TempDir()
		for name, text := range p.provisioning.Data {
			must(t, os.WriteFile(filepath.Join(files, name), []byte(text), 0o600))
		}
		standIns[provisioningDir] = files
	}
	args = p.args(t)
	c := p.container(t)
	port := fmt.Sprintf(":%d", probedPort(t, p))
	health = freeAddress(t)
	for i, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		if name == "-health-address" {
			if value != port {
				t.Errorf("%s=%s, but the probes use port %s", name, value, port)
			}
			args[i] = name + "=" + health
		} else if name == "-http-address" {
			if port := fmt.Sprintf(":%d", namedPort(t, c, "http")); value != port {
				t.Errorf("%s=%s, but the container's port http is %s", name, value, port)
			}
			status = freeAddress(t)
			args[i] = name + "=" + status
		} else if strings.HasPrefix(value, "/") {
			_, onHost := p.mount(t, value)
			if onHost == "" {
				onHost = value
			}
			if standIns[onHost] == "" {
				t.Fatalf("%s is %q on the host, which has no stand-in here", arg, onHost)
			}
			args[i] = name + "=" + standIns[onHost]
		}
	}
	return args, health, status
}

// awaitReady requests what the kubelet's probes request, and the metrics if they are on.
func awaitReady(t *testing.T, p plugin, health, status string) {
	t.Helper()
	c := p.container(t)
	awaitOK(t, "http://"+health+c.LivenessProbe.HTTPGet.Path)
	awaitOK(t, "http://"+health+c.ReadinessProbe.HTTPGet.Path)
	if status != "" {
		awaitOK(t, "http://"+status+"/metrics")
	}
}

// probes returns the probes of a container by name.
func probes(c *corev1.Container) map[string]*corev1.Probe {
	return map[string]*corev1.Probe{
		"startup":   c.StartupProbe,
		"liveness":  c.LivenessProbe,
		"readiness": c.ReadinessProbe,
	}
}

// probedPort returns the port of the container that all probes use.
func probedPort(t *testing.T, p plugin) int32 {
	t.Helper()
	c := p.container(t)
	for name, probe := range probes(c) {
		if probe.HTTPGet.Port.StrVal != "health" {
			t.Fatalf("the %s probe does not use the port health", name)
		}
	}
	return namedPort(t, c, "health")
}

func namedPort(t *testing.T, c *corev1.Container, name string) int32 {
	t.Helper()
	i := slices.IndexFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("no port %s in %v", name, c.Ports)
	}
	return c.Ports[i].ContainerPort
}

// TestProbeTimeoutsExceedCheckTimeout: the kubelet discards the answer of a probe that it
// has given up, and with it the reason of a failed check.
func TestProbeTimeoutsExceedCheckTimeout(t *testing.T) {
	match := findInSource(t, "kubeletapi/probe/server.go", `checkTimeout = (\d+) \* time\.Second`, 1)[0]
	seconds, err := strconv.Atoi(match[1])
	must(t, err)
	forEachOverlay(t, func(t *testing.T, _ overlay, p plugin) {
		for name, probe := range probes(p.container(t)) {
			if int(probe.TimeoutSeconds) <= seconds {
				t.Errorf("the %s probe waits %d s, an answer may take %d s", name, probe.TimeoutSeconds, seconds)
			}
		}
	})
}

// TestPluginMayHangForTwoMinutes: while a VF that a workload holds is being removed, the
// kernel blocks reads of the device for seconds, or until the workload releases it. A
// restarted plugin would only wait, too.
func TestPluginMayHangForTwoMinutes(t *testing.T) {
	forEachOverlay(t, func(t *testing.T, _ overlay, p plugin) {
		c := p.container(t)
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe} {
			seconds := probe.PeriodSeconds * probe.FailureThreshold
			if seconds < 120 || probe.HTTPGet.Path != "/livez" {
				t.Errorf("%d s without an answer of %s restart the plugin, want at least 120 s and /livez",
					seconds, probe.HTTPGet.Path)
			}
		}
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// startProgram starts the program with additional variables in its environment. stop ends it with
// SIGTERM, as the kubelet does, and checks that it exits with status 0.
func startProgram(t *testing.T, program string, env []string, args ...string) (stop func()) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", filepath.Base(program), err)
			}
		case <-time.After(timeout):
			_ = cmd.Process.Kill()
			t.Errorf("%s did not exit on SIGTERM: %v", filepath.Base(program), <-ended)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", cmd, &log)
		}
	}
}

// awaitOK waits until a URL answers with status 200.
func awaitOK(t *testing.T, url string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: timeout}
	last := ""
	for end := time.Now().Add(timeout); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		answer, err := client.Get(url)
		if err != nil {
			last = err.Error()
			continue
		}
		body, _ := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return
		}
		last = fmt.Sprintf("%s\n%s", answer.Status, body)
		if answer.StatusCode == http.StatusNotFound {
			break
		}
	}
	t.Errorf("%s: %s", url, last)
}
