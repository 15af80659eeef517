package deployments

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
)

// deadline is for what takes milliseconds, on a machine that is busy.
const deadline = 30 * time.Second

// buildProgram builds the real qat_plugin.
func buildProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qat_plugin")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", path, "./cmd/qat_plugin")
	cmd.Dir = top
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build ./cmd/qat_plugin: %v\n%s", err, out)
	}
	return path
}

// args are the container's arguments with its variables in them, as a kubelet does it.
func (p plugin) args(t testing.TB) []string {
	t.Helper()
	c := p.container(t)
	values := map[string]string{}
	for _, e := range c.Env {
		from := e.ValueFrom.ConfigMapKeyRef
		value, there := p.config.Data[from.Key]
		if from.Name != p.config.Name || !there {
			t.Fatalf("%s is taken from %s in the ConfigMap %s, and there is none", e.Name, from.Key, from.Name)
		}
		values[e.Name] = value
	}
	used := map[string]bool{}
	args := slices.Clone(c.Args)
	for i := range args {
		args[i] = regexp.MustCompile(`\$\(([^)]*)\)`).ReplaceAllStringFunc(args[i], func(reference string) string {
			name := reference[2 : len(reference)-1]
			value, there := values[name]
			if !there {
				t.Fatalf("the argument %s speaks of %s, which is no variable", args[i], name)
			}
			used[name] = true
			return value
		})
	}
	for name := range values {
		if !used[name] {
			t.Errorf("the variable %s is not used", name)
		}
	}
	return args
}

// flags are the arguments by the names of their flags.
func (p plugin) flags(t testing.TB) map[string]string {
	t.Helper()
	flags := map[string]string{}
	for _, arg := range p.args(t) {
		name, value, _ := strings.Cut(arg, "=")
		if _, twice := flags[name]; twice {
			t.Errorf("%s is given twice", name)
		}
		flags[name] = value
	}
	return flags
}

func TestTheProgram(t *testing.T) {
	program := buildProgram(t)
	defaults := defaultsOf(t, program)
	for _, o := range overlays() {
		t.Run(o.name, func(t *testing.T) {
			p := o.plugin(t)
			t.Run("finds its paths mounted", func(t *testing.T) { testMounted(t, p, defaults) })
			t.Run("gets ready with its arguments", func(t *testing.T) { testReady(t, p, program) })
		})
	}
	t.Run("has the defaults that the ConfigMap has", func(t *testing.T) {
		p := overlays()[0].plugin(t)
		want, got := map[string]string{}, map[string]string{}
		for key, name := range map[string]string{
			"DPDK_DRIVER": "-dpdk-driver", "KERNEL_VF_DRIVERS": "-kernel-vf-drivers", "MAX_NUM_DEVICES": "-max-num-devices", "VERBOSITY": "-v",
		} {
			want[key], got[key] = defaults[name], p.flags(t)[name]
		}
		if diff := cmp.Diff(want, p.config.Data); diff != "" {
			t.Errorf("(-defaults of the flags +ConfigMap):\n%s", diff)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-defaults of the flags +arguments):\n%s", diff)
		}
	})
}

// defaultsOf reads what -h says of each flag. It says nothing of a default that is 0, false or empty.
func defaultsOf(t *testing.T, program string) map[string]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, "-h").Output()
	must(t, err)
	defaults, name := map[string]string{}, ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSuffix(line, "\n")
		if flag, ok := strings.CutPrefix(line, "  -"); ok {
			name, _, _ = strings.Cut("-"+flag, " ")
			defaults[name] = "0"
		} else if _, after, ok := strings.Cut(line, "(default "); ok && name != "" {
			defaults[name] = strings.TrimSuffix(after, ")")
		}
	}
	return defaults
}

// testMounted follows each path that the program is told, or has by default, to the place on the host that it should be.
func testMounted(t *testing.T, p plugin, defaults map[string]string) {
	flags := p.flags(t)
	wanted := map[string]string{"-sysfs-root": "/sys", "-dev-root": "/dev", "-kubelet-dir": "/var/lib/kubelet/device-plugins"}
	if flags["-mode"] == "kernel" {
		wanted["-etc-root"], wanted["-adf-ctl"] = "/etc", "/usr/local/bin/adf_ctl"
	}
	if _, uses := flags["-use-cdi"]; uses {
		wanted["-cdi-dir"] = "/var/run/cdi"
	}
	for name, want := range wanted {
		path, given := flags[name]
		if !given {
			path = defaults[name]
		}
		if m, onHost := p.mount(t, path); m == nil || onHost != want {
			t.Errorf("%s=%s is %q of the host, want %s", name, path, onHost, want)
		}
	}
}

// testReady runs the program on a look-alike host in the place of the real one, wherever the pod has its parts mounted, and asks what the
// kubelet's probes ask.
func testReady(t *testing.T, p plugin, program string) {
	host, dir := lookalike.Start(t), t.TempDir()
	kubelet, err := kubelettest.Start(dir)
	must(t, err)
	defer kubelet.Stop()
	must(t, host.LoadDriver("vfio-pci"))
	must(t, host.AddPF(lookalike.PF{Address: "0000:6b:00.0", Services: "sym;asym"}))
	must(t, host.SetVFs("0000:6b:00.0", 2))
	adfCtl := filepath.Join(t.TempDir(), "adf_ctl")
	must(t, os.WriteFile(adfCtl, []byte("#!/bin/sh\n"), 0o700)) // there is no device up
	parts := map[string]string{"/sys": host.Sysfs(), "/dev": host.Dev(), "/etc": t.TempDir(), "/var/run/cdi": t.TempDir(), "/usr/local/bin/adf_ctl": adfCtl}

	args := p.args(t)
	port := containerPort(t, p)
	address := freeAddress(t)
	for i, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		if name == "-health-address" {
			if value != fmt.Sprintf(":%d", port) {
				t.Errorf("%s=%s, but the container's port is %d", name, value, port)
			}
			args[i] = name + "=" + address
		} else if _, onHost := p.mount(t, value); strings.HasPrefix(value, "/") {
			if parts[onHost] == "" {
				t.Fatalf("%s is %q of the host, which has no stand-in here", arg, onHost)
			}
			args[i] = name + "=" + parts[onHost]
		}
	}
	if _, given := p.flags(t)["-dev-root"]; !given {
		args = append(args, "-dev-root="+host.Dev())
	}
	stop := run(t, program, append(args, "-kubelet-dir="+dir)...)
	defer stop()

	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	c := p.container(t)
	for _, path := range []string{c.LivenessProbe.HTTPGet.Path, c.ReadinessProbe.HTTPGet.Path} {
		awaitOK(ctx, t, "http://"+address+path)
	}
}

// containerPort is the one that both probes name.
func containerPort(t *testing.T, p plugin) int32 {
	t.Helper()
	c := p.container(t)
	if len(c.Ports) != 1 || c.LivenessProbe.HTTPGet.Port.StrVal != c.Ports[0].Name || c.ReadinessProbe.HTTPGet.Port.StrVal != c.Ports[0].Name {
		t.Fatalf("the probes ask other ports than the container's: %v", c.Ports)
	}
	return c.Ports[0].ContainerPort
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// run starts the program. stop ends it as a node does when it ends a pod, and checks that it went in peace.
func run(t *testing.T, program string, args ...string) (stop func()) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("qat_plugin ended with %v", err)
			}
		case <-time.After(deadline):
			_ = cmd.Process.Kill()
			t.Errorf("qat_plugin did not end on SIGTERM: %v", <-ended)
		}
		if t.Failed() {
			t.Logf("qat_plugin %s:\n%s", strings.Join(args, " "), &log)
		}
	}
}

// awaitOK asks until the answer is what a probe takes for good.
func awaitOK(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	last := "no answer"
	for ctx.Err() == nil {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		must(t, err)
		if answer, err := client.Do(request); err != nil {
			last = err.Error()
		} else {
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
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Errorf("%s: %s", url, last)
}
